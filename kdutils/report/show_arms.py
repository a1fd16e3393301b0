"""What notebooks with studies of arms show alike: how many runs there are, and their learning rates."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kdutils.constants import METHOD_NAMES
from kdutils.grid.study import PLANNED
from kdutils.report import plots
from kdutils.report.plots import COLOURS, MARKERS, Style
from kdutils.report.section import Section
from kdutils.results import arms

LABELS = {  # of the arms that profiles have
    "full": "all weights",
    "lora": "LoRA",
    "lora_small": "LoRA, small",
    "dora": "DoRA",
    "pissa": "PiSSA",
    "miss": "MiSS",
    "miss_bat": "MiSS, bat",
    "shadow": "Shadow",
    "shadow_kl": "Shadow, KL",
    "shadow_detached": "Shadow alone",
    "shadow_detached_kl": "Shadow alone, KL",
    "random_mask": "random mask",
    "static_mask": "static mask",
    "static_mask_half": "static mask, half",
    "id3": "ID3",
    "spt": "SPT",
    "narrow": "narrow",
    "low_rank": "low rank",
    "low_rank_plain": "low rank, plain SVD",
    "low_rank_features": "low rank, features",
    "low_rank_perturbation": "low rank, weights",
    "pruned": "pruned",
    "shared": "shared weights",
    "hybrid": "hybrid",
    "converted": "converted hybrid",
    "converted_frozen": "converted, frozen",
    "converted_distilled": "converted, distilled",
    "adamw": "AdamW",
    "muon": "Muon",
    "muon_spectral": "Muon, spectral",
    "from_base": "from the base model",
    "after_sft": "after SFT",
    "after_half": "after SFT on half",
    "after_wrong": "after wrong SFT",
    "shrunk": "shrunk, perturbed",
    "plain": "nothing",
    "l2_sp_weak": "L2-SP, weak",
    "l2_sp": "L2-SP",
    "l2_sp_strong": "L2-SP, strong",
    "intervals_weak": "intervals, weak",
    "intervals": "intervals",
    "intervals_strong": "intervals, strong",
    "replay": "replay",
    "osf": "OSF",
    arms.BASE: "as it is",
}
NAMES = {"arm": LABELS, "method": METHOD_NAMES}


def styles_of(arms: pd.Series) -> dict[str, Style]:
    """A colour and a marker for each arm there is; from the eleventh on hollow, and of another shape."""
    present = [name for name in LABELS if name in set(arms)]
    looks = ((COLOURS[at % 10], MARKERS[(at + 5 * (at // 10)) % 10], at > 9) for at in range(len(present)))
    return {name: Style(LABELS[name], *look) for name, look in zip(present, looks, strict=True)}


def _rate_curves(table: pd.DataFrame) -> Figure:
    """Validation loss over the learning rate by arm, a row of panels a method, a column a student."""
    styles, height = styles_of(table["arm"]), 0.9 + 2.3 * table["method"].nunique()
    fig, parts = plots.crossed_panels(table, "method", "student", height=height, sharey="row")
    for ax, part in parts:
        for arm, own in part.sort_values("rate").groupby("arm", sort=False):
            style, look = styles[arm], {"markersize": 3.8, "linewidth": 1.0, "markeredgewidth": 0.8}
            look |= {"marker": style.marker, "linestyle": "--" if style.is_hollow else "-"}
            look |= {"color": style.colour, "markerfacecolor": style.face}
            ax.plot(own["rate"], own["validation_loss"], **look)
        if len(part):
            ax.set_title(f"{METHOD_NAMES[part['method'].iloc[0]]}\n{part['student'].iloc[0]}")
        ax.set(xscale="log", yscale="log", xlabel="learning rate")
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("validation loss,\nnats a token")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # linear ticks leave out low losses
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    plots.figure_legend(fig, styles.values(), columns=4)
    return fig


def counts(section: Section, study: str, runs: pd.DataFrame, rates: pd.DataFrame | None = None) -> None:
    """How many trials and runs a study has, or that it is not there or not trained yet."""
    if runs.empty:
        own = PLANNED[section.number].partition("_")[2]
        section.run.remark(
            f"Profile {section.asked.profile.name} has no study of arms {study!r}, or it is not trained yet: "
            f"nothing of it is shown. ./run_all.sh {own} trains it."
        )
        return
    trials = ""
    if rates is not None:
        found = rates["outcome"].value_counts()
        said = ", ".join(f"{found.get(name, 0)} {name}" for name in ("chosen", "void", "open"))
        trials = f"{int(runs['is_trial'].sum())} trials of {len(rates)} cells: {said}; "
    n_diverged = int(np.isinf(runs.loc[runs["is_final"], "validation_loss"]).sum())
    diverged = f", of which {n_diverged} diverged" * bool(n_diverged)
    print(f"{study}: {trials}{int(runs['is_final'].sum())} runs that are compared{diverged}")


def rates(section: Section, runs: pd.DataFrame, found: pd.DataFrame) -> None:
    """Figure of the validation loss over the learning rate, and the cells that are void or open."""
    trials = runs[runs["is_trial"] & np.isfinite(runs["validation_loss"])]
    caption = "validation loss of the best epoch by learning rate, middle number of training items,"
    caption += " first seed."
    section.figure("rates", {"live": trials}, _rate_curves, caption, value="validation_loss, nats a token")
    lost = found[found["outcome"] != "chosen"].drop(columns=["teacher"]).replace(NAMES)
    caption = "arms without a learning rate: void where the best is at an end of those tried, open "
    caption += "where trials are missing or all diverged."
    section.table({"live": lost}, caption, {"rate": ".1g", "validation_loss": ".3f"})
