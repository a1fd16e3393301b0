"""The cell table: what happened, one tidy row a cell, whatever its source, and how a run becomes cells.

A cell is one source x protocol x pair x method x temperature x noise x task x seed. The released results
reach this table directly, live runs through their item rows; from here on no code knows where a row came
from. COLUMNS is the reference of its columns and the one place where a column is declared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdutils import evaluate
from kdutils.constants import AVERAGE, INSTRUCTION_TASKS, MATH_TASKS
from kdutils.grid.item_records import Scored, kept
from kdutils.grid.study import SOURCE_LABELS
from kdutils.runs import comparison
from kdutils.spec import EvalSpec, RunSpec


class Column(NamedTuple):
    """A column of the cell table."""

    name: str
    dtype: str  # of pandas
    meaning: str  # accuracies, agreement and fidelity are in percent
    of_run: Callable[[RunSpec], Any] | None = None  # its value from a run's spec; None: measured, or released


def _of_teacher(value: Callable[[RunSpec], Any]) -> Callable[[RunSpec], Any]:
    return lambda spec: None if spec.teacher is None else value(spec)


COLUMNS = (
    Column("source", "str", "published | live", lambda spec: "live"),
    Column("protocol", "str", "paper | careful", lambda spec: spec.protocol),
    Column("domain", "str", "math | commonsense | instruction", lambda spec: spec.domain),
    Column("task", "str", "a task key, or `average`: the mean over the domain's tasks"),
    Column("family", "str", "Qwen2.5 | Llama-3 | ...", lambda spec: model_family(spec.student)),
    Column("teacher", "str", "'' for base and sft", _of_teacher(lambda spec: short_name(spec.teacher))),
    Column("student", "str", "its short name", lambda spec: short_name(spec.student)),
    Column("teacher_parameters", "Int64", "nominal, as in the model's name",
           _of_teacher(lambda spec: model_parameters(spec.teacher))),
    Column("student_parameters", "Int64", "nominal", lambda spec: model_parameters(spec.student)),
    Column("method", "str", "base | sft | fkl | seqkd | revkd | gkd", lambda spec: spec.method),
    Column("teacher_tuned", "boolean", "was the teacher fine-tuned on the domain; NA without teacher",
           _of_teacher(lambda spec: spec.teacher_tuned)),
    Column("temperature", "float64", "of the divergence; NaN without teacher",
           _of_teacher(lambda spec: spec.temperature)),
    Column("noise_sigma", "float64", "standard deviation of the noise on the teacher's logits",
           lambda spec: spec.noise_sigma),
    Column("seed", "Int64", "of the training", lambda spec: spec.seed),
    Column("n", "Int64", "items behind the accuracy; for `average` the sum over the tasks"),
    Column("accuracy", "float64", "share of the items answered right"),
    Column("accuracy_se", "float64", "standard error from the n items, in points"),
    Column("n_clean", "Int64", "items whose question is not in the training set; NA where not known"),
    Column("accuracy_clean", "float64", "of those items"),
    Column("accuracy_ranked", "float64", "of the likeliest option, where options were ranked; NaN elsewhere"),
    Column("accuracy_ranked_normalised", "float64", "of the likeliest by character"),
    Column("unparsed", "float64", "texts without an answer; NaN where texts were not released"),
    Column("truncated", "float64", "texts that were cut at the limit of their length"),
    Column("agreement", "float64", "items on which student and teacher give the same answer"),
    Column("agreement_sft", "float64", "the same for the SFT student and the same teacher"),
    Column("agreement_em2", "float64", "the authors' second, undocumented agreement table"),
    Column("agreement_em2_sft", "float64", "the same for the SFT student"),
    Column("fidelity", "float64", "likeness of student and teacher rationale"),
    Column("fidelity_sft", "float64", "the same for the SFT student and the same teacher"),
    Column("fidelity_bleu2", "float64", "the authors' second fidelity table"),
    Column("fidelity_bleu2_sft", "float64", "the same for the SFT student"),
    Column("fidelity_correct_r", "float64", "over items, of being right and BLEU with the teacher's text"),
    Column("flags", "str", "';'-joined keys of FLAGS, in that order; '' where nothing is odd"),
)  # fmt: skip
SCHEMA = {column.name: column.dtype for column in COLUMNS}

MODEL_WORLD = "mini-"  # how the names of the mini family begin

FLAGS = {
    "contaminated": "the task's test questions occur in the training set",
    "not_a_single_pass": "no whole number of right answers out of n gives this accuracy",
    "collapsed": "below half of the same student's SFT accuracy on this task",
    "average_differs": "the released average is not the mean of the released tasks (0.01 tolerance)",
    "teacher_checkpoint_named": "the file names a checkpoint of the teacher, the others do not",
    "agreement_reused": "one released agreement value per pair stands for every method and temperature",
    "fidelity_measure_unclear": "which of the two released fidelity tables is BLEU is not documented",
    "poster_misattributed": "the poster prints this agreement for smaller students than it belongs to",
}


def accuracy_se(accuracy: float, n: int) -> float:
    """Standard error in points of an accuracy in percent over n independent items; NaN for n < 1."""
    if n < 1:
        return math.nan
    share = accuracy / 100
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / n)


def short_name(model: str) -> str:
    """A model's name in tables and labels: `Qwen/Qwen2.5-0.5B` gives `Qwen2.5-0.5B`.

    The owner on the hub goes, or the folder of a local model, and `.gguf`.
    """
    return model.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


@cache
def model_parameters(model: str) -> int:
    """Nominal parameter count in a model's name: `Qwen2.5-0.5B` gives 500,000,000.

    Nominal on purpose: the authors rank students by the number in the name, so Qwen2.5-3B and
    Llama-3.2-3B tie although one has 3.09 and the other 3.21 billion.

    Raises:
        ValueError: if the name does not end in a size such as 0.5B or 28k.
    """
    match = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)([kMB])$", short_name(model))
    if match is None:
        raise ValueError(
            f"model name {model!r} does not end in a size: give one that ends in -0.5B, -135M or -28k, say"
        )
    return round(float(match[1]) * {"k": 1e3, "M": 1e6, "B": 1e9}[match[2]])


def size_label(parameters: int) -> str:
    """A parameter count as names write it: 500,000,000 gives `0.5B`, 38,000 gives `38k`."""
    unit, one = ("B", 1e9) if parameters >= 1e8 else ("M", 1e6) if parameters >= 1e6 else ("k", 1e3)
    return f"{parameters / one:g}{unit}"


def model_family(model: str) -> str:
    """`Qwen2.5` or `Llama-3` (3.1 and 3.2 are one family in the paper); else the name before its size."""
    stem = short_name(model).rsplit("-", 1)[0]
    return "Llama-3" if stem.startswith("Llama-3") else stem


def source_labels(families: Iterable[str]) -> dict[str, str]:
    """What results of each source are called where those that ran live are of these families.

    Real models are named by their family, `Live, Qwen2.5`; the model world is `Live`, as nothing is.
    """
    named = [family for family in dict.fromkeys(families) if family and not family.startswith(MODEL_WORLD)]
    live = f"{SOURCE_LABELS['live']}, {' and '.join(named)}" if named else SOURCE_LABELS["live"]
    return SOURCE_LABELS | {"live": live}


def is_model_world(cells: pd.DataFrame) -> bool:
    """Whether the models of all cells are of the embedded mini family, which no real model resembles."""
    return len(cells) > 0 and bool(cells["family"].str.startswith(MODEL_WORLD).all())


def join_flags(flags: Iterable[str]) -> str:
    """The `flags` column for a set of flag keys: in the order of FLAGS, joined by ";".

    Raises:
        KeyError: for a key that FLAGS does not declare.
    """
    wanted = set(flags)
    if unknown := wanted - set(FLAGS):
        raise KeyError(f"undeclared flags {sorted(unknown)}; declare them in cell_table.FLAGS")
    return ";".join(flag for flag in FLAGS if flag in wanted)


def has_flag(cells: pd.DataFrame, flag: str) -> pd.Series:
    """True where a cell carries the flag (a key of FLAGS)."""
    if flag not in FLAGS:
        raise KeyError(f"unknown flag {flag!r}; there are {list(FLAGS)}")
    return cells["flags"].str.split(";").map(lambda flags: flag in flags).astype(bool)


def cell_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a cell table: every column of SCHEMA in its order and dtype, missing ones NA.

    Raises:
        KeyError: for a column that SCHEMA does not have.
        ValueError: if two rows are the same cell.
    """
    frame = pd.DataFrame(list(rows))
    if unknown := set(frame.columns) - set(SCHEMA):
        raise KeyError(f"columns {sorted(unknown)} are not in the cell schema {list(SCHEMA)}")
    frame = frame.reindex(columns=list(SCHEMA))
    strings = [column for column, dtype in SCHEMA.items() if dtype == "str"]
    frame[strings] = frame[strings].astype("object").where(frame[strings].notna(), "")
    frame = frame.astype(SCHEMA)
    keys = list(SCHEMA)[: list(SCHEMA).index("n")]
    if (twice := frame.duplicated(keys)).any():
        raise ValueError(f"two rows for one cell: {frame.loc[twice, keys].iloc[0].to_dict()}")
    return frame


