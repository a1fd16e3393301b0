"""The store of runs: one folder a run, whole or absent.

    runs/<run_id>/spec.json environment.json curve.jsonl model/ result.json      result.json comes last
    runs/<run_id>/eval/<eval_id>/spec.json items.parquet result.json             appears by rename
    texts/<digest>.jsonl                                                         a teacher's texts (seqkd)

`result.json` is the commit point of a training: a folder without it is a run in progress or one that was
interrupted, and its `checkpoint/` is where it goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils import cells, environment, evaluate, store
from kdutils.runspec import EvalSpec, RunSpec
from kdutils.spec import AVERAGE, INSTRUCTION_TASKS

LAYOUT = 1  # version of this layout, in every result.json


class StoreError(RuntimeError):
    """A store that cannot be read or written. The message is one line and holds the remedy."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run lives."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        """The trained weights: a model folder, or an adapter's as peft writes it."""
        return self.path / "model"

    def begin(self, spec: RunSpec) -> None:
        """Make the folder and say what is to be trained.

        Raises:
            StoreError: if it cannot be written.
        """
        try:
            store.write_json(self.path / "spec.json", spec.to_dict())
            store.write_json(self.path / "environment.json", environment.provenance())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(f"{self.path} cannot be written ({reason}); choose another out") from error

    def finish(self, outcome: dict[str, Any], curve: list[dict[str, Any]]) -> None:
        """Commit the training: the curve, then result.json; the checkpoint goes."""
        store.write_text(self.path / "curve.jsonl", "".join(json.dumps(entry) + "\n" for entry in curve))
        store.write_json(self.path / "result.json", {"layout": LAYOUT} | outcome)
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def result(self) -> dict[str, Any] | None:
        """What the training came to, None if it has not finished.

        Raises:
            StoreError: if the file is damaged or of another layout.
        """
        return _read_result(self.path / "result.json")

    def evaluation(self, spec: EvalSpec) -> pd.DataFrame | None:
        """Item rows of an evaluation, None if it was not made.

        Raises:
            StoreError: if its files are damaged.
        """
        folder = self.path / "eval" / spec.eval_id
        if self.evaluation_result(spec) is None:
            return None
        try:
            return pd.read_parquet(folder / "items.parquet")
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise StoreError(f"{folder}/items.parquet is damaged ({reason}); delete {folder}") from error

    def evaluation_result(self, spec: EvalSpec) -> dict[str, Any] | None:
        """Facts about an evaluation (seconds, n_rows, fingerprint), None if it was not made.

        Raises:
            StoreError: if the file is damaged or of another layout.
        """
        return _read_result(self.path / "eval" / spec.eval_id / "result.json")

    def write_evaluation(self, spec: EvalSpec, rows: pd.DataFrame, facts: dict[str, Any]) -> None:
        """Keep an evaluation, whole or not at all."""
        with store.folder_in_one_step(self.path / "eval" / spec.eval_id) as partial:
            rows.to_parquet(partial / "items.parquet", index=False)
            store.write_json(partial / "spec.json", spec.to_dict())
            store.write_json(partial / "result.json", {"layout": LAYOUT, "n_rows": len(rows)} | facts)


def folder_of(out: Path, run_id: str) -> RunFolder:
    """Where the run of that id lives under `out`."""
    return RunFolder(Path(out) / "runs" / run_id)


def finished(out: Path) -> Iterator[tuple[RunSpec, RunFolder]]:
    """Every finished run under `out`, by name.

    Raises:
        StoreError: for a damaged folder, naming it.
    """
    for path in sorted((Path(out) / "runs").glob("*/result.json")):
        folder = RunFolder(path.parent)
        folder.result()
        try:
            spec = RunSpec.from_dict(json.loads((folder.path / "spec.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{folder.path}/spec.json is damaged ({error}); delete {folder.path}") from error
        yield spec, folder


def cells_of(out: Path, evaluation: EvalSpec, *, only: Collection[str] | None = None) -> pd.DataFrame:
    """The finished runs under `out` as cells of the released tables' schema, source `live`.

    Agreement and fidelity of a KD student are with its own tuned teacher; `agreement_sft` and
    `fidelity_sft` are those of the SFT student of the same seed beside that teacher.

    Args:
        only: names of the runs to read; None for all.
    """
    scored = {}
    for spec, folder in finished(out):
        if only is not None and spec.run_id not in only:
            continue
        rows = folder.evaluation(evaluation)
        if rows is not None:
            scored[spec] = rows
    sft = {_student(spec): rows for spec, rows in scored.items() if spec.method == "sft"}
    table = []
    for spec, rows in scored.items():
        likeness = _likeness(rows, sft.get(_teacher(spec)), sft.get(_student(spec))) if spec.teacher else {}
        for record in _with_average(evaluate.accuracies(rows)):
            table.append(_cell(spec, record) | likeness.get(record["task"], {}))
    return cells.cell_table(table)


def _student(spec: RunSpec) -> tuple:
    return (spec.student, spec.domain, spec.protocol, spec.seed)


def _teacher(spec: RunSpec) -> tuple:
    return (spec.teacher, spec.domain, spec.protocol, spec.teacher_seed) if spec.teacher_tuned else ()


def _likeness(
    student: pd.DataFrame, teacher: pd.DataFrame | None, sft: pd.DataFrame | None
) -> dict[str, dict[str, float]]:
    """task -> likeness columns of the cell schema, as far as the runs are there."""
    found: dict[str, dict[str, float]] = {}
    for suffix, rows in (("", student), ("_sft", sft)):
        if teacher is None or rows is None:
            continue
        for task, part in evaluate.paired(rows, teacher).groupby("task", sort=False):
            values = found.setdefault(task, {})
            values["agreement" + suffix] = evaluate.agreement(part)["agreement"]
            values["fidelity" + suffix] = evaluate.corpus_bleu(part["text"], part["text_teacher"])
    return found


def _with_average(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy records and their mean (tasks taken as independent); ROUGE tasks have no mean."""
    records = table.to_dict("records")
    if set(table["task"]) & set(INSTRUCTION_TASKS):
        return records
    se = float(np.sqrt((table["accuracy_se"] ** 2).sum()) / len(table))
    mean = {"task": AVERAGE, "n": int(table["n"].sum()), "accuracy": float(table["accuracy"].mean())}
    return [*records, mean | {"accuracy_se": se}]


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


def _read_result(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        layout = result["layout"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete {path.parent} and run again") from error
    if layout != LAYOUT:
        raise StoreError(f"{path} is of layout {layout}, this is {LAYOUT}; use another out folder")
    return result
