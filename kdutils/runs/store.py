"""The store of runs: one folder a run, whole or absent.

    runs/<run_id>/spec.json environment.json curve.jsonl model/ result.json      result.json comes last
    runs/<run_id>/eval/<eval_id>/spec.json items.parquet result.json             appears by rename
    runs/<run_id>/failure.json                                                   why the last attempt failed
    states/, texts/                                                              shared, see there
    damaged/<run_id>-<n>                                                         what was set aside

`result.json` is the commit point of a training: a folder without it is a run in progress or one that was
interrupted, and its `checkpoint/` is where it goes on. It records the SHA-256 of the other files and, as its
seal, that of its own content; and so does that of an evaluation.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.compute import DEFAULT, Compute
from kdutils.io import disk, environment, leases
from kdutils.io.disk import DamagedError, StoreError
from kdutils.io.leases import Lease
from kdutils.io.text_safety import scrub, shown
from kdutils.spec import EvalSpec, RunSpec

RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
LAYOUT = 1  # version of this layout, in every result.json
DIGESTED = ("curve.jsonl", "environment.json")  # beside the weights
LOOK_AGAIN_SECONDS = 1.0  # while another process makes what we need
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RunFolder:
    """Where a run lives.

    Whatever reads a file raises a DamagedError if it is not what was written, and a StoreError if the folder
    is of another layout.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        """The trained weights: a model folder, or an adapter's as peft writes it."""
        return self.path / "model"

    def begin(self, spec: dict[str, Any], numbers: dict[str, Any] | None = None) -> None:
        """Make the folder with what is to be trained; what an earlier attempt left half written goes.

        Args:
            numbers: what environment.json says beside environment.provenance.

        Raises:
            StoreError: if it cannot be written, or leads out of the store.
        """
        root = self.path.parents[1].resolve()
        for place in (self.path.parent, self.path, self.checkpoint, self.model, self.path / "eval"):
            if place.is_symlink() and not place.resolve().is_relative_to(root):
                raise StoreError(f"{place} is a link that leads out of {root}; delete that link")
        try:
            disk.remove_partials(self.path)
            disk.write_json(self.path / "spec.json", spec)
            disk.write_json(self.path / "environment.json", environment.provenance() | (numbers or {}))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def finish(self, outcome: dict[str, Any], curve: list[dict[str, Any]]) -> None:
        """Commit the training: the curve, then result.json; the checkpoint goes."""
        disk.write_text(self.path / "curve.jsonl", "".join(json.dumps(entry) + "\n" for entry in curve))
        files = [self.path / name for name in DIGESTED]
        files += sorted(path for path in self.model.rglob("*") if path.is_file())
        digests = {path.relative_to(self.path).as_posix(): disk.sha256(path) for path in files}
        result = disk.sealed({"layout": LAYOUT} | outcome | {"sha256": digests})
        disk.write_json(self.path / "result.json", result)
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def curve(self) -> list[dict[str, Any]]:
        """The entries of the training curve (of steps, and of epochs); none before it has finished."""
        path = self.path / "curve.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return list(map(json.loads, lines))

    def result(self) -> dict[str, Any] | None:
        """What the training came to, None if it has not finished."""
        return self._result_in(self.path)

    def spec(self) -> RunSpec:
        """What was asked for."""
        return self._spec_in(self.path, RunSpec, "run_id")

    def weights(self) -> dict[str, str]:
        """File -> SHA-256 of the trained weights, as they were written."""
        digests = self.result()["sha256"]
        return {name: digest for name, digest in digests.items() if name.startswith("model/")}

    def check_model(self) -> None:
        """Nothing, if the trained weights are those that were written (or an old folder has no record).

        Raises:
            DamagedError: if they are not.
        """
        self._check(self.path, self.result(), within="model/")

    def is_whole(self, evaluation: EvalSpec | None) -> bool:
        """True if the run has finished and, if one is asked for, has that evaluation, all undamaged.

        The model's weights are left for whoever loads them.
        """
        result = self.result()
        if result is None:
            return False
        self.spec()
        self._check(self.path, result, within=DIGESTED)
        return evaluation is None or self.has_evaluation(evaluation)

    # --- evaluations -------------------------------------------------------------------------------

    def _scored(self, spec: EvalSpec) -> Path:
        return self.path / f"eval/{spec.eval_id}"

    def has_evaluation(self, spec: EvalSpec) -> bool:
        """True if an evaluation was made and is whole."""
        folder, facts = self._scored(spec), self.evaluation_result(spec)
        if facts is None:
            return False
        self._spec_in(folder, EvalSpec, "eval_id")
        self._check(folder, facts, within="items.parquet")
        return True

    def evaluation(self, spec: EvalSpec) -> pd.DataFrame | None:
        """Item rows of an evaluation, None if it was not made."""
        if not self.has_evaluation(spec):
            return None
        folder = self._scored(spec)
        try:
            return pd.read_parquet(folder / "items.parquet")
        except (OSError, ValueError) as error:
            raise self._damaged(folder / "items.parquet", error, whole=folder) from error

    def evaluations(self) -> list[EvalSpec]:
        """Every evaluation that was made, by name."""
        folders = sorted(path.parent for path in self.path.glob("eval/*/result.json"))
        return [self._spec_in(folder, EvalSpec, "eval_id") for folder in folders]

    def evaluation_result(self, spec: EvalSpec) -> dict[str, Any] | None:
        """Facts about an evaluation (seconds, n_rows, fingerprint, sha256), None if it was not made."""
        return self._result_in(self._scored(spec))

    def items_digest(self, spec: EvalSpec) -> str | None:
        """SHA-256 of the item rows of an evaluation, as they were written; None if it was not made."""
        facts = self.evaluation_result(spec)
        if facts is None:
            return None
        file = self._scored(spec) / "items.parquet"
        return facts.get("sha256", {}).get("items.parquet") or disk.sha256(file)

    def write_evaluation(self, spec: EvalSpec, rows: pd.DataFrame, facts: dict[str, Any]) -> None:
        """Keep an evaluation, whole or not at all."""
        disk.remove_partials(self.path / "eval")
        with disk.folder_in_one_step(self._scored(spec)) as partial:
            rows.to_parquet(partial / "items.parquet", index=False)
            digests = {"items.parquet": disk.sha256(partial / "items.parquet")}
            disk.write_json(partial / "spec.json", spec.to_dict())
            result = disk.sealed({"layout": LAYOUT, "n_rows": len(rows)} | facts | {"sha256": digests})
            disk.write_json(partial / "result.json", result)

    def record_failure(self, reason: str, error: BaseException | None = None) -> None:
        """Say why this attempt failed, and in which run of the runner; without secrets.

        Raises:
            OSError: if the folder cannot be written.
        """
        lines = traceback.format_exception(error) if error else []
        token = os.environ.get(environment.RUN_TOKEN)
        record = {"reason": scrub(reason), "run_token": token, "traceback": scrub("".join(lines))}
        disk.write_json(self.path / "failure.json", record)

    def failure(self) -> dict[str, Any] | None:
        """What `record_failure` wrote, None if the last attempt did not fail (or cannot be read)."""
        try:
            record = json.loads((self.path / "failure.json").read_text(encoding="utf-8"))
            return record | {"reason": str(record["reason"]), "run_token": record["run_token"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget_failure(self) -> None:
        """A new attempt begins."""
        (self.path / "failure.json").unlink(missing_ok=True)

    def _damaged(self, file: Path, reason: object, *, whole: Path) -> DamagedError:
        return DamagedError(file, reason, whole=whole, name=self.path.name)

    def _result_in(self, folder: Path) -> dict[str, Any] | None:
        if folder.is_symlink() and not folder.resolve().is_relative_to(self.path.parents[1].resolve()):
            raise self._damaged(folder, "it is a link that leads out of the store", whole=folder)
        path = folder / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            layout = result["layout"]
            dict(result.get("sha256", {}))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, error, whole=folder) from error
        if layout != LAYOUT:
            raise StoreError(f"{path} is of layout {layout}, this is {LAYOUT}; use another out folder")
        if not disk.has_whole_seal(result):
            raise self._damaged(path, "its content is not what was written", whole=folder)
        return result

    def _spec_in(self, folder: Path, kind: type[RunSpec] | type[EvalSpec], name: str) -> Any:
        path = folder / "spec.json"
        try:
            spec = _spec_of(kind, path.read_text(encoding="utf-8"))
            if getattr(spec, name) != folder.name:
                raise ValueError(f"it is that of {getattr(spec, name)}")
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(path, error, whole=folder) from error
        return spec

    def _check(self, folder: Path, result: dict[str, Any] | None, *, within: str | tuple[str, ...]) -> None:
        """Compare the files whose names begin so with what a result records of them."""
        for name, digest in (result or {}).get("sha256", {}).items():
            if not name.startswith(within):
                continue
            try:
                found = disk.sha256(folder / name)
            except OSError as error:
                raise self._damaged(folder / name, error.strerror, whole=folder) from error
            if found != digest:
                raise self._damaged(folder / name, "its SHA-256 is not the recorded one", whole=folder)


@functools.lru_cache(maxsize=64)  # all runs of a plan have one of few evaluations
def _spec_of(kind: type[RunSpec] | type[EvalSpec], text: str) -> RunSpec | EvalSpec:
    return kind.from_dict(json.loads(text))


@dataclass(frozen=True)
class Store:
    """A folder of runs that is being filled, and what to do meanwhile."""

    out: Path
    progress: Progress | None = None  # called with every entry of a training curve, and with warnings
    waits: bool = True  # for another process that is making what is needed
    compute: Compute = DEFAULT  # how it is filled

    def folder(self, run_id: str) -> RunFolder:
        """Where the run of that id lives."""
        return folder_of(self.out, run_id)

    @contextlib.contextmanager
    def lease(self, name: str, is_there: Callable[[], bool]) -> Iterator[Lease | None]:
        """The lease on what is to be made, or None once it is there.

        Raises:
            HeldError: if another process holds it and we do not wait.
            StoreError: if the folder cannot be written.
        """
        has_warned = False
        while not is_there():
            try:
                own = leases.take(self.out, name)
            except leases.HeldError as error:
                if not self.waits:
                    raise
                if self.progress and not has_warned:
                    self.progress({"warning": str(error)})
                has_warned = True
                time.sleep(LOOK_AGAIN_SECONDS)
                continue
            except OSError as error:
                raise unwritable(self.out, error) from error
            with own:
                yield None if is_there() else own  # it may have been finished just before we took the lease
            return
        yield None


def folder_of(out: Path, run_id: str) -> RunFolder:
    """Where the run of that id lives under `out`.

    Raises:
        StoreError: for an id that is no plain name.
    """
    if not RUN_ID.fullmatch(run_id):
        raise StoreError(f"run id {shown(run_id)} must be a plain name of letters, digits, '.', '_' and '-'")
    return RunFolder(Path(out) / "runs" / run_id)


def finished(out: Path) -> Iterator[tuple[RunSpec, RunFolder]]:
    """Every finished run under `out`, by name.

    Raises:
        DamagedError: for a damaged folder, naming it.
    """
    for path in sorted((Path(out) / "runs").glob("*/result.json")):
        folder = RunFolder(path.parent)
        folder.result()
        yield folder.spec(), folder


def set_damaged_aside(out: Path, error: DamagedError) -> None:
    """Move what is damaged to `out`/damaged, so that it can be made anew.

    The caller holds the lease `error.name`. Nothing is done if somebody else was faster.
    """
    if not error.is_still_there():
        return
    parts = [part for part in error.whole.relative_to(out).parts[1:] if part != "eval"]
    folder = Path(out) / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    disk.set_aside(error.whole, folder / "-".join(parts))


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error for a store that cannot be written."""
    reason = error.strerror or type(error).__name__
    return StoreError(f"{path} cannot be written ({reason}); choose another out")
