"""What notebooks 04 and 05 show of likeness to the teacher: agreement of answers, fidelity of texts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdutils.claims import claims
from kdutils.constants import AVERAGE
from kdutils.inference import intervals
from kdutils.report import figures, styles, teacher_figures
from kdutils.report.section import Section, by_domain, span
from kdutils.results import (
    agreement_fidelity,
    authors_tests,
    capa,
    examples,
    gain_tables,
    item_gains,
    paradox,
    released_comparison,
    solution_steps,
    sweeps,
)

BLEU = "BLEU with the teacher's texts, %"
ONE_PAIR = {  # likeness -> its values, live beside released ones, what it is, title of its axis
    "agreement": (
        item_gains.agreements,
        released_comparison.agreements,
        "agreement with the tuned teacher",
        "same answer as the teacher, % of items",
    ),
    "fidelity": (
        item_gains.fidelities,
        released_comparison.fidelities,
        "corpus BLEU with the tuned teacher's texts",
        BLEU,
    ),
}
SIGNED = dict.fromkeys(("rise", "rise_low", "rise_high", "low", "high", "above"), "+.1f")

# --- before and after KD --------------------------------------------------------------------------------


def rise_by_method(section: Section, measure: str, caption: str) -> None:
    """Table of a live likeness to the teacher before (sft) and after KD, by method."""
    table = authors_tests.rise_by_method(section.gains["live"], measure=measure)
    formats = SIGNED | {"sft": ".1f", "kd": ".1f"}
    section.table({"live": table}, f"{caption}; 95% interval over pairs.", formats)


def rise_of_one_pair(section: Section, measure: str = "agreement") -> None:
    """Agreement or fidelity of the one live pair by task and method, and its rise over SFT by item."""
    if section.items.beside.empty:
        return
    likeness, released, what, xlabel = ONE_PAIR[measure]
    table = section.in_view(likeness(section.items.beside))
    look = {"x": measure, "xlabel": xlabel, "value": f"{measure}, %"}
    caption = f"{what} by task and method, temperature 1, intervals over items."
    section.figure(f"{measure}_rise", {"live": table}, figures.by_task, **look, caption=caption)
    average = table[table["task"] == AVERAGE]
    rises = average[["domain", "method", "n", measure, "rise", "rise_low", "rise_high", "p_value"]]
    caption = f"{what} on average over tasks, %, and its rise over SFT on the same items."
    section.table({"live": rises}, caption, SIGNED | {measure: ".1f"})
    section.pair_table(released, f"{what} by task, %, with 95% intervals over items.")


def agreement_rise(section: Section) -> None:
    """Agreement with the teacher of the SFT and of the KD student, by pair; of one live pair by task."""
    tables = {
        source: agreement_fidelity.by_pair(gains, measure="agreement")
        for source, gains in section.gains.items()
    }
    if len(section.items.beside):
        tables.pop("live", None)
    whom = {"published": "of the SFT and of the released KD student (EM1)."}
    whom["live"] = f"of the SFT student and, mean over its methods, of the KD students ({section.selection})."
    section.figure(
        "agreement_rise",
        tables,
        teacher_figures.before_and_after,
        left="sft",
        right="kd",
        xlabel="same answer as the teacher,\n% of items",
        value="rise, points",
        caption={source: f"agreement with the teacher, mean over tasks, {whom[source]}" for source in tables},
    )
    if "live" in tables:
        caption = f"agreement, %, mean over tasks and pairs, by method, {section.selection}"
        rise_by_method(section, "agreement", caption)
    rise_of_one_pair(section)


def with_fidelity(section: Section) -> dict[str, pd.DataFrame]:
    """The gains of every source whose fidelity is known."""
    tables = {source: table.dropna(subset=["fidelity"]) for source, table in section.gains.items()}
    return {source: table for source, table in tables.items() if len(table)}


def released_tables(section: Section) -> None:
    """The two released tables of fidelity: how they rank the same students, and go with the gain."""
    if (released := with_fidelity(section).get("published")) is not None:
        both = authors_tests.compare_fidelity_tables(released)
        section.table({"published": both}, "the two fidelity tables, and how they rank the same students.")


def fidelity_rise(section: Section) -> None:
    """Fidelity of the SFT and of the KD student by pair: released in both tables, live by method.

    Of one live pair by task, with its rise.
    """
    tables = with_fidelity(section)
    if "published" in tables:
        measures = {"BLEU.csv": "fidelity", "BLEU2.csv": "fidelity_bleu2"}
        pairs = agreement_fidelity.tables(tables["published"], measures=measures)
        rise = pairs.groupby("table")["rise"].mean().items()
        section.figure(
            "fidelity_rise",
            {"published": pairs},
            teacher_figures.before_and_after,
            left="sft",
            right="kd",
            xlabel="likeness to the teacher's rationale, %",
            by="table",
            alt=f"KD adds {', '.join(f'{mean:+.2f} to {name}' for name, mean in rise)} on average.",
            caption="fidelity to the teacher, mean over math tasks, of the SFT and of the KD student.",
        )
    if len(section.items.beside):
        rise_of_one_pair(section, "fidelity")
    elif "live" in tables:
        table = agreement_fidelity.by_method(tables["live"], measure="fidelity")
        look = {"measure": "fidelity", "xlabel": BLEU, "value": "fidelity, %"}
        caption = f"mean over tasks of the BLEU with the teacher's texts ({sweeps.decoding(tables['live'])})."
        section.figure(
            "fidelity_rise", {"live": table}, teacher_figures.likeness_by_method, **look, caption=caption
        )
        rise_by_method(section, "fidelity", "BLEU before (sft) and after KD, %, and its rise")


def rise_sentences(section: Section, measure: str, what: str) -> list[str]:
    """How much KD raises a likeness to the teacher, mean over pairs with an interval over them.

    One sentence for all sources that have several pairs, all methods together.
    """
    parts = []
    for source, gains in gain_tables.several_pairs(section.gains).items():
        pairs = agreement_fidelity.by_pair(gains, measure=measure).groupby("domain", sort=False)["rise"]
        rows = [{"domain": domain} | vars(intervals.mean_interval(rise)) for domain, rise in pairs]
        parts.append(f"{section.labels[source]}: {by_domain(pd.DataFrame(rows), value='value')}")
    return [f"KD changes {what}. {'; '.join(parts)} (95% intervals over pairs)."] if parts else []


# --- 04: agreement --------------------------------------------------------------------------------------


def against_accuracy(section: Section) -> None:
    """Agreement against accuracy, every run and task a point, and their rank correlation by task.

    Of the released results reverse KL at temperature 1, which most of the released agreement values fit.
    """
    which = {"published": "RevKD, temperature 1", "live": f"all methods, {section.selection}"}
    tables = dict(section.gains)
    if "published" in tables:
        tables["published"] = _released_at_1(section).query("method == 'revkd'")
    look = {"x": "accuracy", "xlabel": "student accuracy, %", "has_equal": True}
    look |= {"y": "agreement", "ylabel": "same answer as the teacher, %", "value": "agreement, %"}
    for source, table in tables.items():
        tables[source] = table.dropna(subset=["agreement"])
        caption = f"agreement against accuracy of the student ({which[source]}); dashed: equal."
        kinds = {"by": "domain", "styles": styles.DOMAIN_STYLE} if source == "published" else {}
        shown = {source: tables[source]}
        section.figure("agreement_by_accuracy", shown, figures.against, **look, **kinds, caption=caption)
    for source, table in gain_tables.several_pairs(tables).items():
        rhos = {source: authors_tests.correlation_by_task(table, x="accuracy", y="agreement")}
        section.table(rhos, f"Spearman rho over pairs of agreement and accuracy ({which[source]}).")


def _released_at_1(section: Section) -> pd.DataFrame:
    return gain_tables.gains(section.of("published"), selection="temperature_1")


def answer_shares(section: Section) -> None:
    """What the agreement is made of: both right, both wrong alike, and the rest."""
    answers = agreement_fidelity.answers(section.answers)
    if answers.empty:
        return
    shares = agreement_fidelity.answer_shares(answers)
    alike = span(shares["same_wrong"], ".1f")
    alt = f"Answers of student and teacher by method; both wrong alike on {alike} % of items."
    caption = "answers of student and tuned teacher, mean over tasks, seeds and pairs, temperature 1."
    section.figure("answer_shares", {"live": shares}, figures.shares, of="answers", alt=alt, caption=caption)
    names = {"domain": "domain", "label": "student", "n_pairs": "pairs", "agreement": "same answer, %"}
    names |= {"both_right": "both right, %", "same_wrong": "both wrong alike, %"}
    table = {"live": shares[list(names)].rename(columns=names)}
    section.table(table, "agreement, and what it is made of.", ".1f")


def adjusted(section: Section) -> pd.DataFrame:
    """Agreement, kappa and CAPA of live students by method with intervals; no rows without live runs."""
    if section.answers.empty:
        return pd.DataFrame()
    return section.run.kept(capa.given_accuracy, section.answers, rng=np.random.default_rng(20_240_504))


def given_accuracy(section: Section) -> None:
    """Agreement as it is and given both accuracies, by method, and its change from the SFT student."""
    table = adjusted(section)
    if table.empty:
        return
    measures = {name: capa.MEASURES[name] for name in capa.SHOWN}
    lies = span(table.query("measure == 'capa'")["estimate"], "+.2f")
    alt = f"Raw agreement, kappa and CAPA by method; CAPA lies between {lies}."
    caption = "agreement with the tuned teacher, and given both accuracies, mean over tasks and pairs, T = 1."
    look = {"measures": measures, "alt": alt, "caption": caption}
    section.figure("agreement_given_accuracy", {"live": table}, teacher_figures.given_accuracy, **look)
    caption = "agreement, kappa and CAPA, and change from SFT (same pair, seed and items), 95% intervals."
    section.table({"live": capa.readable(table)}, caption)
    section.run.remark(capa.remark(table))


def released_bounds(section: Section) -> None:
    """What released agreement and accuracies allow CAPA to be, of each method at temperature 1."""
    bounds = capa.of_cells(_released_at_1(section))
    bounds = bounds.rename(columns=lambda name: name.replace("_", " ").replace("capa", "CAPA"))
    formats = dict.fromkeys(("agreement", "by chance", "most by chance"), ".1f") | {"CAPA": "+.2f"}
    caption = "agreement, %; by chance, if errors are independent and spread evenly, and at most, if all "
    caption += "wrong answers are one; agreement above chance, points, with a 95% interval over pairs."
    section.table({"published": bounds}, caption, formats | SIGNED)


def whose(section: Section) -> None:
    """Released agreement of the four students of Qwen2.5-14B on the two tasks that the poster names."""
    released = section.cells[section.cells["source"] == "published"]
    if released.empty:
        print("The released tables are not here.")
        return
    gains = gain_tables.gains(released, selection="best_on_test")
    table = agreement_fidelity.agreement_with(gains, teacher="Qwen2.5-14B", tasks=["addsub", "multiarith"])
    section.table({"published": table}, "agreement with Qwen2.5-14B, %, of its four students.", ".1f")


def agreement_sentences(section: Section) -> list[str]:
    """How far agreement rises, whether it goes with the gain, and whether it rises beyond accuracy."""
    said = rise_sentences(section, "agreement", "the share of answers that are the teacher's")
    said += section.correlation_sentences("spearman_gain_agreement")
    if len(table := adjusted(section)):
        said.append(f"{section.labels['live']}: given accuracy: {capa.remark(table)}")
    return said


# --- 05: fidelity ---------------------------------------------------------------------------------------


def level_and_gain(section: Section) -> None:
    """Fidelity against accuracy, and gain against fidelity."""
    caption = "fidelity against accuracy (left), gain against fidelity (right): pairs x methods x tasks."
    for source, table in with_fidelity(section).items():
        look = {"label": f"fidelity ({agreement_fidelity.FIDELITY_NAMES[source]}), %", "measure": "fidelity"}
        look["alt"] = f"{len(table)} points. {authors_tests.fidelity_remark(table)}"
        draw = teacher_figures.level_and_gain
        section.figure("fidelity_scatter", {source: table}, draw, **look, caption=caption)


def second_table(section: Section) -> None:
    """Rank correlation of gain and BLEU2.csv, which is more likely to be BLEU."""
    if (released := with_fidelity(section).get("published")) is not None:
        table = authors_tests.correlation_by_task(released, x="gain", y="fidelity_bleu2")
        section.table({"published": table}, "Spearman rho of gain and BLEU2.csv, all methods.")


def right_and_alike(section: Section) -> None:
    """Being right and writing like the teacher, correlated over the items of each live run."""
    alike = agreement_fidelity.right_and_alike(section.of("live"))
    links = authors_tests.item_links(alike, bound=claims.FEEBLE)
    look = {"bound": claims.FEEBLE, "value": "fidelity_correct_r"}
    caption = "being right and writing like the teacher, correlated over items; every run a point."
    draw = teacher_figures.right_and_alike
    section.figure("right_and_alike", {"live": alike}, draw, **look, caption=caption)
    section.table({"live": links}, "the same by task.", {"median r": "+.2f", "median |r|": ".2f"})


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
        self.rises = paradox.changes(self.written)  # each KD text against SFT of that student, seed and item
        self.contrasted = pd.DataFrame()  # paradox.contrasts, once `contrasts` was shown

    def by_outcome(self) -> None:
        """Likeness to the teacher's text by who is right."""
        caption = "likeness to the tuned teacher's text by who is right, math, temperature 1."
        look = {"xlabel": "likeness to the teacher, %", "value": "estimate, %"}
        self._by_group("fidelity_by_outcome", self.written, "outcome", paradox.OUTCOMES, caption, **look)

    def by_fate(self) -> None:
        """How much closer to the teacher's text KD came than SFT, by what became of the item."""
        caption = "how much closer to the teacher's text KD came than SFT, by what became of the item (in "
        caption += "the first four the teacher is right); same student, seed and item, math."
        look = {"xlabel": "change of likeness through KD, points", "value": "estimate, points"}
        self._by_group("paradox", self.rises, "fate", paradox.FATES, caption, **look)

    def _by_group(
        self, name: str, rows: pd.DataFrame, by: str, groups: dict[str, str], caption: str, **look: str
    ) -> None:
        if len(self.written):
            found = {"live": self.kept(paradox.by_group, rows, by, groups, rng=self.rng)}
            self.section.figure(name, found, teacher_figures.likeness_by_group, **look, caption=caption)

    def links_on_svamp(self) -> None:
        """The correlation of being right with likeness on SVAMP, mean over students."""
        if self.has_svamp:
            own = np.random.default_rng(20_240_508)
            links = self.kept(paradox.links, self.written, task="svamp", rng=own).drop(columns="method")
            links = links.rename(columns={"label": "student", "n_students": "students", "n_runs": "runs"})
            caption = (
                "right and alike on SVAMP: correlation over items, 95% interval over students and items."
            )
            self.section.table({"live": links}, caption, "+.2f")

    def contrasts(self) -> None:
        """Change of likeness where items became right less that of others, and what it says."""
        if self.written.empty:
            return
        self.contrasted = self.kept(paradox.contrasts, self.rises, rng=self.rng)
        table = self.contrasted.assign(measure=self.contrasted["measure"].map(paradox.MEASURES))
        table = table[["label", "than_label", "measure", "estimate", "low", "high", "reason", "n", "n_than"]]
        names = {"label": "method", "than_label": "became right, less", "n_than": "n of the others"}
        table = table.rename(columns=names | {"estimate": "difference, points"})
        caption = "change of likeness where items became right less that of others, same pair, seed and "
        caption += "task, with 95% intervals; n: items that became right, and the others."
        self.section.table({"live": table}, caption, "+.1f")
        self.section.run.remark(paradox.remark(self.contrasted))

    def followed(self) -> None:
        """Whether the answer that is stated is the result of the last step."""
        if len(self.written):
            table = self.kept(solution_steps.followed, self.written, self.rises, rng=self.rng)
            caption = "percent of texts that can be checked, of these with an answer that follows, and of "
            caption += "steps that are right, with 95% intervals; KD also by what became of the item."
            self.section.table({"live": solution_steps.readable_followed(table)}, caption)

    def errors_on_svamp(self) -> None:
        """What is wrong with SVAMP answers, by rule: a bar a method, and the shares with their intervals."""
        if not self.has_svamp:
            return
        found = self.kept(solution_steps.errors, self.section.asked, self.written, task="svamp", rng=self.rng)
        wide = solution_steps.error_shares(found)
        caption = "what is wrong with SVAMP answers, share of texts by method, temperature 1."
        look = {"of": "errors", "value": "arithmetic, %", "caption": caption}
        self.section.figure("error_categories", {"live": wide}, figures.shares, **look)
        names = {"label": "student", "category": "category", "estimate": "share, %", "low": "low"}
        names |= {"high": "high", "n": "n", "n_pairs": "pairs", "n_without": "left out"}
        table = found.assign(category=found["category"].map(solution_steps.CATEGORIES))
        table = table[list(names)].rename(columns=names | {"n": "texts"})
        self.section.table({"live": table}, "the same, with 95% intervals.", ".1f")

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


def side_by_side(section: Section) -> None:
    """Texts of teacher, SFT and KD student to the same questions."""
    texts = section.run.kept(examples.drawn, section.asked, rng=np.random.default_rng(20_240_505))
    section.table({"live": texts}, f"texts side by side. Rows are {examples.RULE}.")


def fidelity_sentences(section: Section, texts: Texts) -> list[str]:
    """How far fidelity rises, and whether it goes with the gain and with becoming right."""
    said = rise_sentences(section, "fidelity", "the likeness to the teacher's texts")
    said += section.correlation_sentences("spearman_gain_fidelity")
    return said + texts.sentences()
