"""Questions and answers in the chat template of a model's tokenizer."""

from __future__ import annotations

import datetime
import re

import jinja2
from transformers import PreTrainedTokenizerBase

from kdutils.data.model_files import ModelError

TODAY = re.compile(r"""strftime_now\((["'])(.*?)\1\)""")  # some templates name the day
CHAT_DAY = datetime.date(2024, 7, 26)  # what we say instead: a prompt is the same every day


def chat_text(tokenizer: PreTrainedTokenizerBase, *messages: str, add_generation_prompt: bool = False) -> str:
    """A chat, the user's message first, in the tokenizer's template: without thinking, always on one day."""
    chat = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(messages)]
    template = tokenizer.get_chat_template()
    return tokenizer.apply_chat_template(
        chat,
        chat_template=TODAY.sub(lambda found: repr(CHAT_DAY.strftime(found[2])), template),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,  # Qwen3, SmolLM3
        thinking=False,  # Granite, DeepSeek
        date_string=CHAT_DAY.strftime("%d %b %Y"),  # Llama 3
    )


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token with which the chat template ends an answer; None if it ends it with none."""
    rest = chat_text(tokenizer, "1 + 2", "three").rpartition("three")[2]
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"][:1]
    return tokenizer.convert_ids_to_tokens(ids[0]) if set(ids) & set(tokenizer.added_tokens_decoder) else None


def end_answers_as_in_chats(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make what ends an answer in the tokenizer's chat template its EOS.

    Raises:
        ModelError: if it has no template, or one that takes no question and answer.
    """
    remedy = "use prompt='alpaca', or an instruct model"
    if not tokenizer.chat_template:
        raise ModelError(f"{name} has no chat template, which prompt='chat' needs: {remedy}")
    try:
        text, end = chat_text(tokenizer, "1 + 2", add_generation_prompt=True), end_of_turn(tokenizer)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ModelError(f"the chat template of {name} takes no question ({error}): {remedy}") from error
    if "1 + 2" not in text:
        raise ModelError(f"the chat template of {name} leaves out the question: {remedy}")
    tokenizer.eos_token = end or tokenizer.eos_token
