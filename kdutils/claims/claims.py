"""The ledger of claims: what the paper says, how it is judged, and the verdict.

Rule and thresholds of a claim stand beside its statement, before any value is computed; what a rule
means is the docstring of its judge in `verdicts`. The ledger judges, it does not repair.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from kdutils.claims import authors_rules, declared, item_rules, strict
from kdutils.claims.evidence import NOT_TESTABLE, VERDICTS, Evidence, Finding
from kdutils.constants import AVERAGE, DOMAIN_TASKS, DOMAINS, SOURCES, TASK_LABELS
from kdutils.io.cache import Keep, uncached
from kdutils.results.item_gains import Items


@dataclass(frozen=True)
class ItemRule:
    """How a claim is judged where there is one pair: by its items."""

    judge: Callable[..., Finding]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, and the rule that judges it."""

    id: str
    section: str
    statement: str
    paper_value: float | str | None  # what abstract or poster print
    judge: Callable[..., Finding]
    arguments: dict[str, Any] = field(default_factory=dict)
    is_magnitude: bool = False  # how large an effect is on Qwen and Llama: a model world cannot bear on it
    of_items: ItemRule | None = None  # how it is judged on one pair; None: it is about several

    @property
    def rule(self) -> str:
        """The judge's docstring with the thresholds of this claim."""
        return _rule(self.judge, self.arguments)

    @property
    def item_rule(self) -> str:
        """The same for one pair."""
        if self.of_items is None:
            return "not_testable: the claim is about several pairs"
        return _rule(self.of_items.judge, self.of_items.arguments)


def _rule(judge: Callable[..., Finding], arguments: dict[str, Any]) -> str:
    shown = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    text = " ".join(inspect.getdoc(judge).split())
    return f"{text} [{shown}]" if shown else text


# Spearman of gain and student size as printed on the poster (Table 3): rho, p.
PRINTED_SIZE_CORRELATIONS = {
    "aqua": (-0.23, 0.2),
    "addsub": (-0.64, 0.0),
    "gsm8k": (-0.51, 0.0),
    "multiarith": (-0.83, 0.0),
    "svamp": (-0.43, 0.0),
    "singleeq": (-0.59, 0.0),
    "arc_c": (-0.63, 0.0),
    "arc_e": (-0.78, 0.0),
    "boolq": (-0.15, 0.4),
    "hellaswag": (-0.40, 0.0),
    "obqa": (-0.55, 0.0),
    "piqa": (-0.67, 0.0),
    "siqa": (-0.49, 0.0),
    "winogrande": (-0.34, 0.0),
}
PRINTED_AVERAGE_CORRELATIONS = {"math": (-0.66, 0.0), "commonsense": (-0.54, 0.0)}


def printed_size_correlation(domain: str, task: str) -> float:
    """Spearman's rho of gain and student size as the poster prints it."""
    if task == AVERAGE:
        return PRINTED_AVERAGE_CORRELATIONS[domain][0]
    return PRINTED_SIZE_CORRELATIONS[task][0]


def with_printed(correlations: pd.DataFrame) -> pd.DataFrame:
    """Correlations of gain and student size with a column `printed`: what the poster prints for the task."""
    where = zip(correlations["domain"], correlations["task"], strict=True)
    return correlations.assign(printed=[printed_size_correlation(domain, task) for domain, task in where])


def _size_claim(claim_id: str, statement: str, domain: str, task: str, rho: float, p: float) -> Claim:
    arguments = {"domain": domain, "task": task, "printed_rho": rho, "printed_p": p}
    return Claim(claim_id, "02", statement, rho, authors_rules.gain_falls_with_size, arguments)


def _size_claims() -> list[Claim]:
    rows = [
        _size_claim(f"S{number}", f"gain falls with student size: {domain} average", domain, AVERAGE, rho, p)
        for number, (domain, (rho, p)) in enumerate(PRINTED_AVERAGE_CORRELATIONS.items(), start=1)
    ]
    for domain in DOMAINS:
        for task in DOMAIN_TASKS[domain]:
            statement = f"gain falls with student size: {TASK_LABELS[task]}"
            rows.append(_size_claim(f"S3.{task}", statement, domain, task, *PRINTED_SIZE_CORRELATIONS[task]))
    return rows


