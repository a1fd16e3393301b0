"""Every adapter: how much is trained and stored, and how exactly it is read, merged, disabled and decoded.

`python tests/adaptertable.py` trains mini students for a few steps and prints the table of
kdutils/adapters/README.md; tests/adapters/test_adapters.py holds the same of tiny ones.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from kdutils import encoding, generation, models, training
from kdutils.adapters import facts, trainable
from kdutils.constants import ADAPTERS, MASKS
from kdutils.data import sources
from kdutils.models import LoadedModel, ModelError
from kdutils.spec import RunSpec

BUDGETS = {"shadow": 20_000}  # its least is some 16,000
BUDGET = 9_000


@dataclass
class Row:
    """Largest differences of logits; None where there is no such thing."""

    trainable: int
    file_bytes: int
    start: float  # before training, from the model as it is
    reload: float
    merge: float | None
    disabled: float | None  # from the model as it is
    cached: bool  # greedy texts with the cache are those without it


@torch.no_grad()
def logits_of(student: LoadedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    return student.head.logits(student.hidden_states(ids_BT)).float()


def error(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max())


def is_cached_right(student: LoadedModel, prompts: list[list[int]]) -> bool:
    """Whether each token is the likeliest after all before it, read in one pass."""
    for prompt, text in zip(prompts, generation.generate(student, prompts, max_new_tokens=8), strict=True):
        ids = torch.tensor([prompt + text.token_ids])
        likeliest = logits_of(student, ids)[0, len(prompt) - 1 : -1, : student.vocabulary_size].argmax(-1)
        if likeliest.tolist() != text.token_ids:
            return False
    return True


def row(spec: RunSpec) -> Row:
    """Of a student that is trained as the spec says, by SFT."""
    items = sources.load_items(spec, "train")
    base = models.load(spec.student, trains_all=spec.adapter == "full")
    prompts = encoding.prompt_ids([item.question for item in items[:4]], base.tokenizer)
    ids_BT = torch.tensor([ids[:12] for ids in prompts])
    plain = logits_of(base, ids_BT)
    student = trainable.make_trainable(base, spec, seed=spec.seed, items=items)
    start = error(logits_of(student, ids_BT), plain)
    outcome = training.train(student, items, spec, rate=spec.peak_rate)
    trained, told = logits_of(student, ids_BT), facts.of_training(student, outcome.steps)
    disabled = None
    if hasattr(student.network, "disable_adapter") and spec.adapter not in MASKS:
        with student.network.disable_adapter():
            disabled = error(logits_of(student, ids_BT), plain)
    with tempfile.TemporaryDirectory() as name:
        trainable.stored(student).save_pretrained(Path(name))
        n_bytes = facts.file_bytes(Path(name))
        torch.manual_seed(7)
        if spec.adapter == "full":
            network = type(student.causal).from_pretrained(name).eval()
            again = LoadedModel(spec.student, network, student.tokenizer, student.policy)
        else:
            again = trainable.loaded(models.load(spec.student), spec, Path(name))
        reload, merge = error(logits_of(again, ids_BT), trained), None
        with contextlib.suppress(ModelError), torch.no_grad():
            merge = error(trainable.merged(again)(input_ids=ids_BT).logits.float(), trained)
    return Row(told["trainable"], n_bytes, start, reload, merge, disabled, is_cached_right(student, prompts))


def mini_spec(student: str, adapter: str) -> RunSpec:
    budget = None if adapter == "full" else BUDGETS.get(adapter, BUDGET)
    short = {"train_items": 64, "validation_items": 0, "epochs": 1, "batch_size": 16, "learning_rate": 3e-3}
    dropout = {"lora_dropout": 0.0} if adapter == "lora" else {}
    how = short | dropout | {"adapter": adapter, "adapter_parameters": budget, "weight_decay": 0.0}
    return RunSpec(student=student, method="sft", domain="math", **how)


def shown(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.0e}"


def main() -> None:
    print("| adapter | student | trainable | file, bytes | start | reload | merge | disabled | cached |")
    print("|---|---|--:|--:|--:|--:|--:|--:|---|")
    for adapter, entry in ADAPTERS.items():
        for student in ("mini-qwen-0.5B", "mini-llama-1B"):
            own = row(mini_spec(student, adapter))
            errors = " | ".join(map(shown, (own.start, own.reload, own.merge, own.disabled)))
            sizes = f"{own.trainable:,} | {own.file_bytes:,}"
            print(f"| {entry.label} | {student} | {sizes} | {errors} | {'yes' if own.cached else 'NO'} |")


if __name__ == "__main__":
    main()
