"""Rows of models that are asked for labels, with biases and knowledge that a test writes down."""

import itertools

import numpy as np
import pandas as pd

from kdutils.results import label_bias

LABELS = {
    "piqa": ["solution1", "solution2"],
    "boolq": ["true", "false"],
    "obqa": [f"answer{n}" for n in "1234"],
}


def rows_of(method, prior, knows, *, student="mini-s-1k", teacher="", task="piqa", seed=0, n=40, noise=None):
    """A model that adds the label's `prior` to `knows` nats for the right option, in every order."""
    labels = LABELS[task]
    found = []
    for number, rotation in itertools.product(range(n), range(1 if task == "boolq" else len(labels))):
        contents = [(place + rotation) % len(labels) for place in range(len(labels))]
        gold = contents.index(number % len(labels))
        scores = np.array(prior[: len(labels)], float)
        scores[gold] += knows if np.isscalar(knows) else knows[number]
        if noise is not None:
            scores += noise[number][contents]
        where = {"task": task, "item_id": f"{task}-{number}", "rotation": rotation, "contents": contents}
        found.append(
            where | {"options": labels, "logprobs": list(scores - 3.0), "answer": labels[gold], "sample": 0}
        )
    run = {"run_id": f"{student} {method} {teacher} {seed}", "domain": "commonsense", "student": student}
    run |= {"teacher": teacher or None, "method": method, "seed": seed, "scoring": "label"}
    return pd.DataFrame(found).assign(**run)


def of_a_pair(*kd, sft=((1.0, 0.0, 0.0, 0.0), 0.5), teacher=((0.0, 0.0, 0.0, 0.0), 3.0), **own):
    parts = [rows_of("base", sft[0], 0.0, **own), rows_of("sft", *sft, **own)]
    parts.append(rows_of("sft", *teacher, student="mini-s-3k", **own))
    parts += [rows_of(method, *model, teacher="mini-s-3k", **own) for method, *model in kd]
    return label_bias.of_labels(pd.concat(parts, ignore_index=True))


def drawn(rows):
    return label_bias.resampled(label_bias.compared(rows), rng=np.random.default_rng(0))