FEEBLE = 0.3  # |r| below it is feeble, in F3
ALIKE = 5.0  # points: methods of one pair this close are alike, in E7 and E8; gains of the paper are as large
NOISE = (
    "the authors released no noise results; one pair's value at sigma 5 is known second-hand (notebook 06)"
)
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "E1",
        "01",
        "KD students beat their SFT counterparts on math",
        "consistently",
        authors_rules.gain_is_positive,
        {"domain": "math"},
        of_items=ItemRule(item_rules.gain_is_positive, {"domain": "math"}),
    ),
    Claim(
        "E2",
        "01",
        "KD students beat their SFT counterparts on commonsense",
        "consistently",
        authors_rules.gain_is_positive,
        {"domain": "commonsense"},
        of_items=ItemRule(item_rules.gain_is_positive, {"domain": "commonsense"}),
    ),
    Claim(
        "E3",
        "01",
        "KD students beat their SFT counterparts on instruction following",
        None,
        authors_rules.gain_is_positive,
        {"domain": "instruction", "absent": "the authors released nothing on instruction following"},
        of_items=ItemRule(item_rules.gain_is_positive, {"domain": "instruction"}),
    ),
    Claim(
        "E4",
        "01",
        "students under 1B gain up to about 10 points on average",
        10.0,
        authors_rules.largest_gain,
        {"printed": 10.0, "tolerance": 1.0, "single_task": False, "below": 1e9},
        is_magnitude=True,
    ),
    Claim(
        "E5",
        "01",
        "the largest gain on one task is 22 points",
        22.0,
        authors_rules.largest_gain,
        {"printed": 22.0, "tolerance": 0.5, "single_task": True},
        is_magnitude=True,
    ),
    Claim(
        "E6",
        "01",
        "the largest students (7B) gain only about 1.3 points",
        1.3,
        authors_rules.gain_of_largest_student,
        {"printed": 1.3, "tolerance": 0.25},
        is_magnitude=True,
    ),
    Claim(
        "E7",
        "01",
        "the three KD methods do not differ on math",
        "not significant",
        authors_rules.methods_do_not_differ,
        {"domain": "math"},
        of_items=ItemRule(item_rules.methods_do_not_differ, {"domain": "math", "margin": ALIKE}),
    ),
    Claim(
        "E8",
        "01",
        "the three KD methods do not differ on commonsense",
        "not significant",
        authors_rules.methods_do_not_differ,
        {"domain": "commonsense"},
        of_items=ItemRule(item_rules.methods_do_not_differ, {"domain": "commonsense", "margin": ALIKE}),
    ),
    *_size_claims(),
    Claim(
        "T1",
        "03",
        "a better teacher does not make a better student: gain against teacher accuracy, math tasks",
        "weak or negative",
        authors_rules.correlation_is_weak,
        {"test": "spearman_gain_teacher", "domains": ("math",), "bound": 0.3, "signed": True},
    ),
    Claim(
        "T2",
        "03",
        "a better teacher does not make a better student: gain against teacher accuracy, commonsense tasks",
        "weak or negative",
        authors_rules.correlation_is_weak,
        {"test": "spearman_gain_teacher", "domains": ("commonsense",), "bound": 0.3, "signed": True},
    ),
    Claim(
        "T3",
        "03",
        "a teacher that is not tuned on the domain can cost the student up to 40 points",
        40.0,
        authors_rules.untuned_teacher_costs,
        {"printed": 40.0},
        is_magnitude=True,
        of_items=ItemRule(item_rules.untuned_teacher_costs, {"printed": 40.0}),
    ),
    Claim(
        "A1",
        "04",
        "KD raises teacher-student agreement over SFT",
        None,
        authors_rules.likeness_rises,
        {"measure": "agreement", "domains": DOMAINS},
        of_items=ItemRule(item_rules.agreement_rises, {"domains": DOMAINS}),
    ),
    Claim(
        "A2",
        "04",
        "small students (0.5B, 1.5B) agree with the 14B teacher on 89.1 % of AddSub",
        89.1,
        authors_rules.agreement_of_small_students,
        {"task": "addsub", "printed": 89.1, "below": 2e9},
        is_magnitude=True,
    ),
    Claim(
        "A3",
        "04",
        "small students (0.5B, 1.5B) agree with the 14B teacher on 94.5 % of MultiArith",
        94.5,
        authors_rules.agreement_of_small_students,
        {"task": "multiarith", "printed": 94.5, "below": 2e9},
        is_magnitude=True,
    ),
    Claim(
        "A4",
        "04",
        "agreement with the teacher does not go with performance",
        "no significant correlation",
        authors_rules.correlation_is_absent,
        {"test": "spearman_gain_agreement", "domains": DOMAINS},
    ),
    Claim(
        "F1",
        "05",
        "KD raises fidelity to the teacher's reasoning over SFT",
        None,
        authors_rules.likeness_rises,
        {"measure": "fidelity", "domains": ("math",)},
        of_items=ItemRule(item_rules.fidelity_rises, {"domains": ("math",)}),
    ),
    Claim(
        "F2",
        "05",
        "fidelity goes only weakly with performance: the paradox",
        "weak",
        authors_rules.correlation_is_weak,
        {"test": "spearman_gain_fidelity", "domains": ("math",), "bound": 0.4, "signed": False},
    ),
    Claim(
        "F3",
        "05",
        "on SVAMP items, being right and reasoning like the teacher are feebly linked",
        None,
        authors_rules.right_and_alike_are_feebly_linked,
        {"task": "svamp", "bound": FEEBLE, "absent": "the authors released no item-level outputs"},
        of_items=ItemRule(item_rules.right_and_alike_are_feebly_linked, {"task": "svamp", "bound": FEEBLE}),
    ),
    Claim(
        "N1",
        "06",
        "noise of sigma 1 or 2 on the teacher's logits costs little",
        "slight",
        authors_rules.little_noise_costs_little,
        {"sigmas": (1.0, 2.0), "slight": 2.0, "absent": NOISE},
        of_items=ItemRule(item_rules.little_noise_costs_little, {"sigmas": (1.0, 2.0), "slight": 2.0}),
    ),
    Claim(
        "N2",
        "06",
        "noise of sigma 5 collapses the student",
        "collapse",
        authors_rules.much_noise_collapses,
        {"sigma": 5.0, "absent": NOISE},
        of_items=ItemRule(item_rules.much_noise_collapses, {"sigma": 5.0}),
    ),
    Claim(
        "P1",
        "07",
        "temperature 2 is the best in most tasks",
        2.0,
        authors_rules.temperature_is_best,
        {"temperature": 2.0},
        of_items=ItemRule(item_rules.temperature_is_best, {"temperature": 2.0}),
    ),
    Claim(
        "P2",
        "07",
        "temperature 5 causes severe drops",
        "severe",
        authors_rules.high_temperature_drops,
        {"temperature": 5.0, "severe": 10.0},
        of_items=ItemRule(item_rules.high_temperature_drops, {"temperature": 5.0, "severe": 10.0}),
    ),
    Claim(
        "P3",
        "07",
        "the drops at temperature 5 are largest for the smaller students",
        None,
        authors_rules.smaller_students_drop_more,
        {"temperature": 5.0},
    ),
)


