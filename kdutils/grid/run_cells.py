"""The finished runs of a store as cells of the released tables' schema, source `live`.

Likeness of texts takes a good part of a second a pair, so what is computed from item rows is kept under
`out`/cache/cells, named by the digests of everything that went in.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils import evaluate, store
from kdutils.constants import AVERAGE, INSTRUCTION_TASKS, MATH_TASKS
from kdutils.grid import cell_table
from kdutils.io import disk, environment
from kdutils.spec import EvalSpec, RunSpec


def cells_of(out: Path, evaluation: EvalSpec, specs: Iterable[RunSpec] | None = None) -> pd.DataFrame:
    """The finished runs under `out` as a cell table; what is missing is missing.

    Agreement and fidelity of a KD student are with its own tuned teacher; `agreement_sft` and
    `fidelity_sft` are those of the SFT student of the same seed and settings beside that teacher, if that
    run is among those asked for.

    Args:
        specs: the runs to read, resolved; None for all.

    Raises:
        StoreError: for a run that cannot be read.
    """
    if specs is None:
        specs = [spec for spec, _ in store.finished(out)]
    return cell_table.cell_table(rows_of(out, evaluation, specs))


def rows_of(out: Path, evaluation: EvalSpec, specs: Iterable[RunSpec]) -> list[dict[str, Any]]:
    """As `cells_of`, each cell as a record, for whoever makes one table of several."""
    asked = {spec.run_id: spec for spec in specs}
    scored = Scored.reader(out)
    found = []
    for spec in asked.values():
        beside = asked.get(spec.sft_spec().run_id) if spec.teacher_spec() else None
        found += [_cell(spec, record) for record in _records(out, evaluation, spec, beside, scored)]
    return found


def keep(out: Path, evaluation: EvalSpec, spec: RunSpec) -> None:
    """Compute what the cells of a run need as far as it is there, so that reading them later is quick."""
    beside = spec.sft_spec() if spec.teacher_spec() else None
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
    tuned = spec.teacher_spec()
    if tuned and (teacher := scored(tuned, evaluation)):
        sft = scored(beside, evaluation) if beside else None
        _add(likeness, kept(out, _likeness, own, teacher), suffix="")
        _add(likeness, kept(out, _likeness, sft, teacher) if sft else [], suffix="_sft")
    return [record | likeness.get(record["task"], {}) for record in kept(out, _accuracies, own)]


class Scored:
    """The item rows of a run, read only if somebody looks at them."""

    def __init__(self, folder: store.RunFolder, evaluation: EvalSpec, digest: str) -> None:
        self._folder, self._evaluation = folder, evaluation
        self.name = f"{folder.path.name} {digest}"

    @classmethod
    def of(cls, out: Path, spec: RunSpec, evaluation: EvalSpec) -> Scored | None:
        """None if the run is not finished or not evaluated so."""
        folder = store.folder_of(out, spec.run_id)
        digest = None if folder.result() is None else folder.items_digest(evaluation)
        return None if digest is None else cls(folder, evaluation, digest)

    @classmethod
    def reader(cls, out: Path) -> Callable[[RunSpec, EvalSpec], Scored | None]:
        """`of` for one reading of a store: a run that many are compared with is looked at once."""
        known: dict[tuple[str, str], Scored | None] = {}

        def found(spec: RunSpec, evaluation: EvalSpec) -> Scored | None:
            key = (spec.run_id, evaluation.eval_id)
            if key not in known:
                known[key] = cls.of(out, spec, evaluation)
            return known[key]

        return found

    def rows(self) -> pd.DataFrame:
        return self._folder.evaluation(self._evaluation)


def _likeness(student: pd.DataFrame, teacher: pd.DataFrame) -> list[dict[str, Any]]:
    """Agreement, fidelity, and in math the link of fidelity and correctness, by task.

    Instructions have no answer to agree on.
    """
    return [
        {
            "task": task,
            "agreement": math.nan if task in INSTRUCTION_TASKS else 100 * evaluate.same_answer(part).mean(),
            "fidelity": evaluate.corpus_bleu(part["text"], part["text_teacher"]),
            "fidelity_correct_r": evaluate.fidelity_correct_r(part) if task in MATH_TASKS else math.nan,
        }
        for task, part in evaluate.paired(student, teacher).groupby("task", sort=False)
    ]


def _add(found: dict[str, dict[str, float]], likeness: list[dict[str, Any]], *, suffix: str) -> None:
    """Put likeness under the columns of that suffix, by task, as far as the cell schema has them."""
    for record in likeness:
        columns = {
            name + suffix: value for name, value in record.items() if name + suffix in cell_table.SCHEMA
        }
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
    cell = {
        "source": "live",
        "protocol": spec.protocol,
        "domain": spec.domain,
        "family": cell_table.model_family(spec.student),
        "student": cell_table.short_name(spec.student),
        "student_parameters": cell_table.model_parameters(spec.student),
        "method": spec.method,
        "noise_sigma": spec.noise_sigma,
        "seed": spec.seed,
    }
    cell |= {name: value for name, value in record.items() if name in cell_table.SCHEMA}
    if spec.teacher is not None:
        cell |= {
            "teacher": cell_table.short_name(spec.teacher),
            "teacher_parameters": cell_table.model_parameters(spec.teacher),
            "teacher_tuned": spec.teacher_tuned,
            "temperature": spec.temperature,
        }
    return cell


# --- kept on disk ----------------------------------------------------------------------------------------


def kept(out: Path, compute: Callable[..., list[dict[str, Any]]], *scored: Scored) -> list[dict[str, Any]]:
    """The records that were kept for these item rows, else those computed now, and kept.

    Not a number is None in them. They are computed anew where the code of `compute`'s module has changed.
    """
    inputs = [compute.__name__, *(each.name for each in scored), _code_digest(compute.__module__)]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    path = Path(out) / f"cache/cells/{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["sha256"] == _digest(kept["records"]):
            return kept["records"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: computed anew
        pass
    computed = compute(*(each.rows() for each in scored))
    records = [{name: _or_none(value) for name, value in record.items()} for record in computed]
    with contextlib.suppress(OSError):  # a store that is only read from has no cache, and is slower
        disk.write_json(path, {"records": records, "sha256": _digest(records)})
    return records


def _digest(records: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(records, allow_nan=False).encode()).hexdigest()


def _or_none(value: Any) -> Any:
    """JSON has no NaN; a cell table reads null as NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


@cache
def _code_digest(computing: str) -> str:
    """Of the code that computes: that module and ours, and the packages that measure texts."""
    modules = dict.fromkeys([evaluate, cell_table, sys.modules[__name__], sys.modules[computing]])
    texts = [inspect.getsource(module) for module in modules]
    texts += [f"{name} {environment.installed_version(name)}" for name in ("sacrebleu", "numpy", "pandas")]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
