"""What notebook 05 shows of fidelity: likeness of texts, the paradox item by item, kinds of errors."""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np
import pandas as pd

from kdutils.claims import claims
from kdutils.report import figures, likeness_figures
from kdutils.report.section import Section, span
from kdutils.report.show_agreement import BLEU, rise_by_method, rise_of_one_pair, rise_sentences
from kdutils.report.show_gains import POINTS
from kdutils.results import (
    agreement_fidelity,
    authors_tests,
    paradox,
    solution_steps,
    sweeps,
)


def with_fidelity(section: Section) -> dict[str, pd.DataFrame]:
    """The gains of every source whose fidelity is known."""
    tables = {source: table.dropna(subset=["fidelity"]) for source, table in section.gains.items()}
    return {source: table for source, table in tables.items() if len(table)}


def two_tables(section: Section) -> None:
    """The two released tables of fidelity, and how they rank the same students."""
    released = with_fidelity(section).get("published")
    if released is not None:
        both = authors_tests.compare_fidelity_tables(released)
        section.table("published", both, "the two fidelity tables, and how they rank the same students.")


def released_rise(section: Section) -> None:
    """Released fidelity of the SFT and of the KD student, by pair, in both tables."""
    released = with_fidelity(section).get("published")
    if released is None:
        return
    tables = {"BLEU.csv": "fidelity", "BLEU2.csv": "fidelity_bleu2"}
    pairs = agreement_fidelity.tables(released, measures=tables)
    rise = pairs.groupby("table")["rise"].mean()
    sides = {"left": "sft", "right": "kd", "xlabel": "likeness to the teacher's rationale, %", "by": "table"}
    alt = f"KD adds {rise['BLEU.csv']:+.2f} to BLEU.csv and {rise['BLEU2.csv']:+.2f} to BLEU2.csv on average."
    caption = "fidelity to the teacher, mean over math tasks, of the SFT and of the KD student."
    draw = partial(figures.before_and_after, **sides)
    section.figure("fidelity_rise", {"published": pairs}, draw, alt=alt, caption=caption)


def live_rise(section: Section) -> None:
    """Live BLEU of the SFT and of each KD student, by pair; of one live pair by task, with its rise."""
    gains = with_fidelity(section).get("live")
    if len(section.items.beside):
        rise_of_one_pair(section, "fidelity")
    elif gains is not None:
        table = agreement_fidelity.by_method(gains, measure="fidelity")
        alt = f"Mean BLEU from {span(table['fidelity'], '.1f')} percent by pair."
        caption = f"mean over tasks of the BLEU with the teacher's texts ({sweeps.decoding(gains)})."
        draw = partial(likeness_figures.likeness_by_method, measure="fidelity", xlabel=BLEU)
        section.figure("fidelity_rise", {"live": table}, draw, alt=alt, caption=caption)
        rise_by_method(section, "fidelity", "BLEU before (sft) and after KD, %, and its rise")


def level_and_gain(section: Section) -> None:
    """Fidelity against accuracy, and gain against fidelity."""
    for source, table in with_fidelity(section).items():
        label = f"fidelity ({agreement_fidelity.FIDELITY_NAMES[source]}), %"
        alt = f"{len(table)} points. {authors_tests.fidelity_remark(table)}"
        caption = "fidelity against accuracy (left), gain against fidelity (right): pairs x methods x tasks."
        draw = partial(likeness_figures.level_and_gain, measure="fidelity", label=label)
        section.figure("fidelity_scatter", {source: table}, draw, alt=alt, caption=caption)


def second_table(section: Section) -> None:
    """Rank correlation of gain and BLEU2.csv, which is more likely to be BLEU."""
    released = with_fidelity(section).get("published")
    if released is not None:
        table = authors_tests.correlation_by_task(released, x="gain", y="fidelity_bleu2")
        section.table("published", table, "Spearman rho of gain and BLEU2.csv, all methods.")


def right_and_alike(section: Section) -> None:
    """Being right and writing like the teacher, correlated over the items of each live run."""
    alike = agreement_fidelity.right_and_alike(section.of("live"))
    if alike.empty:
        return
    links = authors_tests.item_links(alike, bound=claims.FEEBLE)
    alt = f"Median |r| by task from {span(links['median |r|'], '.2f')}, {len(alike)} runs x tasks."
    caption = "being right and writing like the teacher, correlated over items; every run a point."
    draw = partial(likeness_figures.right_and_alike, bound=claims.FEEBLE)
    section.figure("right_and_alike", {"live": alike}, draw, alt=alt, caption=caption)
    section.table("live", links, "the same by task.", {"median r": "+.2f", "median |r|": ".2f"})