# --- from runs ----------------------------------------------------------------------------------------------


def rows_of(out: Path, evaluation: EvalSpec, specs: Iterable[RunSpec]) -> list[dict[str, Any]]:
    """The finished ones of these runs (resolved) as rows for `cell_table`; what is missing is missing.

    Agreement and fidelity of a KD student are with its own tuned teacher; `agreement_sft` and
    `fidelity_sft` are those of the SFT student of the same seed and settings beside that teacher, if that
    run is among those asked for.

    Raises:
        StoreError: for a run that cannot be read.
    """
    asked = {spec.run_id: spec for spec in specs}
    scored = Scored.reader(out)
    found = []
    for spec in asked.values():
        beside = asked.get(spec.sft_spec.run_id) if spec.teacher_spec else None
        found += [_cell(spec, record) for record in _records(out, evaluation, spec, beside, scored)]
    return found


def keep(out: Path, evaluation: EvalSpec, spec: RunSpec) -> None:
    """Compute what the cells of a run need as far as it is there, so that reading them later is quick."""
    beside = spec.sft_spec if spec.teacher_spec else None
    _records(out, evaluation, spec, beside, Scored.reader(out))


def _records(
    out: Path,
    evaluation: EvalSpec,
    spec: RunSpec,
    beside: RunSpec | None,
    scored: Callable[[RunSpec, EvalSpec], Scored | None],
) -> list[dict[str, Any]]:
    """Accuracy by task with likeness columns, also of the SFT student `beside`; empty if not evaluated."""
    own = scored(spec, evaluation)
    if own is None:
        return []
    likeness: dict[str, dict[str, float]] = {}
    if (twin := evaluation.ranking()) and (ranked := scored(spec, twin)):
        records = kept(out, _ranked, ranked)
        whole = twin.tasks == evaluation.tasks  # an average over some tasks would not be comparable
        _add(likeness, [each for each in records if whole or each["task"] != AVERAGE], suffix="")
    tuned = spec.teacher_spec
    if tuned and (teacher := scored(tuned, evaluation)):
        sft = scored(beside, evaluation) if beside else None
        _add(likeness, kept(out, _likeness, own, teacher), suffix="")
        _add(likeness, kept(out, _likeness, sft, teacher) if sft else [], suffix="_sft")
    return [record | likeness.get(record["task"], {}) for record in kept(out, _accuracies, own)]


