"""The factors in which the protocols differ.

Some are of a training or of a decoding, so that there are runs to make (RUN_FACTORS); two are of what is done
with finished runs: which temperature stands for a method, and how an answer is read from a text. All at once
are the authors' protocol: the same losses, bit for bit, wherever no item is too long.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from kdutils.constants import BY_SEQUENCE
from kdutils.grid.study import TOGETHER, PlannedRun

SAMPLES = 3  # texts an item at temperature 1: their mean says what sampling does, their spread how noisily


class Factor(NamedTuple):
    """One thing that protocol `paper` does otherwise than `careful`."""

    label: str
    meaning: str  # against `careful`
    training: Mapping[str, Any] = {}  # fields of the RunSpec
    evaluation: Mapping[str, Any] = {}  # fields of the EvalSpec


FACTORS = {
    "prompt": Factor(
        "prompt tokens in the loss",
        "student and teacher are trained on the question's tokens, too, not on the response alone",
        training={"prompt_in_loss": True},
    ),
    "sequences": Factor(
        "mean by sequence",
        "each sequence weighs the same in a step, not each token; KL methods alone, so not SFT and not GKD",
        training={"mean_by_sequence": True},
    ),
    "sampling": Factor(
        "sampled decoding",
        f"texts are sampled at temperature 1, not greedy; the mean of {SAMPLES} texts an item",
        evaluation={"temperature": 1.0, "samples": SAMPLES},
    ),
    "selection": Factor(
        "temperature chosen on test",
        "the divergence's best temperature of each task on the very items that are scored, not 1",
    ),
    "extraction": Factor(
        "lenient reading",
        "an answer is the last number, first letter or first keyword anywhere, not what stands where the "
        "response format puts it",
    ),
}


def with_factor(run: PlannedRun, name: str) -> PlannedRun | None:
    """A `careful` run with one factor as the authors have it, or `together` all; None where nothing changes.

    Its teacher is not evaluated so for it: nothing is compared with that.
    """
    chosen = FACTORS.values() if name == TOGETHER else [FACTORS[name]]
    training = {key: value for each in chosen for key, value in each.training.items()}
    if run.spec.method not in BY_SEQUENCE:
        training.pop("mean_by_sequence", None)
    evaluation = {key: value for each in chosen for key, value in each.evaluation.items()}
    if run.spec.method == "base" or not training | evaluation:
        return None
    made = replace(run.spec, **training), replace(run.evaluation, **evaluation)
    return PlannedRun(*made, beside_teacher=not evaluation)