class Texts:
    """The live texts beside those of their teachers, math, temperature 1, and what is made of them.

    One generator serves the analyses in the order in which the notebook shows them. Each method shows nothing
    where there are no texts.
    """

    def __init__(self, section: Section) -> None:
        self.section, self.kept = section, section.run.kept
        self.written = section.in_view(self.kept(paradox.texts, section.asked))
        self.rng = np.random.default_rng(20_240_506)
        self.has_svamp = bool((self.written["task"] == "svamp").any())
        self.contrasted = pd.DataFrame()  # paradox.contrasts, once `contrasts` was shown

    @cached_property
    def rises(self) -> pd.DataFrame:
        """Each KD text against the SFT text of the same student, seed and item."""
        return paradox.changes(self.written)

    def by_outcome(self) -> None:
        """Likeness to the teacher's text by who is right."""
        if self.written.empty:
            return
        levels = self.kept(paradox.by_group, self.written, "outcome", paradox.OUTCOMES, rng=self.rng)
        means = levels.query("measure == 'bleu'").set_index(["method", "group"])["estimate"]
        both, other = means["sft", "both_right"], means["sft", "other_wrong"]
        alt = f"Sentence BLEU of SFT: both right {both:.0f} %, both wrong with other answers {other:.0f} %."
        caption = "likeness to the tuned teacher's text by who is right, math, temperature 1."
        draw = partial(likeness_figures.likeness_by_group, xlabel="likeness to the teacher, %")
        self.section.figure("fidelity_by_outcome", {"live": levels}, draw, alt=alt, caption=caption)

    def links_on_svamp(self) -> None:
        """The correlation of being right with likeness on SVAMP, mean over students."""
        if not self.has_svamp:
            return
        own = np.random.default_rng(20_240_508)
        links = self.kept(paradox.links, self.written, task="svamp", rng=own).drop(columns="method")
        links = links.rename(columns={"label": "student", "n_students": "students", "n_runs": "runs"})
        caption = "right and alike on SVAMP: correlation over items, 95% interval over students and items."
        self.section.table("live", links, caption, dict.fromkeys(("estimate", "low", "high"), "+.2f"))

    def by_fate(self) -> None:
        """How much closer to the teacher's text KD came than SFT, by what became of the item."""
        if self.written.empty:
            return
        fates = self.kept(paradox.by_group, self.rises, "fate", paradox.FATES, rng=self.rng)
        bleu = fates.query("measure == 'bleu' and group == 'became_right'")["estimate"]
        alt = f"Change of sentence BLEU where items became right: {span(bleu, '+.1f')} points."
        caption = "how much closer to the teacher's text KD came than SFT, by what became of the item (in "
        caption += "the first four the teacher is right); same student, seed and item, math."
        draw = partial(likeness_figures.likeness_by_group, xlabel="change of likeness through KD, points")
        self.section.figure("paradox", {"live": fates}, draw, alt=alt, caption=caption)

    def contrasts(self) -> None:
        """Change of likeness where items became right less that of others, and what it says."""
        if self.written.empty:
            return
        self.contrasted = self.kept(paradox.contrasts, self.rises, rng=self.rng)
        names = {"label": "method", "than_label": "became right, less", "n_than": "n of the others"}
        names["estimate"] = "difference, points"
        table = self.contrasted.assign(measure=self.contrasted["measure"].map(paradox.MEASURES))
        table = table[["label", "than_label", "measure", "estimate", "low", "high", "reason", "n", "n_than"]]
        table = table.rename(columns=names)
        caption = "change of likeness where items became right less that of others, same pair, seed and "
        caption += "task, with 95% intervals; n: items that became right, and the others."
        self.section.table("live", table, caption, POINTS | {"difference, points": "+.1f"})
        self.section.run.remark(paradox.remark(self.contrasted))

    def sentences(self) -> list[str]:
        """For how many methods coming closer to the teacher goes with becoming right; [] without texts."""
        if self.contrasted.empty:
            return []
        rows = self.contrasted[self.contrasted["than"] == "stayed_wrong"].set_index("measure")
        above = {name: int((rows.loc[[name], "low"] > 0).sum()) for name in ("bleu", "wording")}
        n_methods, bleu = rows["method"].nunique(), span(rows.loc[["bleu"], "estimate"], "+.1f")
        return [
            f"{self.section.labels['live']}, item by item: sentence BLEU with the teacher rises more where "
            f"items became right than where they stayed wrong in {above['bleu']} of {n_methods} methods "
            f"({bleu} points, 95% interval above 0), in the words alone in {above['wording']}."
        ]

    def followed(self) -> None:
        """Whether the answer that is stated is the result of the last step."""
        if self.written.empty:
            return
        table = self.kept(solution_steps.followed, self.written, self.rises, rng=self.rng)
        caption = "percent of texts that can be checked, of these with an answer that follows, and of steps "
        caption += "that are right, with 95% intervals; KD also by what became of the item."
        self.section.table("live", table, caption)

    def errors_on_svamp(self) -> None:
        """What is wrong with SVAMP answers, by rule: a bar a method, and the shares with their intervals."""
        if not self.has_svamp:
            return
        found = self.kept(solution_steps.errors, self.section.asked, self.written, task="svamp", rng=self.rng)
        wide = solution_steps.error_shares(found)
        wrong = span(wide["arithmetic"], ".0f")
        alt = f"Kinds of SVAMP answers by method; right steps with wrong arithmetic {wrong} %."
        caption = "what is wrong with SVAMP answers, share of texts by method, temperature 1."
        draw = likeness_figures.error_shares
        self.section.figure("error_categories", {"live": wide}, draw, alt=alt, caption=caption)
        names = {"label": "student", "estimate": "share, %", "n": "texts", "n_pairs": "pairs"}
        table = found.assign(category=found["category"].map(solution_steps.CATEGORIES))
        table = table[["label", "category", "estimate", "low", "high", "n", "n_pairs", "n_without"]]
        table = table.rename(columns=names | {"n_without": "left out"})
        formats = dict.fromkeys(("share, %", "low", "high"), ".1f")
        self.section.table("live", table, "the same, with 95% intervals.", formats)


def side_by_side(section: Section) -> None:
    """Texts of teacher, SFT and KD student to the same questions."""
    texts = section.run.kept(paradox.examples, section.asked, rng=np.random.default_rng(20_240_505))
    section.table("live", texts, f"texts side by side. Rows are {paradox.DRAWN}.")


def sentences(section: Section, texts: Texts) -> list[str]:
    """How far fidelity rises, and whether it goes with the gain and with becoming right."""
    said = rise_sentences(section, "fidelity", "the likeness to the teacher's texts")
    said += section.correlation_sentences("spearman_gain_fidelity")
    return said + texts.sentences()
