"""What notebook 17 shows: students by where they start, and by what holds them to their first domain."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdutils.constants import DOMAIN_LABELS, METHOD_NAMES
from kdutils.grid.study import UNFORMATTED
from kdutils.report import plots
from kdutils.report.section import Section, span
from kdutils.report.show_arms import LABELS, NAMES, styles_of
from kdutils.results import forgetting, gain_tables
from kdutils.results.gain_tables import interval_text

STARTS = {"right": "accuracy, %", "same": "agreement, %", "bleu": "fidelity, BLEU", "nll": "loss"}
KEPT = {"after": "first domain, %", "forgetting": "forgotten, points", "second": "second domain, %"}
KEPT |= {"agreement": "agreement with the first teacher, %", "bleu": "fidelity to it, BLEU"}


def starts(section: Section, found: pd.DataFrame, tokens: pd.DataFrame) -> None:
    """Students by where they start; `training.starts` and `training.tokens_until_near`."""
    texts = [
        interval_text(row.value, row.low, row.high, digits=3 if row.measure == "nll" else 1, signed=False)
        for row in found.itertuples()
    ]
    texts = found.assign(text=texts, measure=found["measure"].map(STARTS))
    shown = gain_tables.wide(texts, index=["arm", "method"], columns="measure", values="text")
    means = tokens.groupby(["arm", "method"])["tokens"].mean().rename("tokens")
    shown = shown.join(means, on=["arm", "method"]).replace(NAMES)
    caption = "students that read as many sequences in all, by where KD starts; 95% intervals over "
    caption += "items and seeds, which are orders of the same training items. tokens: target tokens, with "
    caption += "those of the SFT before, until the validation loss is within 1 % of the final one."
    section.table({"live": shown}, caption, {"tokens": ",.0f"})


def frontiers(section: Section, in_turn: pd.DataFrame) -> None:
    """Figure of what is kept of the first domain over the second, by what holds the student back."""
    caption = "accuracy on the first domain over accuracy on the second, by what holds the student to "
    caption += "the first; a marker a run, a line from nothing through the means by rising strength."
    drawn = in_turn.assign(**{UNFORMATTED: False})  # the marks are of students without a first domain
    section.figure("forgetting", {"live": drawn}, _frontiers, caption, value="after, %")


def _frontiers(in_turn: pd.DataFrame) -> Figure:
    runs = in_turn.assign(family=in_turn["penalty"].where(in_turn["penalty"] != "", in_turn["arm"]))
    styles = styles_of(runs["family"])
    fig, parts = plots.crossed_panels(runs, "first_domain", "method", height=5.0, sharex="row", sharey="row")
    for ax, part in parts:
        for family, own in part.groupby("family", sort=False):
            look = {"color": styles[family].colour, "marker": styles[family].marker}
            ax.scatter(own["second"], own["after"], s=16, **look)
        lines = forgetting.curves(forgetting.means(part))
        for penalty, own in lines[lines["penalty"] != ""].groupby("penalty"):
            ax.plot(own["second"], own["after"], linewidth=1.0, color=styles[penalty].colour)
        if len(part):
            first, method = part[["first_domain", "method"]].iloc[0]
            ax.set_title(f"{DOMAIN_LABELS[first]} first, {METHOD_NAMES[method]}")
        ax.set(xlabel="accuracy on the second domain, %", ylabel="accuracy on the first, %")
    plots.figure_legend(fig, styles.values())
    return fig


def kept(section: Section, in_turn: pd.DataFrame) -> None:
    """What is kept and forgotten, means over seeds."""
    names = ["first_domain", "method", "arm"]
    shown = in_turn.groupby(names, sort=False)[list(KEPT)].mean().reset_index().replace(NAMES)
    caption = "two domains in turn, means over seeds: accuracy on the first afterwards, points lost"
    caption += " of it, accuracy on the second, and likeness to the teacher of the first."
    section.table({"live": shown.rename(columns=KEPT)}, caption, dict.fromkeys(KEPT.values(), ".1f"))


def sentences(section: Section, found: pd.DataFrame, in_turn: pd.DataFrame, judged: str) -> list[str]:
    """Which start is the most faithful, and how much is forgotten by method."""
    label, said = section.labels["live"], []
    if len(found):
        means = found[found["measure"] == "bleu"].groupby("arm")["value"].mean()
        said.append(
            f"{label}: fidelity is {span(means, '.1f')} BLEU over {len(means)} starts, the most "
            f"{LABELS[means.idxmax()]}, the least {LABELS[means.idxmin()]}."
        )
    for method, own in in_turn.groupby("method", sort=False):
        plain = own[own["arm"] == "plain"]
        share = 100 * np.mean(plain["forgetting"] > 0) if len(plain) else np.nan
        said.append(
            f"{label}, {METHOD_NAMES[method]}: {plain['forgetting'].mean():.1f} points of the first domain "
            f"are forgotten when nothing holds the student, some in {share:.0f} % of {len(plain)} runs."
        )
    return [*(said or ["Nothing is trained yet, so nothing is said."]), judged]
