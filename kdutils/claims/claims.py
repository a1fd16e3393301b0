"""The claims of the paper, and the verdict on each by the authors' analysis and by a stricter one.

Claims, and how each is judged in words, are in claims.toml. To add one, write an entry there; of a new kind
also its functions in a theme file, and name them in the RULES of that file. The ledger judges, it does not
repair.
"""

import inspect
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils.claims import gains, likeness, noise_temperature, size_and_teacher
from kdutils.claims.evidence import NOT_TESTABLE, VERDICTS, Evidence, Finding, NotTestableError, Rules
from kdutils.claims.students import Case, corrected
from kdutils.constants import TASK_LABELS, TRAIN_DOMAINS
from kdutils.grid.study import SOURCES
from kdutils.io.cache import Keep, uncached
from kdutils.results.item_gains import Items

PATH = Path(__file__).parent / "claims.toml"
RULES: Mapping[str, Rules] = gains.RULES | size_and_teacher.RULES | likeness.RULES | noise_temperature.RULES
SHOWN = ("question", "unit", "procedure", "scale", "margin", *VERDICTS)  # of the stricter analysis, in order
SEED = 20_261_126  # of simulations and of permutations that cannot be counted out

# --- the claims ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of the paper, how it is judged, and its rules in words."""

    id: str
    section: str  # "01" to "07"; p values of the stricter analysis are corrected within it
    statement: str
    rule: str  # a key of RULES
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the rules: margins and printed numbers
    paper_value: float | str | None = None  # what abstract or poster print
    is_magnitude: bool = False  # how large an effect is on Qwen and Llama: a model world cannot bear on it
    absent: str = ""  # why the authors' results have nothing on it
    authors: str  # the authors' rule
    items: str = ""  # the rule over the items of one pair
    question: str  # from here on of the stricter analysis
    unit: str  # what is counted as one observation
    procedure: str  # the test
    scale: str
    margin: str  # what is near enough to be no difference, or how far is far
    reproduced: str  # what makes the verdict
    not_reproduced: str
    inconclusive: str
    not_testable: str

    @property
    def rules(self) -> Rules:
        """The functions that judge it."""
        return RULES[self.rule]

    def arguments_of(self, rule: Callable) -> dict[str, Any]:
        """Those arguments that a function of its rules takes."""
        taken = inspect.signature(rule).parameters
        return {name: self.arguments[name] for name in taken if name in self.arguments}

    def words(self, analysis: str) -> str:
        """The rule of `authors` or `items` with its thresholds."""
        rule = getattr(self.rules, analysis)
        if rule is None:
            return "not_testable: the claim is about several pairs"
        shown = ", ".join(f"{name} = {value}" for name, value in self.arguments_of(rule).items())
        text = getattr(self, analysis)
        return f"{text} [{shown}]" if shown else text


def read(path: Path = PATH) -> tuple[Claim, ...]:
    """All claims, in the order of the file."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    found = []
    for section, claims in entries["claims"].items():
        for claim, own in claims.items():
            found += [_claim(section, *one, entries["rules"]) for one in _each(claim, own)]
    return tuple(found)


def _each(claim: str, own: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and entry of a claim, or of one claim for each of its tasks."""
    tasks = own.pop("each_task", None)
    if tasks is None:
        yield claim, own
        return
    for task, arguments in tasks.items():
        texts = {name: text.replace("{task}", TASK_LABELS[task]) for name, text in own.items()}
        yield f"{claim}.{task}", texts | {"arguments": {"task": task} | arguments}


def _claim(section: str, claim: str, own: dict[str, Any], words: Mapping[str, Any]) -> Claim:
    found = {"paper_value": own.get("arguments", {}).get("printed")}
    found |= words["default"] | words[own["rule"]] | own
    return Claim(id=claim, section=section, **found)


CLAIMS: tuple[Claim, ...] = read()


def claims_of(section: str | None = None, claims: Iterable[Claim] = CLAIMS) -> tuple[Claim, ...]:
    """The claims of a section ("01" to "07"), or all.

    Raises:
        ValueError: if the section has no claims.
    """
    chosen = tuple(claim for claim in claims if section in (None, claim.section))
    if not chosen:
        there_are = sorted({claim.section for claim in claims})
        raise ValueError(f"section {section!r} has no claims; those with some: {there_are}")
    return chosen


FEEBLE = next(claim.arguments["margin"] for claim in CLAIMS if claim.id == "F3")  # |r| below it is feeble


def with_printed(correlations: pd.DataFrame) -> pd.DataFrame:
    """Correlations of gain and student size with a column `printed`: what the poster prints for the task."""
    printed = {(own.arguments["domain"], own.arguments["task"]): own.paper_value for own in claims_of("02")}
    where = zip(correlations["domain"], correlations["task"], strict=True)
    return correlations.assign(printed=[printed[place] for place in where])