def _likeness(student: pd.DataFrame, teacher: pd.DataFrame) -> list[dict[str, Any]]:
    """Agreement, fidelity, and in math the link of fidelity and correctness, by task.

    Instructions have no answer to agree on.
    """
    return [
        {
            "task": task,
            "agreement": math.nan if task in INSTRUCTION_TASKS else 100 * comparison.same_answer(part).mean(),
            "fidelity": comparison.corpus_bleu(part["text"], part["text_teacher"]),
            "fidelity_correct_r": comparison.fidelity_correct_r(part) if task in MATH_TASKS else math.nan,
        }
        for task, part in comparison.paired(student, teacher).groupby("task", sort=False)
    ]


def _add(found: dict[str, dict[str, float]], likeness: list[dict[str, Any]], *, suffix: str) -> None:
    """Put likeness under the columns of that suffix, by task, as far as the cell schema has them."""
    for record in likeness:
        columns = {name + suffix: value for name, value in record.items() if name + suffix in SCHEMA}
        found.setdefault(record["task"], {}).update(columns)


def _accuracies(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return _with_average(evaluate.accuracies(rows))


def _ranked(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy of ranked options by task, and the mean over the tasks that have options."""
    table = evaluate.ranked_accuracies(rows)
    means = table.drop(columns="task").mean().to_dict()
    return [*table.to_dict("records"), {"task": AVERAGE} | means]


def _with_average(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy records and their mean (tasks taken as independent)."""
    se = float(np.sqrt((table["accuracy_se"] ** 2).sum()) / len(table))
    names = ("accuracy", "unparsed", "truncated", "accuracy_clean")
    means = {name: float(table[name].mean(skipna=False)) for name in names}
    means["n_clean"] = float(table["n_clean"].sum(skipna=False))
    mean = {"task": AVERAGE, "n": int(table["n"].sum()), "accuracy_se": se} | means
    return [*table.to_dict("records"), mean]


def _cell(spec: RunSpec, record: dict[str, Any]) -> dict[str, Any]:
    """A record as a row of the table, with the columns that its run decides."""
    decided = {column.name: column.of_run(spec) for column in COLUMNS if column.of_run}
    return decided | {name: value for name, value in record.items() if name in SCHEMA}
