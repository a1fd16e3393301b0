"""Forty inputs that cannot be right, in models, pairs, items and specs: each is refused before any work.

`python tests/core/test_bad_inputs.py` prints the message that each gets, and after how many seconds.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import kdutils
from kdutils.data.model_files import ModelError
from kdutils.items import DataError

REFUSED = (ModelError, DataError, ValueError)
ITEM = {"id": "a", "task": "gsm8k", "question": "1 + 2?", "answer": "3"}


class Folder:
    """A student, a teacher and their items, for a case to spoil."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"
        self.student, self.teacher = root / "student-20k", root / "teacher-40k"
        tiny.save_study(root / "study")
        for name, place in (("tiny-20k", self.student), ("tiny-40k", self.teacher), ("data", self.data)):
            shutil.move(root / "study" / name, place)

    def run(self, evaluation=tiny.EVALUATION, **fields):
        """A run of the student by its teacher; what is asked for is spoilt by `fields`."""
        own = {"method": "fkl", "teacher": str(self.teacher)} | fields
        student = own.pop("student", str(self.student))
        evaluation = (
            evaluation if isinstance(evaluation, kdutils.EvalSpec) else kdutils.EvalSpec(**evaluation)
        )
        kdutils.run(
            tiny.spec(student, own.pop("data", str(self.data)), **own), out=self.out, evaluation=evaluation
        )

    @property
    def out(self) -> Path:
        return self.root / "out"

    def write(self, *lines: str | bytes | dict, split: str = "train") -> None:
        """These lines for a split; a dict is an item with these values."""
        encoded = [line if isinstance(line, bytes) else line.encode() for line in map(_line, lines)]
        (self.data / f"{split}.jsonl").write_bytes(b"\n".join(encoded))

    def change(self, place: Path, file: str, **values) -> None:
        """Values of a JSON file of a model."""
        path = place / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def tokens(self, **values) -> None:
        """Values of the teacher's tokenizer.json."""
        self.change(self.teacher, "tokenizer.json", **values)

    def network(self, network) -> None:
        """Another network for the student, with its tokenizer."""
        for path in self.student.glob("*"):
            if path.name in ("config.json", "model.safetensors"):
                path.unlink()
        network.save_pretrained(self.student)

    def gpt2(self, positions: int) -> None:
        """A student with that many learned positions."""
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 80, "n_positions": positions}
        self.network(GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, bos_token_id=0)))

    def kind(self, kind: str, **values) -> None:
        """A student of that architecture."""
        sizes = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 2, "eos_token_id": 0}
        config = AutoConfig.for_model(kind, **sizes | {"max_position_embeddings": 256} | values)
        self.network(AutoModelForCausalLM.from_config(config))

    def template(self, text: str) -> None:
        """A chat template of the student."""
        self.change(self.student, "tokenizer_config.json", chat_template=text)


def _line(line: str | bytes | dict) -> str | bytes:
    if not isinstance(line, dict):
        return line
    return json.dumps({key: value for key, value in (ITEM | line).items() if value is not None})


def chat(*roles: str) -> dict:
    return {"question": None, "messages": [{"role": role, "content": "x"} for role in roles]}


def cut(path: Path, n: int) -> None:
    path.write_bytes(path.read_bytes()[:n])


def pickled(at: Folder) -> None:
    (at.student / "model.safetensors").unlink()
    torch.save({}, at.student / "pytorch_model.bin")


