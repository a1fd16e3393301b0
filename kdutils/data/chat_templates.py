"""Questions and answers in the chat template of a model's tokenizer."""

import datetime
import re

import jinja2
from transformers import PreTrainedTokenizerBase

from kdutils.data.model_files import ModelError

TODAY = re.compile(r"""strftime_now\((["'])(.*?)\1\)""")  # some templates name the day
CHAT_DAY = datetime.date(2024, 7, 26)  # what we say instead: a prompt is the same every day


def chat_text(tokenizer: PreTrainedTokenizerBase, *messages: str, add_generation_prompt: bool = False) -> str:
    """A chat, the user's message first, in the tokenizer's template: without thinking, always on one day.

    Where the template begins an answer with thinking whatever it is told, that is closed again.
    """
    chat = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(messages)]
    template = tokenizer.get_chat_template()
    text = tokenizer.apply_chat_template(
        chat,
        chat_template=TODAY.sub(lambda found: repr(CHAT_DAY.strftime(found[2])), template),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,  # Qwen3, SmolLM3
        thinking=False,  # Granite, DeepSeek
        date_string=CHAT_DAY.strftime("%d %b %Y"),  # Llama 3
    )
    is_open = add_generation_prompt and "<think>" in text and "</think>" not in text.rpartition("<think>")[2]
    return text.rstrip() + "\n\n</think>\n\n" if is_open else text


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token with which the chat template ends an answer; None if it ends it with none.

    Raises:
        ValueError: if it changes the answer, or ends it with what the tokenizer does not know.
    """
    _, answer, rest = chat_text(tokenizer, "1 + 2", "three").rpartition("three")
    if not answer:
        raise ValueError("it changes the text of an answer")
    first = tokenizer(rest.strip(), add_special_tokens=False)["input_ids"][:1]
    if first and first[0] == tokenizer.unk_token_id:
        raise ValueError(f"its end of an answer, {rest.strip()[:20]!r}, is unknown to the tokenizer")
    known = set(first) & set(tokenizer.added_tokens_decoder)
    return tokenizer.convert_ids_to_tokens(first[0]) if known else None


def end_answers_as_in_chats(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make what ends an answer in the tokenizer's chat template its EOS.

    Raises:
        ModelError: if it has no template, or one that takes no question and answer.
    """
    remedy = "use prompt='alpaca', or an instruct model"
    if not tokenizer.chat_template:
        raise ModelError(f"{name} has no chat template, which prompt='chat' needs: {remedy}")
    try:
        if "1 + 2" not in chat_text(tokenizer, "1 + 2", add_generation_prompt=True):
            raise ValueError("it leaves out the question")
        tokenizer.eos_token = end_of_turn(tokenizer) or tokenizer.eos_token
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ModelError(
            f"the chat template of {name} takes no question and answer ({error}): {remedy}"
        ) from error
