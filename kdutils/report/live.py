"""Training from within a notebook: what a plan lacks is made, with its progress shown."""

import base64
import html
import io
import time
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import DisplayHandle, display
from numpy.typing import ArrayLike

from kdutils.grid import fill
from kdutils.grid.plan import Plan
from kdutils.grid.progress import State
from kdutils.items import DataError
from kdutils.report import plots
from kdutils.results import gain_tables, released_comparison

MODEL_WORLD = (
    "Live results are of a model world, tiny models that know generated texts alone: they show that the "
    "machinery works, and are no evidence about Qwen or Llama."
)


def cells(plan: Plan) -> pd.DataFrame:
    """The cells of a plan from every source, once its missing runs are made, with the progress shown.

    Says as well which weights real models have.
    """
    train(plan)
    is_model_world = gain_tables.watermarks(plan)["live"]
    if said := MODEL_WORLD if is_model_world else released_comparison.weights_line(plan):
        display({"text/html": f"<p>{html.escape(said)}</p>", "text/plain": said}, raw=True)
    return gain_tables.cells_of(plan)


def train(plan: Plan) -> None:
    """Make the runs of a plan that are missing and show how far they are; nothing if it trains nothing."""
    if not plan.runs:
        return
    line = display({"text/plain": "planning"}, display_id=True, raw=True)
    with warnings.catch_warnings():
        # tqdm misses widgets for bars that are not shown.
        warnings.filterwarnings("ignore", message="IProgress not found")
        try:
            state = fill.fill(plan.to_make, plan.out, progress=_Progress(line))
        except DataError as error:
            raise plan.profile.refusal(error) from None
    line.update({"text/plain": str(state)}, raw=True)


class _Progress:
    """Shows the state of a grid as a bar, a line, and the curves of what is running."""

    def __init__(self, line: DisplayHandle, every_seconds: float = 2.0) -> None:
        self.line, self.every_seconds, self.drawn = line, every_seconds, 0.0

    def __call__(self, state: State) -> None:
        if time.monotonic() - self.drawn > self.every_seconds:
            self.drawn = time.monotonic()
            self.line.update(self.picture(state), raw=True)

    def picture(self, state: State) -> dict[str, Any]:
        """The state as HTML, and as text where that is not shown."""
        n_over = state.n_runs - state.n_left - len(state.running)
        bar = f'<progress value="{n_over}" max="{state.n_runs}"></progress> {html.escape(str(state))}'
        bar += "".join(f"<br>{html.escape(label)}" for label in state.running)
        if curves := {label: np.array(points) for label, points in state.curves.items() if points}:
            shares = {label: (100 * at[:, 0] / at[:, 1], at[:, 2]) for label, at in curves.items()}
            png = _losses(shares, xlabel="steps done, %")
            bar += f'<br><img alt="losses of the runs that are running" src="data:image/png;base64,{png}">'
        return {"text/html": bar, "text/plain": str(state)}


class Curve:
    """The curve of a training, redrawn about once a second: `kdutils.run(spec, progress=Curve())`."""

    def __init__(self, every_seconds: float = 1.0) -> None:
        self.entries: list[dict[str, Any]] = []
        self.every_seconds, self.drawn = every_seconds, 0.0
        self.handle = display({"text/plain": "nothing trained yet"}, display_id=True, raw=True)

    def __call__(self, entry: dict[str, Any]) -> None:
        """Take one entry of the curve (or a warning)."""
        if "warning" in entry:
            display({"text/plain": entry["warning"]}, raw=True)
            return
        self.entries.append(entry)
        is_last = entry.get("step") == entry.get("n_steps")
        if is_last or time.monotonic() - self.drawn > self.every_seconds:
            self.drawn = time.monotonic()
            self.handle.update(self.picture(), raw=True)

    def picture(self) -> dict[str, Any]:
        """The loss by step and the validation loss by epoch as PNG, and the last values as text."""
        entries = pd.DataFrame(self.entries).reindex(columns=["step", "loss", "validation_loss"])
        entries["step"] = entries["step"].ffill().fillna(0)
        curves = {}
        for label, column in (("training", "loss"), ("validation", "validation_loss")):
            known = entries.dropna(subset=[column])
            curves[label] = (known["step"], known[column])
        last = {key: value for key, value in self.entries[-1].items() if isinstance(value, int | float)}
        text = ", ".join(f"{key} {value:.4g}" for key, value in last.items())
        return {"image/png": _losses(curves, xlabel="step"), "text/plain": text}


def _losses(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, xlabel: str) -> str:
    """Curves of losses by their labels, x and y, as PNG in base64."""
    fig, (ax,) = plots.panels(height=2.4)
    for (label, (x, y)), colour in zip(curves.items(), plots.ordered_colours(len(curves)), strict=True):
        ax.plot(x, y, color=colour, marker=".", label=label)
    ax.set(xlabel=xlabel, ylabel="loss, nats a token")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=100)
    plt.close(fig)
    return base64.b64encode(buffer.getvalue()).decode()