def rules(section: str | None = None, *, one_pair: bool = False) -> pd.DataFrame:
    """How each claim is judged: id, claim, rule with its thresholds, if asked for also that of one pair."""
    chosen = claims_of(section)
    columns = {
        "id": [claim.id for claim in chosen],
        "claim": [claim.statement for claim in chosen],
        "rule": [claim.words("authors") for claim in chosen],
    }
    if one_pair:
        columns["rule for one live pair"] = [claim.words("items") for claim in chosen]
    return pd.DataFrame(columns)


def declarations(section: str | None = None, claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """The stricter analysis as it was declared, a row a claim of the section, or of all.

    Claims that ask the same of one task each (`S3.aqua`, `S3.addsub`, ...) are one row.
    """
    table = pd.DataFrame([asdict(claim) for claim in claims_of(section, claims)])
    stem = table["id"].str.partition(".")
    for row, task in stem[2].items():
        if task:
            own = f"on {TASK_LABELS[task]} "
            table.loc[row, "question"] = table.loc[row, "question"].replace(own, "on this task ")
    alike = [stem[0], *(table[name] for name in SHOWN)]
    tasks = stem[2].groupby(alike, sort=False).agg(", ".join)
    table = table.groupby(alike, sort=False)[["id", *SHOWN]].first().reset_index(drop=True)
    is_several = tasks.str.contains(",").to_numpy()
    table["id"] = table["id"].where(~is_several, table["id"].str.partition(".")[0] + ": " + tasks.to_numpy())
    return table.rename(columns={"procedure": "test"}).rename(columns=lambda name: name.replace("_", " "))


# --- their verdicts -----------------------------------------------------------------------------------------


Parts = Mapping[str, Evidence]  # claim id -> what it is asked of


@dataclass(frozen=True)
class Judgement:
    """What both analyses say of the claims about one source, protocol and decoding, by claim id."""

    evidence: Evidence
    authors: dict[str, Finding]
    stricter: dict[str, Finding]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the claims ledger, each claim under both analyses; an undefined number is None."""
        of = {"source": self.evidence.source, "protocol": self.evidence.protocol, "analysis": ""}
        of |= {"decoding": self.evidence.decoding} if of["source"] == "live" else {}
        return [
            ledger_row(claim, found[claim.id], **of | {"analysis": analysis}, paper_value=claim.paper_value)
            for claim in CLAIMS
            for analysis, found in (("authors", self.authors), ("strict", self.stricter))
            if claim.id in found
        ]


def judgements(
    cells: pd.DataFrame, *, section: str | None = None, items: Items | None = None, kept: Keep = uncached
) -> list[Judgement]:
    """Both analyses of every claim of a section, or of all, for each source, protocol and decoding there is.

    The authors' analysis compares pairs. The stricter one takes students as units, and where there is one
    live pair its `items`; what neither can be asked is not testable. `kept` may hold findings.
    """
    return [judged(each, claims_of(section), kept=kept) for each in evidence_of(cells, items=items)]


def judged(
    evidence: Evidence, chosen: tuple[Claim, ...], parts: Parts | None = None, *, kept: Keep = uncached
) -> Judgement:
    """Both analyses of these claims, whole sections of them."""
    found: dict[str, dict[str, Finding]] = {"authors": {}, "strict": {}}
    for row in kept(findings, evidence, chosen, parts or {}).to_dict("records"):
        claim, analysis = row.pop("id"), row.pop("analysis")
        row["n"] = None if pd.isna(row["n"]) else int(row["n"])
        found[analysis][claim] = Finding(**row)
    return Judgement(evidence, found["authors"], found["strict"])


def evidence_of(cells: pd.DataFrame, *, items: Items | None = None) -> list[Evidence]:
    """What is judged: the cells of each source, protocol and decoding, live ones with their items."""
    return [
        Evidence(source, protocol, part, items if source == "live" else None)
        for (source, protocol, _), part in cells.groupby(["source", "protocol", "decoding"], sort=False)
    ]


def findings(
    evidence: Evidence, chosen: tuple[Claim, ...] = CLAIMS, parts: Parts | None = None
) -> pd.DataFrame:
    """A row a claim x analysis of these claims: id, analysis and the columns of a Finding.

    `parts`: claim id -> what it is asked of instead of all the evidence.
    """
    parts = parts or {}
    if not evidence.all_cells["domain"].isin(TRAIN_DOMAINS).any():
        why = "the claims are about the paper's own tasks, and this study has none of them"
        none = asdict(_not_testable(why))
        rows = [{"id": one.id, "analysis": how} | none for one in chosen for how in ("authors", "strict")]
        return pd.DataFrame(rows).astype({"n": "Int64"})
    stricter = by_stricter_analysis(evidence, chosen, parts)
    rows = []
    for claim in chosen:
        if evidence.one_pair:
            why = "the authors' analysis compares pairs"
            by_pairs = _not_testable(f"one pair only ({evidence.one_pair}): {why}")
        else:
            by_pairs = by_authors(claim, parts.get(claim.id, evidence))
        rows.append({"id": claim.id, "analysis": "authors"} | asdict(by_pairs))
        rows.append({"id": claim.id, "analysis": "strict"} | asdict(stricter[claim.id]))
    return pd.DataFrame(rows).astype({"n": "Int64"})


def by_authors(claim: Claim, evidence: Evidence) -> Finding:
    """What the authors' rule says of one claim."""
    return _within_reach(claim, evidence, asked(claim, claim.rules.authors, evidence))


def by_stricter_analysis(
    evidence: Evidence, chosen: tuple[Claim, ...] = CLAIMS, parts: Parts | None = None
) -> dict[str, Finding]:
    """Claim id -> what the stricter analysis says of it, in the order of the claims: whole sections of them.

    Of one pair intervals over its items decide, whose p is not corrected. `parts` as in `findings`.
    """
    asked_of = {claim.id: (parts or {}).get(claim.id, evidence) for claim in chosen}
    if evidence.one_pair:
        found = {claim.id: _by_items(claim, asked_of[claim.id]) for claim in chosen}
    else:
        cases = {claim.id: asked(claim, claim.rules.stricter, asked_of[claim.id]) for claim in chosen}
        found = corrected(cases, {claim.id: claim.section for claim in chosen})
    return {claim.id: _within_reach(claim, asked_of[claim.id], found[claim.id]) for claim in chosen}


def asked(claim: Claim, rule: Callable, evidence: Evidence) -> Case | Finding:
    """What a rule gives; a finding that the claim is not testable where the results lack what it is about.

    Random numbers are those of the claim, whichever others are asked for.
    """
    arguments = claim.arguments_of(rule)
    if "rng" in rule.__annotations__:
        arguments["rng"] = np.random.default_rng([SEED, *claim.id.encode()])
    try:
        return rule(evidence, **arguments)
    except NotTestableError as why:
        return _not_testable(str(why))


def _by_items(claim: Claim, evidence: Evidence) -> Finding:
    if claim.rules.items is None or not evidence.items:
        why = "its items are not at hand" if claim.rules.items else "the claim is about several"
        return _not_testable(f"one pair only ({evidence.one_pair}): {why}")
    found = asked(claim, claim.rules.items, evidence)
    return replace(found, raw_p=found.p_value)


def _not_testable(reason: str) -> Finding:
    return Finding(verdict=NOT_TESTABLE, reason=reason)


def _within_reach(claim: Claim, evidence: Evidence, finding: Finding) -> Finding:
    """The finding; not testable where it is about sizes that a model world cannot bear on.

    Where the authors' results have nothing, the claim says why.
    """
    if finding.verdict == NOT_TESTABLE:
        absent = claim.absent if evidence.source != "live" else ""
        return replace(finding, reason=absent or finding.reason)
    if claim.is_magnitude and evidence.is_model_world:
        reason = "the size of an effect on Qwen and Llama, on which a model world has no bearing"
        return replace(finding, verdict=NOT_TESTABLE, reason=f"{reason}; {finding.reason}")
    return finding


# --- the ledger ---------------------------------------------------------------------------------------------


def ledger_rows(found: Iterable[Judgement]) -> list[dict[str, Any]]:
    """Rows of the claims ledger, one after the other."""
    return [row for each in found for row in each.rows]


def ledger_row(claim: Any, finding: Finding, *, paper_value: float | str | None, **of: Any) -> dict[str, Any]:
    """What was found on a claim or contrast, with other fields; an undefined number is None."""
    row = {"id": claim.id, "section": claim.section, "statement": claim.statement, **of}
    row |= {"estimate": finding.estimate, "ci_low": finding.ci_low, "ci_high": finding.ci_high}
    row |= {"p_value": finding.p_value, "n": finding.n, "paper_value": paper_value}
    row |= {"verdict": finding.verdict, "reason": finding.reason}
    undefined = {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
    return row | dict.fromkeys(undefined)


def by_source(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Ledger rows of each source there is, released results first."""
    found = {source: [row for row in rows if row["source"] == source] for source in SOURCES}
    return {source: part for source, part in found.items() if part}