DECLARED = declared.read({claim.id: claim.section for claim in CLAIMS})  # of the stricter analysis


def claims_of(section: str | None = None) -> tuple[Claim, ...]:
    """The claims of a section ("01" to "07"), or all.

    Raises:
        ValueError: if the section has no claims.
    """
    chosen = tuple(claim for claim in CLAIMS if section in (None, claim.section))
    if not chosen:
        raise ValueError(
            f"section {section!r} has no claims; those with some: {sorted({c.section for c in CLAIMS})}"
        )
    return chosen


@dataclass(frozen=True)
class Judgement:
    """What both analyses say of the claims about one source and protocol, by claim id."""

    evidence: Evidence
    authors: dict[str, Finding]
    strict: dict[str, strict.Judged]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the claims ledger, each claim under both analyses; an undefined number is None."""
        return [
            _ledger_row(claim, finding, self.evidence, analysis=analysis)
            for claim in CLAIMS
            if claim.id in self.authors
            for analysis, finding in (
                ("authors", self.authors[claim.id]),
                ("strict", self.strict[claim.id].finding),
            )
        ]


def judgements(
    cells: pd.DataFrame,
    *,
    section: str | None = None,
    items: Items | None = None,
    kept: Keep = uncached,
) -> list[Judgement]:
    """Both analyses of every claim of a section, or of all, for every source and protocol in `cells`.

    The authors' analysis compares pairs. The stricter one (`strict`) takes students as units, and where there
    is one live pair its `items`; what neither can be asked is not testable. `kept` may hold findings.
    """
    found = evidence_of(cells, items=items)
    return [_judgement(each, kept(findings, each, section=section)) for each in found]


def findings(evidence: Evidence, *, section: str | None = None) -> pd.DataFrame:
    """Both analyses of the claims of a section, or of all, as a table: a row a claim x analysis.

    Columns id, analysis, those of a Finding, and raw_p and minimum_detectable of the stricter analysis.
    """
    strictly = judge_strictly(evidence, section=section)
    rows = []
    for claim in claims_of(section):
        judged = strictly[claim.id]
        own = {"raw_p": judged.raw_p, "minimum_detectable": judged.minimum_detectable}
        rows.append({"id": claim.id, "analysis": "authors"} | asdict(_by_authors(claim, evidence)))
        rows.append({"id": claim.id, "analysis": "strict"} | asdict(judged.finding) | own)
    return pd.DataFrame(rows).astype({"n": "Int64"})


def _judgement(evidence: Evidence, table: pd.DataFrame) -> Judgement:
    """What `findings` says, claim by claim."""
    found: dict[str, dict[str, Any]] = {"authors": {}, "strict": {}}
    for row in table.to_dict("records"):
        claim, analysis = row.pop("id"), row.pop("analysis")
        own = {name: row.pop(name) for name in ("raw_p", "minimum_detectable")}
        finding = Finding(**row | {"n": None if pd.isna(row["n"]) else int(row["n"])})
        is_strict = analysis == "strict"
        found[analysis][claim] = strict.Judged(finding=finding, **own) if is_strict else finding
    return Judgement(evidence, found["authors"], found["strict"])


def judge(
    cells: pd.DataFrame,
    *,
    section: str | None = None,
    items: Items | None = None,
    kept: Keep = uncached,
) -> list[dict[str, Any]]:
    """Rows of the claims ledger of all `judgements`."""
    return ledger_rows(judgements(cells, section=section, items=items, kept=kept))


def ledger_rows(found: Iterable[Judgement]) -> list[dict[str, Any]]:
    """Rows of the claims ledger, one after the other."""
    return [row for each in found for row in each.rows]


def evidence_of(cells: pd.DataFrame, *, items: Items | None = None) -> list[Evidence]:
    """What there is to be judged: the cells of each source and protocol, live ones with their items."""
    groups = cells.groupby(["source", "protocol"], sort=False)
    return [Evidence(*key, part, items if key[0] == "live" else None) for key, part in groups]


def judge_strictly(found: Evidence, *, section: str | None = None) -> dict[str, strict.Judged]:
    """Claim id -> what the stricter analysis says of it, in the order of CLAIMS."""
    chosen = claims_of(section)
    if found.one_pair:
        each = {claim.id: strict.without_correction(_by_items(claim, found)) for claim in chosen}
    else:
        each = strict.judge(found, {claim.id: DECLARED[claim.id] for claim in chosen})
        each = {claim.id: _said_to_be_absent(claim, found, each[claim.id]) for claim in chosen}
    return {
        claim.id: replace(each[claim.id], finding=_within_reach(claim, found, each[claim.id].finding))
        for claim in chosen
    }


def _by_items(claim: Claim, found: Evidence) -> Finding:
    if claim.of_items and found.items:
        return claim.of_items.judge(found, **claim.of_items.arguments)
    why = "its items are not at hand" if claim.of_items else "the claim is about several"
    return Finding(verdict=NOT_TESTABLE, reason=f"one pair only ({found.one_pair}): {why}")


def _said_to_be_absent(claim: Claim, found: Evidence, judged: strict.Judged) -> strict.Judged:
    """In the words of the claim why the authors' results have nothing on it."""
    if judged.finding.verdict != NOT_TESTABLE or found.source == "live" or "absent" not in claim.arguments:
        return judged
    return replace(judged, finding=replace(judged.finding, reason=claim.arguments["absent"]))


