"""The ways from a pair to accuracies in which the protocols differ, and what each gives a question."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdutils import store
from kdutils.constants import DOMAINS, KD_METHODS, TOGETHER
from kdutils.data import sources
from kdutils.grid.cell_table import short_name
from kdutils.grid.factors import FACTORS
from kdutils.grid.plan import Plan
from kdutils.spec import BY_SEQUENCE, LOGIT_METHODS, RunSpec

SETTING = ["domain", "teacher", "student", "method", "temperature", "seed", "prompt", "sequences", "sampled"]
ITEM = ["task", "item_id"]


@dataclass(frozen=True)
class Arm:
    """One way of getting from a pair to accuracies; by default `careful` with what it leaves open."""

    label: str = "careful"
    prompt: bool = False  # in the loss
    sequences: bool = False  # each weighs the same, in the methods of BY_SEQUENCE
    sampled: bool = False
    lenient: bool = False  # how an answer is read
    choice: str = (
        ""  # of the temperature, of each task: on the `test` items, on the `other` half; "": it is 1
    )
    seed: int = 0

    def touches(self, method: str) -> bool:
        """Whether it has an effect on a method at all."""
        only = replace(self, sequences=False, choice="")
        return (
            only != replace(CAREFUL, label=self.label)
            or (self.sequences and method in BY_SEQUENCE)
            or (self.choice != "" and method in LOGIT_METHODS)
        )


CAREFUL = Arm()
ALL = {"prompt": True, "sequences": True, "sampled": True, "lenient": True}
ARMS = {
    "prompt": Arm(FACTORS["prompt"].label, prompt=True),
    "sequences": Arm(FACTORS["sequences"].label, sequences=True),
    "sampling": Arm(FACTORS["sampling"].label, sampled=True),
    "selection": Arm(FACTORS["selection"].label, choice="test"),
    "extraction": Arm(FACTORS["extraction"].label, lenient=True),
    TOGETHER: Arm("all at temperature 1", **ALL),
    "together_selected": Arm("all", choice="test", **ALL),
    "selection_other": Arm("control: temperature by other half", choice="other"),
    "seed_1": Arm("control: seed 1 for 0", seed=1),
    "seed_2": Arm("control: seed 2 for 0", seed=2),
}
CONTROLS = ("seed_1", "seed_2")


def read(plan: Plan) -> pd.DataFrame:
    """The texts of a plan's finished students, a row each: SETTING, sample, ITEM, lenient, strict (right?).

    What decides is how a run was made, not its protocol's name: `paper` is all factors. Baselines without
    training, noisy runs, untuned teachers and instructions, which have no answer to read, are left out.
    """
    students = {run.spec.student for run in plan.runs if run.spec.teacher}
    tables = []
    for run in dict.fromkeys((*plan.runs, *plan.variants)):
        if not _is_compared(run.spec) or run.spec.student not in students:
            continue
        spec = sources.resolved(run.spec)
        rows = store.folder_of(plan.out, spec.run_id).evaluation(run.evaluation)
        if rows is None:
            continue
        rows = rows[["sample", *ITEM, "correct", "correct_strict"]]
        rows = rows.rename(columns={"correct": "lenient", "correct_strict": "strict"})
        setting = (spec.domain, short_name(spec.teacher or ""), short_name(spec.student), spec.method)
        setting += (spec.temperature, spec.seed, spec.scores_prompt, spec.weighs_sequences)
        setting += (run.evaluation.temperature > 0,)
        tables.append(rows.assign(**dict(zip(SETTING, setting, strict=True))))
    columns = [*SETTING, "sample", *ITEM, "lenient", "strict"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _is_compared(spec: RunSpec) -> bool:
    is_trained = spec.method == "sft" or (spec.method in KD_METHODS and spec.teacher_tuned)
    return spec.domain in DOMAINS and is_trained and spec.noise_sigma == 0.0


def value(part: pd.DataFrame, arm: Arm) -> pd.Series | None:
    """The share of a student's texts that are right, by question; None if it was not run so."""
    chosen = part[
        (part["seed"] == arm.seed) & (part["sampled"] == arm.sampled) & (part["prompt"] == arm.prompt)
    ]
    chosen = chosen[~chosen["method"].isin(BY_SEQUENCE) | (chosen["sequences"] == arm.sequences)]
    chosen = chosen.assign(right=chosen["lenient" if arm.lenient else "strict"].astype(float))
    if arm.choice and part["method"].isin(LOGIT_METHODS).any():
        chosen = (
            _best_temperature(chosen, arm.choice) if chosen["temperature"].nunique() > 1 else chosen.head(0)
        )
    else:
        chosen = chosen[chosen["temperature"] == 1.0]
    return chosen.groupby(ITEM)["right"].mean() if len(chosen) else None


def _best_temperature(rows: pd.DataFrame, choice: str) -> pd.DataFrame:
    """The rows of the best temperature of each task, the lowest of equals; each sample chooses for itself.

    On `test` all of a task's items choose and count. On `other` they are split in two, every second one, and
    each half counts at the temperature that is best on the other.
    """
    kept = []
    for _, part in rows.groupby(["task", "sample"], sort=False):
        wide = part.pivot(index="item_id", columns="temperature", values="right").sort_index(axis=1)
        half = np.arange(len(wide)) % 2
        for each in (0, 1):
            voters = wide if choice == "test" else wide[half != each]
            best = voters.mean().idxmax()
            counted = part["item_id"].isin(wide.index[half == each]) & (part["temperature"] == best)
            kept.append(part[counted])
    return pd.concat(kept)
