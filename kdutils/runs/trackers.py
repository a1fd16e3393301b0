"""Trackers of experiments: what a training logs is shown where its user looks, while it runs.

accelerate.tracking gives all trackers one interface. Each run of the store is a run of the tracker, under its
run id, so that the curve of a teacher that is tuned on the way is not mixed with its student's. To add a
tracker that accelerate has, name it in TRACKERS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.runs import comparison, model_card, store
from kdutils.runs.store import Progress
from kdutils.spec import RunSpec

PROJECT = "kdutils"
ABOUT = ("run_id", "n_steps", "step")  # of an entry of a curve: where it belongs, no value to plot
TRACKERS = {  # name, also of the package -> class of accelerate
    "tensorboard": "TensorBoardTracker",
    "wandb": "WandBTracker",
    "trackio": "TrackioTracker",
}


def _options(name: str, out: Path, run_id: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a tracker is told of a run."""
    if name == "tensorboard":
        return {"run_name": run_id, "logging_dir": out / "tensorboard"}
    own = {"run_name": PROJECT, "name": run_id, "config": settings, "resume": "allow"}
    several_at_a_time = {"id": run_id, "dir": out, "reinit": "create_new"} if name == "wandb" else {}
    return own | several_at_a_time


def check(names: Sequence[str]) -> list[str]:
    """The names of trackers, each known and installed; one name will do.

    Raises:
        ValueError: for one that is unknown or whose package is missing, with the remedy.
    """
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names or ()))
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker {name!r}: choose from {list(TRACKERS)}")
        if util.find_spec(name) is None:
            raise ValueError(f"tracker {name!r} is not installed: `python -m pip install {name}`")
    return names


class Tracking:
    """Passes the entries of training curves on to trackers. As a context, it closes them.

    A tracker that fails is left out from then on, with a warning: it is not worth a run.
    """

    def __init__(self, names: Sequence[str], out: Path, progress: Progress | None = None) -> None:
        self._names, self._out, self._progress = check(names), Path(out), progress
        self._open: dict[tuple[str, str], Any] = {}  # run id and name -> tracker
        self._steps: dict[str, int] = {}  # run id -> the last one that was logged

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *error: object) -> None:
        for (_, name), tracker in list(self._open.items()):
            self._try(name, tracker.finish)

    @property
    def progress(self) -> Progress | None:
        """What to call with every entry."""
        return self._entry if self._names else self._progress

    def _entry(self, entry: dict[str, Any]) -> None:
        if self._progress:
            self._progress(entry)
        if run_id := entry.get("run_id"):
            self._log(run_id, entry)

    def conclude(self, spec: RunSpec, items: pd.DataFrame) -> None:
        """Log what a run came to: each measure by task, a share. The curve too, if it was made before."""
        if not self._names:
            return
        curve = store.folder_of(self._out, spec.run_id).curve() if spec.run_id not in self._steps else ()
        for entry in curve:
            self._log(spec.run_id, entry)
        scores = comparison.measures(items)
        names = scores["measure"].str.replace("correct", "accuracy") + "/" + scores["task"]
        self._log(spec.run_id, dict(zip(names, scores["value"].tolist(), strict=True)))

    def _log(self, run_id: str, entry: dict[str, Any]) -> None:
        """To every tracker; what has no step of its own (an epoch's validation loss) is of the last one."""
        step = self._steps[run_id] = entry.get("step", self._steps.get(run_id, 0))
        values = {name: value for name, value in entry.items() if name not in ABOUT and value is not None}
        for name in list(self._names):
            if (run_id, name) not in self._open:
                self._try(name, self._start, run_id, name)
            if name in self._names:
                self._try(name, self._open[run_id, name].log, values, step)

    def _start(self, run_id: str, name: str) -> None:
        from accelerate import PartialState, tracking

        PartialState()  # accelerate logs nothing without
        settings = model_card.settings(store.folder_of(self._out, run_id).spec())
        options = _options(name, self._out, run_id, settings)
        tracker = getattr(tracking, TRACKERS[name])(**options)
        tracker.start()
        if "config" not in options:
            tracker.store_init_configuration(settings)
        self._open[run_id, name] = tracker

    def _try(self, name: str, what: Callable[..., None], *arguments: Any) -> None:
        try:
            what(*arguments)
        except Exception as error:
            self._names = [other for other in self._names if other != name]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logging.getLogger(__name__).warning("tracker %s failed (%s); going on without it", name, reason)