def _by_authors(claim: Claim, found: Evidence) -> Finding:
    if found.one_pair:
        reason = f"one pair only ({found.one_pair}): the authors' analysis compares pairs"
        return Finding(verdict=NOT_TESTABLE, reason=reason)
    return judge_as_authors(claim, found)


def judge_as_authors(claim: Claim, found: Evidence) -> Finding:
    """What the authors' rule says of one claim."""
    return _within_reach(claim, found, claim.judge(found, **claim.arguments))


def _within_reach(claim: Claim, found: Evidence, finding: Finding) -> Finding:
    """The finding; not testable where it is about sizes that a model world cannot bear on."""
    if not (claim.is_magnitude and found.is_model_world) or finding.verdict == NOT_TESTABLE:
        return finding
    reason = (
        f"the size of an effect on Qwen and Llama, on which a model world has no bearing; {finding.reason}"
    )
    return replace(finding, verdict=NOT_TESTABLE, reason=reason)


def _ledger_row(claim: Claim, finding: Finding, found: Evidence, *, analysis: str) -> dict[str, Any]:
    row = {
        "id": claim.id,
        "section": claim.section,
        "statement": claim.statement,
        "source": found.source,
        "protocol": found.protocol,
        "analysis": analysis,
        "estimate": finding.estimate,
        "ci_low": finding.ci_low,
        "ci_high": finding.ci_high,
        "p_value": finding.p_value,
        "n": finding.n,
        "paper_value": claim.paper_value,
        "verdict": finding.verdict,
        "reason": finding.reason,
    }
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()
    }


