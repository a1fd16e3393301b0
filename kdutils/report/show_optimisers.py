"""What notebook 17 shows of optimisers: best rates over widths, norms of matrices, signs of contrasts."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from kdutils.constants import METHOD_NAMES
from kdutils.report import plots
from kdutils.report.section import Section
from kdutils.report.show_arms import NAMES, styles_of
from kdutils.results import optimisers
from kdutils.results.gain_tables import interval_text

OCTAVES = 1e-4 * 2.0 ** np.arange(-10, 14)  # ticks of rates
STYLE = styles_of(pd.Series(optimisers.OPTIMISERS))  # as in the figure of the trials


def best_rates(section: Section, best: pd.DataFrame) -> None:
    """Figure of the best learning rate over the width, and by how much it moves over all widths."""
    caption = "best learning rate by width, between those tried by a parabola; lines are an octave apart."
    drawn = best.dropna(subset=["rate"])
    section.figure("best_rates", {"live": drawn}, _rates_over_widths, caption, value="rate")
    found = optimisers.shifts(best)
    moved = [interval_text(*row, digits=2) for row in found[["octaves", "low", "high"]].to_numpy(float)]
    shown = found.assign(octaves=moved).drop(columns=["low", "high"]).replace(NAMES)
    caption = "by how many octaves (factors of 2) the best rate of the widest student lies above that of the "
    section.table({"live": shown}, f"{caption}narrowest, along a line through all widths; 95% intervals.")


def _rates_over_widths(best: pd.DataFrame) -> Figure:
    fig, parts = plots.domain_panels(best, height=2.6, xlabel="width", by="method", sharex=True, sharey=True)
    for ax, part in parts:
        for arm, own in part.groupby("arm", sort=False):
            look = {"color": STYLE[arm].colour, "marker": STYLE[arm].marker, "markersize": 4}
            ax.plot(own["width"], own["rate"], linestyle="none", **look)
            means = np.exp2(np.log2(own["rate"]).groupby(own["width"]).mean())
            ax.plot(means.index, means, color=look["color"], linewidth=1.0)
        ax.set(xscale="log", title=METHOD_NAMES[part["method"].iloc[0]])
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_locator(FixedLocator(OCTAVES))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks(widths := sorted(set(best["width"])), [f"{width:g}" for width in widths])
        ax.minorticks_off()
    parts[0][0].set_ylabel("best learning rate")
    return plots.with_legend(fig, best, by="arm", styles=STYLE)


def norms(section: Section, bands: pd.DataFrame) -> None:
    """The band of the matrices' norms before and after training, and how far it moved."""
    names = ["student", "method", "arm"]
    runs = bands.groupby([*names, "train_items", "seed"], sort=False)
    columns = {"least_norm": "least", "largest_norm": "largest"}
    first, last = (getattr(runs[list(columns)], end)().rename(columns=columns) for end in ("first", "last"))
    shown = first.add_suffix(" before").join(last.add_suffix(" after")).assign(octaves=runs["drift"].max())
    shown = shown.groupby(names, sort=False).mean().reset_index().replace(NAMES)
    caption = "spectral norm of a matrix over √(outputs / inputs), the least and the largest of all, before "
    caption += "and after training, and the most by which either changed; means over runs at the chosen "
    section.table({"live": shown}, f"{caption}rates.", ".2f")


def signs(section: Section, found: pd.DataFrame) -> None:
    """The contrasts of methods under each optimiser."""
    texts = [interval_text(*row, digits=3) for row in found[["difference", "low", "high"]].to_numpy(float)]
    shown = found.assign(difference=texts, changes=np.where(found["changes"], "yes", "")).replace(NAMES)
    shown = shown.drop(columns=["teacher", "low", "high", "sign"])
    caption = "differences of the loss between methods by optimiser, nats a token, 95% intervals over items "
    section.table({"live": shown}, f"{caption}and seeds; changes: the sign is another than under AdamW.")


def sentences(section: Section, best: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """How far the best rate moves under each optimiser, and how many contrasts change their sign."""
    moved = [
        f"{STYLE[row.arm].label} {interval_text(row.octaves, row.low, row.high, digits=1)}"
        for row in optimisers.shifts(best).itertuples()
    ]
    said, n = [], int((found["arm"] != optimisers.ADAMW).sum())
    if moved:
        said.append(f"the best rate moves over the widths by, in octaves, {', '.join(moved)}.")
    if n:
        changed = int(found["changes"].sum())
        said.append(f"{changed} of {n} contrasts of methods have another sign under Muon.")
    return [f"{section.labels['live']}: {sentence}" for sentence in said]
