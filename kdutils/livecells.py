"""The finished runs of a store as cells of the released tables' schema, source `live`.

Likeness of texts takes most of a second a run, so the rows of a run are kept under `out`/cache/cells, named
by the digests of everything that went in.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils import cells, environment, evaluate, runs, store
from kdutils.runspec import EvalSpec, RunSpec
from kdutils.spec import AVERAGE, INSTRUCTION_TASKS


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
        specs = [spec for spec, _ in runs.finished(out)]
    asked = {spec.run_id: spec for spec in specs}
    table = []
    for spec in asked.values():
        if (own := _Scored.of(out, spec, evaluation)) is None:
            continue
        teacher = sft = None
        if tuned := spec.teacher_spec():
            teacher = _Scored.of(out, tuned, evaluation)
            if (beside := spec.sft_spec()).run_id in asked:
                sft = _Scored.of(out, beside, evaluation)
        table += _kept(out, spec, own, teacher, sft)
    return cells.cell_table(table)


class _Scored:
    """The item rows of a run, read only if somebody looks at them."""

    def __init__(self, folder: runs.RunFolder, evaluation: EvalSpec, digest: str) -> None:
        self._folder, self._evaluation = folder, evaluation
        self.name = f"{folder.path.name} {digest}"

    @classmethod
    def of(cls, out: Path, spec: RunSpec, evaluation: EvalSpec) -> _Scored | None:
        folder = runs.folder_of(out, spec.run_id)
        digest = None if folder.result() is None else folder.items_digest(evaluation)
        return None if digest is None else cls(folder, evaluation, digest)

    def rows(self) -> pd.DataFrame:
        return self._folder.evaluation(self._evaluation)


def _rows(spec: RunSpec, own: _Scored, teacher: _Scored | None, sft: _Scored | None) -> list[dict[str, Any]]:
    rows = own.rows()
    likeness: dict[str, dict[str, float]] = {}
    if teacher is not None:
        teacher_rows = teacher.rows()
        _add_likeness(likeness, rows, teacher_rows, suffix="")
        if sft is not None:
            _add_likeness(likeness, sft.rows(), teacher_rows, suffix="_sft")
    return [
        _cell(spec, record) | likeness.get(record["task"], {})
        for record in _with_average(evaluate.accuracies(rows))
    ]


def _add_likeness(
    found: dict[str, dict[str, float]], rows: pd.DataFrame, teacher: pd.DataFrame, *, suffix: str
) -> None:
    """Put likeness to the teacher under its columns, by task. Instructions have no answer to agree on."""
    for task, part in evaluate.paired(rows, teacher).groupby("task", sort=False):
        values = found.setdefault(task, {})
        is_text = task in INSTRUCTION_TASKS
        values["agreement" + suffix] = math.nan if is_text else evaluate.agreement(part)["agreement"]
        values["fidelity" + suffix] = evaluate.corpus_bleu(part["text"], part["text_teacher"])


def _with_average(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy records and their mean (tasks taken as independent)."""
    se = float(np.sqrt((table["accuracy_se"] ** 2).sum()) / len(table))
    mean = {"task": AVERAGE, "n": int(table["n"].sum()), "accuracy": float(table["accuracy"].mean())}
    return [*table.to_dict("records"), mean | {"accuracy_se": se}]


def _cell(spec: RunSpec, record: dict[str, Any]) -> dict[str, Any]:
    cell = {
        "source": "live",
        "protocol": spec.protocol,
        "domain": spec.domain,
        "family": cells.model_family(spec.student),
        "student": spec.student,
        "student_parameters": cells.model_parameters(spec.student),
        "method": spec.method,
        "noise_sigma": spec.noise_sigma,
        "seed": spec.seed,
    }
    cell |= {name: record[name] for name in ("task", "n", "accuracy", "accuracy_se")}
    if spec.teacher is not None:
        cell |= {
            "teacher": spec.teacher,
            "teacher_parameters": cells.model_parameters(spec.teacher),
            "teacher_tuned": spec.teacher_tuned,
            "temperature": spec.temperature,
        }
    return cell


# --- kept on disk ----------------------------------------------------------------------------------------


def _kept(
    out: Path, spec: RunSpec, own: _Scored, teacher: _Scored | None, sft: _Scored | None
) -> list[dict[str, Any]]:
    """The rows that were kept for these inputs, else those computed now, and kept."""
    inputs = [None if each is None else each.name for each in (own, teacher, sft)]
    key = hashlib.sha256(json.dumps([inputs, _code_digest()]).encode()).hexdigest()
    path = Path(out) / "cache" / "cells" / f"{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["sha256"] == _digest(kept["rows"]):
            return kept["rows"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: computed anew
        pass
    rows = [{name: _or_none(value) for name, value in row.items()} for row in _rows(spec, own, teacher, sft)]
    with contextlib.suppress(OSError):  # a store that is only read from has no cache, and is slower
        store.write_json(path, {"rows": rows, "sha256": _digest(rows)})
    return rows


def _digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, allow_nan=False).encode()).hexdigest()


def _or_none(value: Any) -> Any:
    """JSON has no NaN; a cell table reads null as NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


@cache
def _code_digest() -> str:
    """Of the code that computes rows: our modules, and the packages that measure texts."""
    texts = [inspect.getsource(module) for module in (evaluate, cells, sys.modules[__name__])]
    texts += [f"{name} {environment.installed_version(name)}" for name in ("sacrebleu", "numpy", "pandas")]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
