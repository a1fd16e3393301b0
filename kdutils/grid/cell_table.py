"""The cell table: what happened, one tidy row a cell, whatever its source, and how a run becomes cells.

A cell is one source x protocol x decoding x pair x method x temperature x noise x task x seed. The released
results reach this table directly, live runs through their item rows; from here on no code knows where a row
came from. SCHEMA is the one place where a column is declared.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, is_text
from kdutils.data import answers
from kdutils.grid.study import SOURCE_LABELS, has_steps
from kdutils.io import disk, environment
from kdutils.runs import comparison, store
from kdutils.spec import EvalSpec, RunSpec

# Column -> dtype of pandas; those before `n` name a cell. Accuracies, agreement and fidelity are in percent.
SCHEMA = {
    "source": "str",  # published | live
    "protocol": "str",  # paper | careful
    "decoding": "str",  # greedy | sampled (at temperature 1); without texts one of results.label_cells.WAYS
    "domain": "str",  # math | commonsense | instruction
    "task": "str",  # a task key, or `average`: the mean over the domain's tasks
    "family": "str",  # Qwen2.5 | Llama-3 | ...
    "teacher": "str",  # '' for base and sft
    "student": "str",  # its short name
    "teacher_parameters": "Int64",  # nominal, as in the model's name
    "student_parameters": "Int64",  # nominal
    "method": "str",  # base | sft | fkl | seqkd | revkd | gkd | opd, else such as kd:student+forward_kl
    "teacher_tuned": "boolean",  # was the teacher fine-tuned on the domain; NA without teacher
    "temperature": "float64",  # of the divergence; NaN without teacher
    "noise_sigma": "float64",  # standard deviation of the noise on the teacher's logits
    "seed": "Int64",  # of the training
    "n": "Int64",  # items behind the accuracy; for `average` the sum over the tasks
    "accuracy": "float64",  # share of the items answered right
    "accuracy_se": "float64",  # standard error from the n items, in points
    "n_clean": "Int64",  # items whose question is not in the training set; NA where not known
    "accuracy_clean": "float64",  # of those items
    "accuracy_ranked": "float64",  # of the likeliest option, where options were ranked; NaN elsewhere
    "accuracy_ranked_normalised": "float64",  # of the likeliest by character
    "accuracy_strict": "float64",  # of answers that stand where the response format puts them
    "in_format": "float64",  # texts with an answer there; NaN where there is no format
    "unparsed": "float64",  # texts without an answer; NaN where texts were not released
    "truncated": "float64",  # texts that were cut at the limit of their length
    "agreement": "float64",  # items on which student and teacher give the same answer
    "agreement_sft": "float64",  # the same for the SFT student and the same teacher
    "agreement_em2": "float64",  # the authors' second, undocumented agreement table
    "agreement_em2_sft": "float64",  # the same for the SFT student
    "fidelity": "float64",  # likeness of student and teacher rationale
    "fidelity_sft": "float64",  # the same for the SFT student and the same teacher
    "fidelity_bleu2": "float64",  # the authors' second fidelity table
    "fidelity_bleu2_sft": "float64",  # the same for the SFT student
    "fidelity_correct_r": "float64",  # over items, of being right and BLEU with the teacher's text
    "flags": "str",  # ';'-joined keys of FLAGS, in that order; '' where nothing is odd
}
KEYS = list(SCHEMA)[: list(SCHEMA).index("n")]  # name a cell

# Also over the tasks of a domain:
MEANS = ("accuracy", "accuracy_strict", "unparsed", "truncated", "accuracy_clean")
LEAST_IN_FORMAT = 90.0  # percent; a trained student below it has not learned the response format
MODEL_WORLD = "mini-"  # how the names of the mini family begin

FLAGS = {
    "contaminated": "the task's test questions occur in the training set",
    "not_a_single_pass": "no whole number of right answers out of n gives this accuracy",
    "collapsed": "below half of the same student's SFT accuracy on this task",
    "average_differs": "the released average is not the mean of the released tasks (0.01 tolerance)",
    "teacher_checkpoint_named": "the file names a checkpoint of the teacher, the others do not",
    "agreement_reused": "one released agreement value per pair stands for every method and temperature",
    "fidelity_measure_unclear": "which of the two released fidelity tables is BLEU is not documented",
    "format_not_learned": "a student whose greedy texts keep the response format in fewer than 90 %",
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
    unit, one = ("B", 1e9) if parameters >= 5e8 else ("M", 1e6) if parameters >= 1e6 else ("k", 1e3)
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
    if (twice := frame.duplicated(KEYS)).any():
        raise ValueError(f"two rows for one cell: {frame.loc[twice, KEYS].iloc[0].to_dict()}")
    return frame


# --- from runs ----------------------------------------------------------------------------------------------
# Measuring the likeness of texts takes a good part of a second a pair, so what is computed from item rows is
# kept under `out`/cache/cells, named by the digests of everything that went in.


class Scored:
    """The item rows of a run, read only when `rows` is called."""

    def __init__(self, folder: store.RunFolder, evaluation: EvalSpec, digest: str) -> None:
        self._folder, self._evaluation = folder, evaluation
        self.name = f"{folder.path.name} {digest}"

    @classmethod
    def of(cls, out: Path, spec: RunSpec, evaluation: EvalSpec) -> Scored | None:
        """None if the run is not finished or not evaluated so."""
        folder = store.folder_of(out, spec.run_id)
        digest = None if folder.result() is None else folder.items_digest(evaluation)
        return None if digest is None else cls(folder, evaluation, digest)

    def rows(self) -> pd.DataFrame:
        return self._folder.evaluation(self._evaluation)


def kept(out: Path, compute: Callable[..., list[dict[str, Any]]], *scored: Scored) -> list[dict[str, Any]]:
    """The records that were kept for these item rows, else those computed now, and kept.

    NaN is None in them. They are computed again where the code of `compute`'s module has changed.
    """
    inputs = [compute.__name__, *(each.name for each in scored), _code_digest(compute.__module__)]
    path = Path(out) / f"cache/cells/{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()}.json"

    def records() -> list[dict[str, Any]]:
        found = compute(*(each.rows() for each in scored))
        return [{name: None if pd.isna(value) else value for name, value in each.items()} for each in found]

    return disk.kept(path, records)


@cache
def _code_digest(computing: str) -> str:
    """Of the code that computes: that module and ours, and the packages that measure texts."""
    modules = dict.fromkeys([answers, comparison, sys.modules[__name__], sys.modules[computing]])
    texts = [inspect.getsource(module) for module in modules]
    texts += [f"{name} {environment.installed_version(name)}" for name in ("sacrebleu", "numpy", "pandas")]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def rows_of(out: Path, evaluation: EvalSpec, specs: Iterable[RunSpec]) -> list[dict[str, Any]]:
    """The finished ones of these runs (resolved) as rows for `cell_table`; what is missing is missing.

    Agreement and fidelity of a KD student are with its own tuned teacher; `agreement_sft` and
    `fidelity_sft` are those of the SFT student of the same seed and settings beside that teacher, if that
    run is among those asked for.

    Raises:
        StoreError: for a run that cannot be read.
    """
    asked = {spec.run_id: spec for spec in specs}
    decoding = "sampled" if evaluation.temperature else "greedy"
    scored = cache(partial(Scored.of, out))  # a run that many are compared with is looked at once
    found = []
    for spec in asked.values():
        sft = asked.get(spec.sft_spec.run_id) if spec.teacher_spec else None
        records = _records(out, evaluation, spec, sft, scored)
        greedy, of_greedy = replace(evaluation, temperature=0.0, samples=1, seed=0), records
        if records and greedy != evaluation:
            texts = scored(spec, greedy)
            of_greedy = kept(out, _accuracies, texts) if texts else []
        share = of_greedy[-1]["in_format"] if of_greedy and spec.method != "base" else None
        is_lost = share is not None and share < LEAST_IN_FORMAT
        flags = {"flags": join_flags(["format_not_learned"] * is_lost)}
        found += [run_columns(spec) | {"decoding": decoding} | flags | record for record in records]
    return [{name: value for name, value in row.items() if name in SCHEMA} for row in found]


def keep(out: Path, evaluation: EvalSpec, spec: RunSpec) -> None:
    """Compute what the cells of a run need as far as it is there, so that reading them later is quick."""
    sft = spec.sft_spec if spec.teacher_spec else None
    _records(out, evaluation, spec, sft, partial(Scored.of, out))


def _records(
    out: Path,
    evaluation: EvalSpec,
    spec: RunSpec,
    sft: RunSpec | None,
    scored: Callable[[RunSpec, EvalSpec], Scored | None],
) -> list[dict[str, Any]]:
    """What was measured of a run, by task, with likeness also of the student after SFT; [] if nothing."""
    own = scored(spec, evaluation)
    if own is None:
        return []
    found = {record["task"]: record for record in kept(out, _accuracies, own)}
    if (twin := evaluation.ranking()) and (ranked := scored(spec, twin)):
        is_whole = twin.tasks == evaluation.tasks  # an average over some tasks would not be comparable
        for record in kept(out, _ranked, ranked):
            if is_whole or record["task"] != AVERAGE:
                found[record["task"]] |= record
    if (tuned := spec.teacher_spec) and (teacher := scored(tuned, evaluation)):
        for record in kept(out, _likeness, own, teacher):
            found[record["task"]] |= record
        if sft and (sft_rows := scored(sft, evaluation)):
            for record in kept(out, _likeness, sft_rows, teacher):
                found[record["task"]] |= {f"{name}_sft": value for name, value in record.items()}
    return list(found.values())


def _likeness(student: pd.DataFrame, teacher: pd.DataFrame) -> list[dict[str, Any]]:
    """Agreement, fidelity, and in math the link of fidelity and correctness, by task.

    Instructions have no answer to agree on.
    """
    return [
        {
            "task": task,
            "agreement": math.nan if is_text(task) else 100 * comparison.same_answer(part).mean(),
            "fidelity": comparison.corpus_bleu(part["text"], part["text_teacher"]),
            "fidelity_correct_r": comparison.fidelity_correct_r(part) if has_steps(task) else math.nan,
        }
        for task, part in comparison.paired(student, teacher).groupby("task", sort=False)
    ]


def _accuracies(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy by task, and the mean over tasks, taken as independent."""
    table = comparison.accuracies(rows)
    table["accuracy_strict"] = comparison.accuracies(rows, strict=True)["accuracy"]
    table["in_format"] = [comparison.in_format(part) for _, part in rows.groupby("task", sort=False)]
    mean = {name: float(table[name].mean(skipna=False)) for name in MEANS}
    mean["accuracy_se"] = float(np.sqrt((table["accuracy_se"] ** 2).sum()) / len(table))
    mean["in_format"] = comparison.in_format(rows)  # of all texts: it is judged by itself
    mean["n_clean"] = float(table["n_clean"].sum(skipna=False))
    return [*table.to_dict("records"), {"task": AVERAGE, "n": int(table["n"].sum())} | mean]


def _ranked(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy of ranked options by task, and the mean over the tasks that have options."""
    table = comparison.ranked_accuracies(rows)
    return [*table.to_dict("records"), {"task": AVERAGE} | table.drop(columns="task").mean().to_dict()]


def run_columns(spec: RunSpec) -> dict[str, Any]:
    """The columns that a run's spec decides."""
    student = {"student": short_name(spec.student), "student_parameters": model_parameters(spec.student)}
    row = {name: getattr(spec, name) for name in ("protocol", "domain", "noise_sigma", "seed")}
    row |= {"source": "live", "method": spec.named_method, "family": model_family(spec.student)} | student
    if spec.teacher is None:
        return row
    row |= {"teacher": short_name(spec.teacher), "teacher_parameters": model_parameters(spec.teacher)}
    return row | {"teacher_tuned": spec.teacher_tuned, "temperature": spec.temperature}
