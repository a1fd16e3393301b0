"""What notebook 16 shows: students of as many stored parameters, and pruned ones by density and training."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdutils.constants import METHOD_NAMES
from kdutils.grid.study import UNFORMATTED
from kdutils.report import figures, plots
from kdutils.report.section import Section
from kdutils.report.show_arms import LABELS, NAMES
from kdutils.results import construction, gain_tables
from kdutils.results.gain_tables import interval_text

COLUMNS = {  # of construction.table -> in words
    "right": "accuracy, %",
    "same": "agreement, %",
    "bleu": "fidelity, BLEU",
    "same_matched": "agreement at matched accuracy",
    "bleu_matched": "fidelity at matched accuracy",
    "gap": "written less ranked, points",
    "nll": "loss",
    "forward_kl": "KL(T, S)",
}
DIGITS = {"nll": 3, "forward_kl": 3}
SIGNED = ("same_matched", "bleu_matched", "gap")
NAME = ["student", "arm", "method"]


def table(section: Section, found: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Every student with all that is measured, what it stores, and how long a step takes."""
    texts = []
    for row in found.itertuples():
        look = {"digits": DIGITS.get(row.measure, 1), "signed": row.measure in SIGNED}
        texts.append(interval_text(row.value, row.low, row.high, **look))
    texts = found.assign(text=texts, measure=found["measure"].map(COLUMNS))
    shown = gain_tables.wide(texts, index=NAME, columns="measure", values="text")
    finals = runs[runs["is_final"]].assign(step=1000 * runs["seconds"] / runs["steps"])
    costs = finals.assign(kB=finals["file_bytes"] / 1000).groupby(NAME)[["stored_parameters", "kB", "step"]]
    costs = costs.mean().set_axis(["numbers stored", "kB", "ms a step"], axis=1)
    shown = shown.join(costs, on=NAME).replace(NAMES)
    caption = "students on test items, 95% intervals over items and seeds. At matched accuracy: "
    caption += "what is left once the line on accuracy over all students of as many numbers is taken "
    caption += "out. Written less ranked: by how much more a student is behind its teacher in what it "
    caption += "writes than in how it ranks options. kB: its file."
    section.table({"live": shown}, caption, {"numbers stored": ",.0f", "kB": ".0f", "ms a step": ".1f"})


def likeness(section: Section, found: pd.DataFrame) -> None:
    """Figure of fidelity at matched accuracy by construction."""
    shown = found[found["measure"] == "bleu_matched"].assign(domain="math", **{UNFORMATTED: False})
    shown = shown.assign(way=shown["arm"].map(LABELS)).rename(columns={"value": "fidelity"})
    shown = shown.dropna(subset=["fidelity"])
    look = {"y": "way", "x": "fidelity", "xlabel": "fidelity at matched accuracy, BLEU"}
    look |= {"height": 1.4 + 0.36 * shown["way"].nunique(), "value": "fidelity, BLEU"}
    caption = "likeness to the teacher's texts that accuracy does not explain, by construction; 95%"
    caption += " intervals."
    section.figure("likeness", {"live": shown}, figures.interval_panels, caption, **look)


def regimes(section: Section, found: pd.DataFrame) -> None:
    """Figure of the accuracy of pruned students over dense epochs, by density; `construction.regimes`."""
    caption = "accuracy after pruning and retraining over the epochs of the dense model before, by "
    caption += "the share of weights that is kept. Where lines cross, which training is best hangs "
    caption += "on the density. Bars: 95% intervals over items and seeds."
    section.figure("regimes", {"live": found}, _regimes, caption, value="accuracy, %")


def _regimes(found: pd.DataFrame) -> Figure:
    methods = list(dict.fromkeys(found["method"]))
    fig, axes = plots.panels(1, len(methods), height=2.8, sharey=True)
    styles = plots.ordered_styles(found["density"], "density")
    for ax, method in zip(axes, methods, strict=True):
        for density, own in found[found["method"] == method].groupby("density"):
            own = own.sort_values("dense_epochs")
            bars = np.abs(own[["low", "high"]].to_numpy().T - own["accuracy"].to_numpy())
            look = {"color": styles[density].colour, "marker": styles[density].marker, "markersize": 4}
            ax.errorbar(own["dense_epochs"], own["accuracy"], yerr=bars, linewidth=1.0, **look)
        ax.set(title=METHOD_NAMES[method], xlabel="epochs of the dense model", xscale="log")
        ticks = sorted(set(found["dense_epochs"]))
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("accuracy, %")
    plots.figure_legend(fig, styles.values())
    return fig


def twins(section: Section, found: pd.DataFrame) -> None:
    """Whether twins, retrained on the same items in two orders, lie in one basin: `construction.twins`."""
    caption = "regimes of pruned students. barrier: loss between those of the ends less that on the "
    caption += "straight line between twins, retrained on the same items in two orders, where that is "
    caption += "farthest, nats a token (below 0: a barrier); CKA of their logits; means over seeds. "
    caption += f"I: a barrier of more than {construction.BARRIER} nats; II-A: none, but a CKA below "
    caption += f"{construction.ALIKE}; II-B: none, and alike (also where both are near chance). The "
    caption += "source gives neither number, and has training errors where these are losses on test items."
    shown = found.replace({"method": METHOD_NAMES})
    section.table({"live": shown}, caption, {"density": ".2g", "barrier": ".3f", "cka": ".3f"})


def sentences(section: Section, found: pd.DataFrame, judged: str) -> list[str]:
    """Which construction is nearest to its teacher at matched accuracy, and which is the most accurate."""
    if found.empty:
        return ["No construction is trained at a chosen learning rate, so nothing is said.", judged]
    label, said = section.labels["live"], []
    found = found[~found["arm"].isin(construction.LATER)]
    by_method = found.pivot_table("value", index=["measure", "arm"], columns="method")
    for measure, words in (("right", "most accurate"), ("bleu_matched", "most faithful at matched accuracy")):
        own = by_method[by_method.index.get_level_values("measure") == measure].droplevel("measure")
        own = own.dropna().mean(axis=1)  # a construction that is void by one method is not compared
        if own.empty:
            continue
        best, least = own.idxmax(), own.idxmin()
        said.append(
            f"{label}: of {len(own)} constructions of as many numbers, means over methods, {LABELS[best]} "
            f"is the {words} ({COLUMNS[measure]}: {own[best]:.1f}), {LABELS[least]} the least "
            f"({own[least]:.1f})."
        )
    return [*said, judged]