def by_source(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Ledger rows of each source there is, released results first."""
    found = {source: [row for row in rows if row["source"] == source] for source in SOURCES}
    return {source: part for source, part in found.items() if part}


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ledger rows for people to read: id, claim, analysis, paper, ours, verdict, why."""
    return pd.DataFrame(
        {
            "id": [row["id"] for row in rows],
            "claim": [row["statement"] for row in rows],
            "analysis": [row["analysis"] for row in rows],
            "paper": [printed_text(row["paper_value"]) for row in rows],
            "ours": [estimate_text(row) for row in rows],
            "verdict": [row["verdict"].replace("_", " ") for row in rows],
            "why": [row["reason"] for row in rows],
        }
    )


def printed_text(value: float | str | None) -> str:
    """What the paper prints, as text; a dash for nothing."""
    if value is None:
        return "—"
    return f"{value:g}" if isinstance(value, float) else value


def estimate_text(row: Mapping[str, Any]) -> str:
    """Estimate and 95% interval of a ledger row, as text; a dash for nothing."""
    if row["estimate"] is None:
        return "—"
    text = f"{row['estimate']:.2f}"
    return text if row["ci_low"] is None else f"{text} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def rules(section: str | None = None, *, one_pair: bool = False) -> pd.DataFrame:
    """How each claim is judged: id, claim, rule with its thresholds, if asked for also that of one pair."""
    chosen = claims_of(section)
    table = pd.DataFrame(
        {
            "id": [claim.id for claim in chosen],
            "claim": [claim.statement for claim in chosen],
            "rule": [claim.rule for claim in chosen],
        }
    )
    return table.assign(
        **{"rule for one live pair": [claim.item_rule for claim in chosen]} if one_pair else {}
    )


def verdict_counts(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Claims by section and verdict: a row a section, a column a verdict."""
    frame = pd.DataFrame(rows)
    counts = pd.crosstab(frame["section"], frame["verdict"])
    return counts.reindex(columns=list(VERDICTS), fill_value=0)
