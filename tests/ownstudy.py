"""A study file with two tasks that the package does not know, made of numbers."""

import json
import random
from pathlib import Path

STUDY = """\
title = "Legs and largest"
summary = "Two tasks of one's own, one mini pair."
sources = ["live"]
notebooks = {notebooks}

[live]
models = ["mini-qwen-0.5B", "mini-qwen-3B"]
sft_seeds = [0]
items_per_task = 60
train_items = 48
validation_items = 8
epochs = 1
batch_size = 16
ranks = true

[live.evaluation]
max_new_tokens = 12

[[live.needs]]
sections = {sections}
methods = ["fkl"]
domains = ["counting"]
factors = ["prompt"]

[[live.needs]]
sections = ["12"]
methods = ["fkl"]
domains = ["counting"]
evaluations = [{{ temperature = [0.0, 1.0] }}]

[[live.needs]]
sections = ["13", "14"]
methods = ["fkl"]
domains = ["counting"]
evaluations = [
    {{ scoring = ["generation", "likelihood", "label"] }},
    {{ scoring = "label", rotation = [1, 2] }},
]

[tasks.legs]
items = "legs.jsonl"
answer = "number"

[tasks.largest]
items = "largest.csv"
answer = "letter"
choices = 3

[domains.counting]
train = "train.jsonl"
tasks = ["legs", "largest"]
"""


def legs(rng: random.Random, number: int) -> dict[str, str]:
    birds, dogs = rng.sample(range(1, 12), 2)
    question = f"There are {birds} birds and {dogs} dogs. How many legs are there? ({number})"
    return {"id": f"legs-{number}", "task": "legs", "question": question, "answer": str(2 * birds + 4 * dogs)}


def largest(rng: random.Random, number: int) -> dict[str, str]:
    values = rng.sample(range(10, 100), 3)
    choices = " ".join(f"({label}) {value}" for label, value in zip("ABC", values, strict=True))
    question = f"Which is the largest? ({number}) Answer Choices: {choices}"
    answer = "ABC"[values.index(max(values))]
    return {"id": f"largest-{number}", "task": "largest", "question": question, "answer": answer}


def write_study(folder: Path, *, notebooks: list[str], sections: list[str]) -> Path:
    """The study file in `folder`, beside 60 items of each task and 56 to train on."""
    rng = random.Random(7)
    items = {kind.__name__: [kind(rng, number) for number in range(88)] for kind in (legs, largest)}
    rows = [f'{each["id"]},"{each["question"]}",{each["answer"]}\n' for each in items["largest"][:60]]
    (folder / "largest.csv").write_text("".join(["id,question,answer\n", *rows]))
    train = [each for pair in zip(items["legs"][60:], items["largest"][60:], strict=True) for each in pair]
    for name, records in {"legs": items["legs"][:60], "train": train}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    path = folder / "legs_and_largest.toml"
    path.write_text(STUDY.format(notebooks=json.dumps(notebooks), sections=json.dumps(sections)))
    return path
