"""Every build of one mini model: what it costs before any training, what it stores, how it is read back.

`python tests/buildtable.py` prints the table of kdutils/builds/README.md.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch
from adaptertable import error, is_cached_right, logits_of, shown

from kdutils import encoding, models
from kdutils.adapters import facts, trainable
from kdutils.builds import built, connectivity
from kdutils.constants import BUILDS, DOMAIN_TASKS
from kdutils.data import sources
from kdutils.models import LoadedModel
from kdutils.spec import EvalSpec, RunSpec

STUDENT, NARROW = "mini-qwen-3B", "mini-qwen-0.5B"
EVALUATION = EvalSpec(tasks=DOMAIN_TASKS["math"], items_per_task=50)


def compression_to_store(n: int, model: LoadedModel) -> float:
    """At which the model stores n parameters."""
    in_layers = sum(layer.weight.numel() for layer in built.linear_layers(model.causal).values())
    return in_layers / (n - model.causal.num_parameters() + in_layers)


def row(spec: RunSpec) -> str:
    items, held_out = sources.load_items(spec, "train"), sources.test_items(spec, EVALUATION)
    student = built.build(models.load(spec.student, trains_all=True), spec, items=items)
    student = trainable.make_trainable(student, spec, seed=0)
    loss = connectivity.scores(student, held_out, spec).nll
    prompts = encoding.prompt_ids([item.question for item in held_out[:4]], student.tokenizer)
    ids_BT = torch.tensor([ids[:12] for ids in prompts])
    with tempfile.TemporaryDirectory() as name:
        trainable.stored(student).save_pretrained(Path(name))
        if spec.stores_whole_model:
            network = type(student.causal).from_pretrained(name).eval()
            again = LoadedModel(spec.student, network, student.tokenizer, student.policy)
        else:
            again = trainable.loaded(models.load(spec.student), spec, Path(name))
        stored = facts.of_storage(student, Path(name))
    reload = error(logits_of(again, ids_BT), logits_of(student, ids_BT))
    numbers = (facts.of_training(student, 0)["trainable"], *stored.values())
    sizes = " | ".join(f"{n:,}" for n in numbers)
    cached = "yes" if is_cached_right(again, prompts) else "NO"
    label = BUILDS.get(spec.student_build, "as it is")
    return f"| {label} | {spec.build_compression:.2f} | {loss:.3f} | {sizes} | {shown(reload)} | {cached} |"


def main() -> None:
    plain = RunSpec(student=STUDENT, method="sft", domain="math", train_items=1_000)
    narrow = dataclasses.replace(plain, student=NARROW)
    n = models.load(NARROW).causal.num_parameters()
    least = compression_to_store(n, models.load(STUDENT))
    print("| build | compression | loss, nats | trainable | stored | file, bytes | reload | cached |")
    print("|---|--:|--:|--:|--:|--:|--:|---|")
    print(row(plain))
    for compression in (2.0, 3.0, 4.0, least):
        divides = compression in (2.0, 4.0)  # the four layers
        builds = [name for name in BUILDS if divides or not name.startswith("hybrid")]
        for build in builds:
            print(row(dataclasses.replace(plain, student_build=build, build_compression=compression)))
    print(row(narrow).replace("as it is", f"{NARROW}, as it is"))
    converted = dataclasses.replace(narrow, student_build="hybrid", build_compression=4.0)
    print(row(converted).replace("| L", f"| {NARROW}, l", 1))


if __name__ == "__main__":
    main()
