"""A section of the study: what its notebook reads, and what the sections show in the same way.

The modules `show_*` show one thing of a `Section`, or nothing where it has none.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdutils.claims import answer_sheet, claims, contrasts
from kdutils.claims.evidence import VERDICTS
from kdutils.constants import AVERAGE, DOMAIN_LABELS, KD_METHODS, is_text
from kdutils.grid import plan
from kdutils.grid.cell_table import LEAST_IN_FORMAT
from kdutils.grid.study import DAGGER, UNFORMATTED
from kdutils.inference.estimate import Estimate
from kdutils.io.cache import digest
from kdutils.report import figures, live, plots
from kdutils.report.html_tables import Formats
from kdutils.report.notebook_api import Report
from kdutils.results import (
    agreement_fidelity,
    authors_tables,
    authors_tests,
    gain_tables,
    item_gains,
    released_comparison,
    response_format,
)
from kdutils.results.gain_tables import interval_text

Tables = Mapping[str, pd.DataFrame]  # source -> its table
CORRELATED = {  # the end of a test's name, the beginning of its figure's -> what is correlated with the gain
    "size": "student size",
    "teacher": "teacher accuracy",
    "agreement": "agreement",
    "fidelity": "fidelity",
    "sft": "the student's SFT accuracy",
}


class Section:
    """The cells that one notebook asks for, from every source, and how it shows them.

    Making one trains what is missing, with its progress shown; nothing in profile `published`. Domains whose
    tasks have no right answer are left out without `texts`.
    """

    def __init__(self, run: Report, number: str, *, texts: bool = True) -> None:
        plots.set_theme()
        self.run, self.number = run, number
        self.asked = plan.plan(number, vars(run.parameters))
        cells = live.cells(self.asked)
        of_texts = cells.loc[cells["task"].map(is_text).astype(bool), "domain"].unique()
        self.cells = cells if texts else cells[~cells["domain"].isin(of_texts)]
        self.shown = gain_tables.restrict(self.cells, self.asked)
        self.parts = gain_tables.by_source(self.cells)
        self.labels = gain_tables.labels_of(self.cells)
        self.marks = gain_tables.watermarks(self.asked)
        if "published" in self.parts:
            run.inputs[authors_tables.TABLE.name] = authors_tables.SHA256
        self._record_runs()
        self.items = item_gains.read(self.asked)  # of one live pair alone; of several pairs none
        self.selection = getattr(run.parameters, "selection", None)

    def proceed(self) -> None:
        """Plan again, now that the first runs are there, and make what that adds (grid.arms)."""
        self.asked = plan.plan(self.number, vars(self.run.parameters))
        live.train(self.asked)
        self._record_runs()

    def _record_runs(self) -> None:
        """Note the live runs and their item rows among what the figures are drawn from."""
        if made := self.asked.to_make:
            self.run.inputs["runs"] = digest(self.asked.evaluated(made))

    def of(self, source: str) -> pd.DataFrame:
        """The cells of one source that are shown; no rows without it."""
        return self.shown[self.shown["source"] == source]

    def in_view(self, table: pd.DataFrame) -> pd.DataFrame:
        """Its rows of the domains and tasks that the parameters ask for."""
        return gain_tables.in_view(table, self.asked)

    @cached_property
    def gains(self) -> dict[str, pd.DataFrame]:
        """Gains over SFT of every source under the selection of the temperature."""
        gains = gain_tables.gains(self.shown, selection=self.selection, methods=KD_METHODS)
        return gain_tables.by_source(gains)

    @cached_property
    def averages(self) -> dict[str, pd.DataFrame]:
        """Gains on the domain averages, of every source."""
        return {source: gain_tables.averages(table) for source, table in self.gains.items()}

    @cached_property
    def points(self) -> dict[str, pd.DataFrame]:
        """`averages` of sources with at least three pairs; below that there is nothing to correlate."""
        return gain_tables.several_pairs(self.averages)

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """The authors' tests of this section under both rules of selection, of all cells."""
        return self.run.kept(authors_tests.ledger, self.cells, section=self.number)

    @cached_property
    def judged(self) -> list[claims.Judgement]:
        """Both analyses of the claims of this section, of every source."""
        return claims.judgements(self.cells, section=self.number, items=self.items, kept=self.run.kept)

    @cached_property
    def paired(self) -> pd.DataFrame:
        """Gains of the one live pair from the same items, temperature 1; no rows of several pairs."""
        return self.in_view(item_gains.gain_table(self.items))

    @cached_property
    def scored(self) -> pd.DataFrame:
        """What every live run makes of each test item (item_gains.read_scored)."""
        return self.run.kept(item_gains.read_scored, self.asked)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """What live students and their teachers answer; no rows without live runs."""
        return self.in_view(self.run.kept(agreement_fidelity.paired_answers, self.asked))

    def counts(self, *, least: int = 3, what: str = "correlate") -> None:
        """Say how many cells, pairs and gains each source has, and which has too few pairs to compare."""
        for source, part in self.parts.items():
            n = gain_tables.n_pairs(part)
            words = f"{self.labels[source]}: {len(part)} cells, {n} pair{'s' * (n != 1)}"
            if self.selection and source in self.gains:
                words += f", {len(self.gains[source])} gains over SFT ({self.selection})"
            print(words)
        self.run.remark(gain_tables.few_pairs_remark(self.parts, self.labels, least=least, what=what))

    def figure(
        self,
        name: str,
        tables: Tables,
        draw: Callable[..., Figure],
        caption: str | Mapping[str, str],
        *,
        value: str = "",
        alt: str | Callable[[pd.DataFrame], str] = "",
        **look: Any,
    ) -> None:
        """Show what `draw` makes of the table of each source, with `look`; nothing of no rows.

        Args:
            name: of the figure; that of live results has `_live` after it.
            caption: the text, or one for each source.
            value: a column and its unit, "gain, points", whose range is the alternative text: `gain in 33
                rows: −1.2 to 9.4 points`.
            alt: another such text, or what makes it of a table that has rows.
        """
        for source, table in tables.items():
            if table.empty:
                continue
            table, note = self.marked(table, source, "Hollow marker or {}")
            fig = draw(table, **look)
            plots.watermark(fig, self.marks[source])
            words = alt(table) if callable(alt) else alt
            if not words:
                column, unit = f"{value}, ".split(", ")[:2]
                values = f"{span(table[column])} {unit}".strip()
                words = f"{column.replace('_', ' ')} in {len(table)} rows: {values}"
            text = f"{self.labels[source]}: {caption if isinstance(caption, str) else caption[source]}{note}"
            self.run.figure(fig, gain_tables.named(name, source), data=table, alt=words, caption=text)

    def table(self, tables: Tables, caption: str, formats: str | Formats = "") -> None:
        """Show the table of each source; nothing of no rows. Formats of other columns are ignored."""
        for source, table in tables.items():
            wanted = formats
            if isinstance(formats, str):
                wanted = dict.fromkeys(table.select_dtypes("float") if formats else (), formats)
            table, note = self.marked(table, source, "{}")
            daggers = table.pop(UNFORMATTED) if note else ()
            known = {name: fmt for name, fmt in wanted.items() if name in table}
            text = f"{self.labels[source]}: {caption}{note}"
            self.run.table(table, caption=text, formats=known, daggers=daggers)

    def marked(self, table: pd.DataFrame, source: str, sign: str) -> tuple[pd.DataFrame, str]:
        """A table with the column `unformatted`, and the words for its caption that explain the `sign`.

        Without both where no row is of a student that has not learned the response format.
        """
        table = response_format.marked(table, self.cells[self.cells["source"] == source])
        if UNFORMATTED not in table or not table[UNFORMATTED].any():
            return table.drop(columns=UNFORMATTED, errors="ignore"), ""
        text = f" {sign.format(DAGGER)}: the student has not learned the response format, which fewer than "
        return table, f"{text}{LEAST_IN_FORMAT:g} % of its greedy texts keep."

    def named(self, texts: Mapping[str, str]) -> list[str]:
        """The text of each source behind its name; none of ""."""
        return [f"{self.labels[source]}: {text}" for source, text in texts.items() if text]

    def remarks(self, texts: Mapping[str, str]) -> None:
        """Show a paragraph of every source."""
        self.run.remark("\n\n".join(self.named(texts)))

    def pair_tables(self, tables: Mapping[str, Callable[..., pd.DataFrame]]) -> None:
        """By caption, what released_comparison makes of the one live pair, and which pair is nearest."""
        comparison = released_comparison.Comparison(self.cells, self.items, self.asked)
        made = {caption: make(comparison) for caption, make in tables.items()} if self.items else {}
        for caption, table in made.items():
            self.table({"live": table}, caption)
        if any(len(table) for table in made.values()):
            self.run.remark(released_comparison.pair_remark(self.cells))

    def tests(self, test: str, caption: str, *, least: int = 3) -> None:
        """One of the authors' tests, task by task, of sources with so many pairs; all go into the ledger."""
        self.run.statistics(self.statistics.replace({"source": {"live": self.asked.statistics_source}}))
        chosen = gain_tables.by_source(self.statistics[self.statistics["selection"] == self.selection])
        several = gain_tables.several_pairs(self.parts, least=least)
        if not several:
            print(f"No source has the {least} pairs that this test compares: {caption}.")
        for source in several:
            table = authors_tests.readable_tests(chosen[source], test)
            self.table({source: table}, f"{caption}, {self.selection}.")

    def correlations(self, test: str) -> dict[str, pd.DataFrame]:
        """The rank correlations of one test with their intervals, of every source that has some."""
        rhos = authors_tests.correlation_intervals(self.statistics, test).dropna(subset=["rho"])
        found = gain_tables.by_source(self.in_view(rhos))
        if test == "spearman_gain_size" and "published" in found:
            found["published"] = claims.with_printed(found["published"])
        return found

    def correlation_figures(self, test: str) -> None:
        """Rank correlations by task under both rules of selecting the temperature."""
        with_what, tables = test.removeprefix("spearman_gain_"), self.correlations(test)
        caption = f"correlation of gain and {CORRELATED[with_what]} by task, under both rules of selecting "
        captions = {
            source: f"{caption}the temperature{'; strokes: the poster.' if 'printed' in table else '.'}"
            for source, table in tables.items()
        }
        self.figure(f"{with_what}_correlations", tables, figures.correlations, captions, value="rho")

    def correlation_sentences(self, test: str) -> list[str]:
        """In how many tasks the gain goes with another quantity, a sentence a source."""
        what, sentences = CORRELATED[test.removeprefix("spearman_gain_")], []
        for source, table in self.correlations(test).items():
            rows = table[(table["selection"] == self.selection) & (table["task"] != AVERAGE)]
            up, down = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
            rho = f"{rows['rho'].median():+.2f}".replace("-", "−")
            sentences.append(
                f"{self.labels[source]}, {self.selection}: the gain rises with {what} in {up} of {len(rows)} "
                f"tasks and falls with it in {down} (95% interval of Spearman's rho on one side of 0); "
                f"the other {len(rows) - up - down} are inconclusive; the median rho is {rho}."
            )
        return sentences

    def declared(self) -> None:
        """What the stricter analysis asks in this section, how it decides, and what it finds."""
        caption = "What the stricter analysis asks in this section, and how it decides."
        self.run.table(claims.declarations(self.number), caption=caption)
        for each in self.judged:
            table = {each.evidence.source: answer_sheet.stricter_table(each)}
            self.table(table, answer_sheet.STRICTER_CAPTION, answer_sheet.STRICTER_FORMATS)

    def claims(self) -> None:
        """Every claim with its verdict, into the ledger, and the rules."""
        rows = claims.ledger_rows(self.judged)
        self.run.claims(rows)
        by_source = {source: answer_sheet.readable(part) for source, part in claims.by_source(rows).items()}
        self.table(by_source, "what the paper says, what these results give, and the verdict.")
        rules = claims.rules(self.number, one_pair=bool(self.items))
        self.run.table(rules, caption="The rule behind each verdict, with its thresholds.")

    def contrasts(self, values: Mapping[str, Estimate | str]) -> str:
        """Show the contrasts of this section and their verdicts, put them into the ledger, and say them.

        `values` as of contrasts.judge.
        """
        rows = contrasts.judge(self.number, values)
        self.run.claims(rows)
        caption = "Contrasts of this section, declared before their values."
        self.run.table(contrasts.declarations(self.number), caption=caption)
        table = answer_sheet.readable(rows).drop(columns=["analysis", "paper"])
        self.table({"live": table}, "what the declared contrasts come to; ours: value and 95% interval.")
        said = "; ".join(f"{row['id']} {answer_sheet.answer(row)}" for row in rows)
        return f"Declared contrasts: {said}."

    def says(self, *sentences: str) -> None:
        """Close with *What this says*: these sentences, and what both analyses make of the claims."""
        verdicts = ["Verdicts."]
        for judged in self.judged:
            parts = []
            for analysis, words in (("authors", "by the authors' rule"), ("strict", "by the stricter one")):
                found = [row["verdict"] for row in judged.rows if row["analysis"] == analysis]
                counts = [f"{found.count(one)} {one.replace('_', ' ')}" for one in VERDICTS if one in found]
                parts.append(f"{words} {', '.join(counts)}")
            label = self.labels[judged.evidence.source]
            verdicts.append(f"{label}, {len(judged.authors)} claims: {'; '.join(parts)}.")
        self.run.conclusion(*sentences, " ".join(verdicts))


def each(tables: Tables, function: Callable[..., Any], **named: Any) -> dict[str, Any]:
    """What `function` makes of the table of each source that has rows."""
    return {source: function(table, **named) for source, table in tables.items() if len(table)}


def span(values: pd.Series, fmt: str = ".3g") -> str:
    """The least and the greatest: `−1.0 to +2.0`."""
    return f"{values.min():{fmt}} to {values.max():{fmt}}".replace("-", "−")


def by_domain(table: pd.DataFrame, *, value: str) -> str:
    """`+1.0 [−0.5, +2.5] points in math (inconclusive)`, for each row: columns domain, `value`, low, high."""
    return ", ".join(
        f"{interval_text(row[value], row['low'], row['high'])} points in "
        + DOMAIN_LABELS[row["domain"]].lower()
        + ("" if row["low"] > 0 or row["high"] < 0 else " (inconclusive)")
        for row in table.to_dict("records")
    )
