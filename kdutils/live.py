"""Training from within a notebook: what a profile lacks is made, with its progress shown."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from kdutils import figures, store
from kdutils.spec import load_profile


class TrainingError(RuntimeError):
    """Runs that failed, each with its reason."""


def train(profile: str, out: Path | str = store.OUTPUTS, *, workers: int | None = None) -> None:
    """Make the runs of a profile that are missing under `out` and show how far they are.

    Does nothing for a profile that only reads the released results. A relative `out` is taken from the
    repository. What is finished when it is interrupted stays finished.

    Raises:
        TrainingError: after all others are made, if a run failed.
    """
    live = load_profile(profile).live
    if live is None:
        return
    from kdutils import grid  # loads torch, which a profile without training does not need

    line = display(_shown("planning"), display_id=True, raw=True)
    state = grid.fill(
        live,
        store.REPOSITORY / out,
        workers=workers,
        progress=lambda state: line.update(_shown(str(state)), raw=True),
    )
    line.update(_shown(str(state)), raw=True)
    if state.failures:
        raise TrainingError(str(state))


class Curve:
    """The curve of a training, drawn anew about once a second: `kdutils.run(spec, progress=Curve())`."""

    def __init__(self, every_seconds: float = 1.0) -> None:
        self.entries: list[dict[str, Any]] = []
        self.every_seconds, self.drawn = every_seconds, 0.0
        self.handle = display(_shown("nothing trained yet"), display_id=True, raw=True)

    def __call__(self, entry: dict[str, Any]) -> None:
        """Take one entry of the curve (or a warning)."""
        if "warning" in entry:
            display(_shown(entry["warning"]), raw=True)
            return
        self.entries.append(entry)
        is_last = entry.get("step") == entry.get("n_steps")
        if is_last or time.monotonic() - self.drawn > self.every_seconds:
            self.drawn = time.monotonic()
            self.handle.update(self.picture(), raw=True)

    def picture(self) -> dict[str, Any]:
        """The loss by step and the validation loss by epoch as PNG, and the last values as text."""
        fig = figures.training_curve(pd.DataFrame(self.entries))
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=100)
        plt.close(fig)
        last = self.entries[-1]
        text = ", ".join(
            f"{key} {value:.4g}" for key, value in last.items() if isinstance(value, int | float)
        )
        return {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": text}


def _shown(text: str) -> dict[str, Any]:
    return {"text/plain": text}