def adapter_beside(at: Folder) -> None:
    (at.student / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (at.student / "adapter_model.safetensors").write_bytes(b"")


Case = tuple[Callable[[Folder], object] | None, dict, str]  # what is spoilt, what is asked for, what is said
CASES: dict[str, Case] = {
    # models
    "an unknown name": (None, {"student": "qwen"}, "unknown model 'qwen'"),
    "no GGUF file": (None, {"student": "/no/such.gguf"}, "GGUF file /no/such.gguf is missing"),
    "no config": (lambda at: (at.student / "config.json").unlink(), {}, "has no config.json"),
    "half of the weights": (lambda at: cut(at.student / "model.safetensors", 999), {}, "fetch it again"),
    "pickled weights": (pickled, {}, "without weights in safetensors"),
    "an unknown architecture": (
        lambda at: at.change(at.student, "config.json", model_type="qwen9"),
        {},
        "qwen9",
    ),
    "no tokenizer": (lambda at: [p.unlink() for p in at.student.glob("tok*")], {}, "no tokenizer that knows"),
    "no EOS": (lambda at: at.change(at.student, "tokenizer_config.json", eos_token=None), {}, "no EOS token"),
    "an adapter beside the model": (adapter_beside, {}, "merge"),
    "positions for no item": (
        lambda at: at.gpt2(16),
        {"method": "sft", "teacher": None},
        "16 learned positions",
    ),
    "positions for no answer": (
        lambda at: at.gpt2(64),
        {"method": "sft", "teacher": None, "evaluation": {"tasks": ("addsub",), "max_new_tokens": 64}},
        "has 64 learned positions",
    ),
    "an architecture that is not asked": (
        lambda at: at.kind("bart", d_model=32, decoder_layers=1, decoder_attention_heads=2),
        {"method": "sft", "teacher": None},
        "cannot ask a model of type bart",
    ),
    "LoRA on experts": (
        lambda at: at.kind("mixtral", num_local_experts=2),
        {"method": "sft", "teacher": None, "adapter": "lora"},
        "adapter='full'",
    ),
    # pairs
    "two vocabularies": (
        lambda at: tiny.save_model(at.teacher, extra=("cat",)),
        {},
        "different vocabularies",
    ),
    "two ends of text": (
        lambda at: at.change(at.teacher, "tokenizer_config.json", eos_token="<pad>"),
        {},
        "ends texts with '<eos>'",
    ),
    "two cuts of a text": (
        lambda at: at.tokens(pre_tokenizer={"type": "WhitespaceSplit"}),
        {},
        "make other tokens",
    ),
    "no teacher": (None, {"teacher": None}, "needs a teacher"),
    "a teacher for SFT": (None, {"method": "sft"}, "has no teacher"),
    # chats
    "no chat template": (None, {"prompt": "chat"}, "has no chat template"),
    "a template that is none": (
        lambda at: at.template("{% if %}"),
        {"prompt": "chat"},
        "takes no question and answer",
    ),
    "a template without question": (
        lambda at: at.template("hello"),
        {"prompt": "chat"},
        "leaves out the question",
    ),
    "an unknown prompt": (None, {"prompt": "vicuna"}, "prompt='vicuna' must be"),
    "several turns": (lambda at: at.write(chat("user", "assistant", "user")), {}, "an item of each turn"),
    "no user": (lambda at: at.write(chat("assistant")), {}, "must be one user message"),
    # items
    "an answer that is no number": (
        lambda at: at.write({"answer": "nan"}),
        {},
        "answer='nan' is not as gsm8k",
    ),
    "an answer that is no option": (
        lambda at: at.write({"task": "aqua", "answer": "F"}),
        {},
        "'F' is not as aqua",
    ),
    "an answer that is no text": (lambda at: at.write({"answer": 3}), {}, "answer is missing or not text"),
    "a response without answer": (
        lambda at: at.write({"response": "#### 3"}),
        {"train_items": 1},
        "end it with 'The answer is 3.'",
    ),
    "an unknown task": (lambda at: at.write({"task": "gsm9k"}), {}, "unknown task 'gsm9k'"),
    "no JSON": (lambda at: at.write("id,question"), {}, "line 1: not JSON"),
    "no UTF-8": (lambda at: at.write(b'{"id": "\xff"}'), {}, "line 1: not UTF-8"),
    "one id twice": (lambda at: at.write({}, {}), {}, "id 'a' stands there twice"),
    "one key twice": (lambda at: at.write('{"id": "a", "id": "b"}'), {}, "key 'id' stands there twice"),
    "half a character": (
        lambda at: at.write(r'{"id": "a", "task": "gsm8k", "question": "\ud800", "answer": "3"}'),
        {},
        "holds half a character",
    ),
    "no such file": (lambda at: (at.data / "validation.jsonl").unlink(), {}, "validation.jsonl is missing"),
    "too few items": (None, {"train_items": 99}, "train_items=99, but .* holds 24"),
    "an item too long": (None, {"max_tokens": 12}, "more than max_tokens=12"),
    # what is asked for
    "options of a free answer": (
        None,
        {"evaluation": {"tasks": ("addsub",), "scoring": "likelihood"}},
        "has no options to rank",
    ),
    "no items of a task": (None, {"evaluation": {"tasks": ("boolq",)}}, "no test items of task 'boolq'"),
    "more devices than rows": (None, {"devices": 9}, "devices=9 is more than the 8 rows"),
}


def refusal(case: Case, root: Path) -> tuple[str, float]:
    """What a case is told, and after how many seconds."""
    spoil, asked, _ = case
    at = Folder(root)
    if spoil is not None:
        spoil(at)
    started = time.monotonic()
    with pytest.raises(REFUSED) as caught:
        at.run(**asked)
    assert not (at.out / "runs").exists(), "work was begun"
    return str(caught.value), time.monotonic() - started


def test_there_are_forty():
    assert len(CASES) == 40


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_before_any_work(name, tmp_path):
    message, _ = refusal(CASES[name], tmp_path)
    assert "\n" not in message
    assert re.search(CASES[name][2], message)


def main() -> None:
    """Print every case's message and seconds."""
    for number, (name, case) in enumerate(CASES.items(), start=1):
        with tempfile.TemporaryDirectory() as root:
            message, seconds = refusal(case, Path(root))
            print(f"{number:2} {seconds:4.1f} s  {name}: {message.replace(root, '')}")


if __name__ == "__main__":
    sys.exit(main())
