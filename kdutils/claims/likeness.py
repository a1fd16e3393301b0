"""Agreement and fidelity (A*, F*): is a KD student more like its teacher, and does that go with gain."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims import items, students
from kdutils.claims.evidence import (
    ALPHA,
    REPRODUCED,
    Evidence,
    Finding,
    NotTestableError,
    Rules,
    decide,
    finding,
    named,
    present,
)
from kdutils.claims.size_and_teacher import PAIR, p_of_less, weak_on_most_tasks
from kdutils.claims.students import Case
from kdutils.constants import DOMAIN_LABELS, METHOD_NAMES, PAPER_METHODS, TASK_LABELS
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import agreement_fidelity, item_gains

FEWEST_PAIRS = 5  # of a partial rank correlation: its error has n - 4 in it

# --- A1, F1: KD raises the likeness -------------------------------------------------------------------------


def likeness_rise_authors(evidence: Evidence, *, measure: str, domains: Sequence[str]) -> Finding:
    table = evidence.gains.dropna(subset=[measure, f"{measure}_sft"])
    table = present(table[table["domain"].isin(domains)], measure)
    rise = table[measure] - table[f"{measure}_sft"]
    pairs = rise.groupby([table["domain"], table["teacher"], table["student"]], sort=False).mean()
    tests = {domain: intervals.ttest_greater(pairs[domain]) for domain in pairs.index.unique("domain")}
    means = {domain: pairs[domain].mean() for domain in tests}
    is_significant = all(test.p_value < ALPHA for test in tests.values())
    parts = ", ".join(f"{domain} {means[domain]:+.2f} (p = {tests[domain].p_value:.2g})" for domain in tests)
    return finding(
        intervals.mean_interval(pairs),
        verdict=decide(is_significant, not any(mean > 0 for mean in means.values())),
        p_value=max(test.p_value for test in tests.values()),
        reason=f"KD minus SFT student, points, mean over the pairs: {parts}",
    )


def likeness_rise_stricter(evidence: Evidence, *, measure: str, domains: Sequence[str]) -> Case:
    rows = pd.concat([students.rises(evidence, domain, measure) for domain in domains])
    if rows.empty:
        raise NotTestableError(f"there is no {measure} of SFT and KD students in these results")
    case = students.against_limit(rows, "rise", limit=0.0)
    families = {
        f"{name} {domain}": rise
        for domain, part in rows.groupby("domain", sort=False)
        for name, rise in students.by_family(part, "rise").items()
    }
    reason = f"rise over students, points: {case.reason} ({named(families, '+.1f')})"
    return replace(case, reason=reason, holds=all(rise > 0 for rise in families.values()))


def likeness_rise_items(evidence: Evidence, *, measure: str, domains: Sequence[str]) -> Finding:
    rise = {"agreement": item_gains.agreement_rises, "fidelity": item_gains.fidelity_rises}[measure]
    what = "BLEU" if measure == "fidelity" else measure
    beside = evidence.items.beside
    beside = beside[beside["method"].isin(["sft", *PAPER_METHODS]) & beside["domain"].isin(domains)]
    whole = items.averages(rise(beside, by=items.WHOLE))
    present(whole, f"{what} of SFT and KD students")
    text = f"rise in {what}, points: {items.by_method(items.averages(rise(beside)))}"
    return items.item_finding(evidence, whole, above=0.0, text=text)


# --- A4, F2: likeness and gain ------------------------------------------------------------------------------


def likeness_and_gain_authors(
    evidence: Evidence, *, measure: str, domains: Sequence[str], margin: float, may_be_weak: bool
) -> Finding:
    table = evidence.on_tasks(f"spearman_gain_{measure}", domains)
    if may_be_weak:
        return weak_on_most_tasks(table, table["statistic"].abs() < margin, words=f"within ± {margin}")
    significant = table[table["p_value"] < ALPHA]
    tasks = ", ".join(
        f"{TASK_LABELS[row.task]} {row.statistic:+.2f} (p = {row.p_value:.2g})"
        for row in significant.itertuples()
    )
    return Finding(
        verdict=decide(len(significant) == 0, len(significant) > 1),
        reason=f"{len(significant)} of {len(table)} tasks have p < {ALPHA}: {tasks or 'none'}",
        estimate=float(table["statistic"].median()),
        p_value=float(table["p_value"].min()),
        n=int(table["n"].max()),
    )


def likeness_and_gain_stricter(
    evidence: Evidence, *, measure: str, domains: Sequence[str], margin: float, may_be_weak: bool
) -> Case:
    found, p_values = {}, {}
    for domain in domains:
        rows = students.rises(evidence, domain, measure)
        pairs = rows.groupby(PAIR, sort=False)[["gain", "rise", "sft_accuracy"]].mean()
        if len(pairs) < FEWEST_PAIRS:
            raise NotTestableError(f"{DOMAIN_LABELS[domain]}: {len(pairs)} pairs with {measure}")
        rho = partial_rank_correlation(pairs["gain"], pairs["rise"], pairs["sft_accuracy"])
        # One point less for what is controlled.
        found[domain] = intervals.spearman_interval(rho, len(pairs) - 1)
        error = math.sqrt((1 + rho**2 / 2) / (len(pairs) - 4))
        p_values[domain] = p_of_less(abs(rho), margin, error=error)  # the larger of the two one-sided tests
    if any(math.isnan(p) for p in p_values.values()):
        raise NotTestableError("the correlation is perfect or undefined")
    texts = [f"{domain} {each.text(2)}" for domain, each in found.items()]
    bound = margin if may_be_weak else 0.0
    n = min(each.n for each in found.values()) + 1
    return Case(
        reason=f"partial rho of gain and rise over {n} pairs: {', '.join(texts)}; pairs share students, so "
        "the intervals are too narrow if anything",
        interval=found[max(found, key=lambda domain: abs(found[domain].value))],
        p_value=max(p_values.values()),
        n=n,
        smallest_p=p_of_less(0.0, margin, error=1 / math.sqrt(n - 4)),
        is_against=any(each.low > bound or each.high < -bound for each in found.values()),
    )


def partial_rank_correlation(x: pd.Series, y: pd.Series, given: pd.Series) -> float:
    """Spearman's rho of x and y at equal `given`; NaN where one of them is constant or a rank of `given`."""
    ranks = [scipy.stats.rankdata(each) for each in (x, y, given)]
    if any(np.ptp(each) == 0 for each in ranks):
        return math.nan
    r = np.corrcoef(ranks)
    spread = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    if not spread > 1e-12:
        return math.nan
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt(spread))


# --- A2, A3: agreement as printed ---------------------------------------------------------------------------


def agreement_as_printed_authors(evidence: Evidence, *, task: str, printed: float, below: float) -> Finding:
    table = evidence.gains[evidence.gains["task"] == task].dropna(subset=["agreement"])
    table = table[table["teacher_parameters"] == table["teacher_parameters"].max()]
    small = table[table["student_parameters"] < below]
    present(small, f"{TASK_LABELS[task]} agreement of small students")
    top = small.loc[small["agreement"].idxmax()]
    tolerance = 0.05 if evidence.can_equal_print else 5.0
    on_task = f"{top['agreement']:.1f} % of {TASK_LABELS[task]}"
    reason = f"{top['student']} agrees with {top['teacher']} on {on_task}"
    owners = table.loc[(table["agreement"] - printed).abs() < 0.05, "student"].unique()
    if len(owners):
        reason += f"; the printed {printed} is the value of {', '.join(owners)}"
    return Finding(
        verdict=decide(abs(top["agreement"] - printed) <= tolerance),
        reason=reason,
        estimate=float(top["agreement"]),
        n=len(small.drop_duplicates("student")),
    )


def agreement_as_printed_stricter(evidence: Evidence, *, task: str, printed: float, below: float) -> Case:
    found = agreement_as_printed_authors(evidence, task=task, printed=printed, below=below)
    n_items = int(evidence.cells.loc[evidence.cells["task"] == task, "n"].max())
    exact = intervals.share_interval(found.estimate / 100 * n_items, n_items)
    return Case(
        reason=f"{found.reason}; over {n_items} items [{exact.low:.1f}, {exact.high:.1f}]",
        interval=Estimate(found.estimate, exact.low, exact.high, n=n_items),
        holds=found.verdict == REPRODUCED,
        is_against=found.verdict != REPRODUCED,
        by_interval=True,
    )


# --- F3: being right and writing like the teacher -----------------------------------------------------------


def feeble_link_authors(evidence: Evidence, *, task: str, margin: float) -> Finding:
    runs = agreement_fidelity.right_and_alike(evidence.cells)
    r = runs.loc[runs["task"] == task, "fidelity_correct_r"]
    present(r, f"{TASK_LABELS[task]} items of KD students beside their teachers'")
    median = float(r.abs().median())
    return Finding(
        verdict=decide(median < margin),
        reason=f"median |r| over {len(r)} runs on {TASK_LABELS[task]} {median:.2f}; r from {r.min():+.2f} to "
        f"{r.max():+.2f}, below ±{margin} in {int((r.abs() < margin).sum())}",
        estimate=median,
        n=len(r),
    )


def _runs_of_the_paper(evidence: Evidence, task: str, owner: str) -> pd.DataFrame:
    """Runs of the paper's methods with the correlation over the items of a task."""
    runs = agreement_fidelity.right_and_alike(evidence.cells)
    runs = runs[(runs["task"] == task) & runs["method"].isin(PAPER_METHODS)]
    return present(runs, f"{TASK_LABELS[task]} items of KD students beside their {owner}")


def feeble_link_stricter(evidence: Evidence, *, task: str, margin: float) -> Case:
    runs = _runs_of_the_paper(evidence, task, "teachers'")
    runs = runs.assign(size=runs["fidelity_correct_r"].abs())
    case = students.against_limit(runs, "size", limit=margin, is_below=True)
    sizes = students.student_means(runs, ["size"])["size"]
    reason = f"mean |r| over students {case.interval.text(2)} on {TASK_LABELS[task]}, of one student "
    detectable = case.minimum_detectable if case.minimum_detectable >= 0 else math.nan  # |r| is not below 0
    text = f"{reason}{sizes.min():.2f} to {sizes.max():.2f}"
    return replace(case, reason=text, minimum_detectable=detectable)


def feeble_link_items(evidence: Evidence, *, task: str, margin: float) -> Finding:
    runs = _runs_of_the_paper(evidence, task, "teacher's")
    r = runs.set_index("method")["fidelity_correct_r"]
    interval = intervals.pearson_interval(float(r.abs().median()), int(runs["n"].min()))
    text = f"r on {TASK_LABELS[task]}: {named(r.rename(METHOD_NAMES), '+.2f')}"
    return items.item_finding(evidence, interval, below=margin, text=text)


RULES = {
    "likeness_rise": Rules(likeness_rise_authors, likeness_rise_stricter, likeness_rise_items),
    "likeness_and_gain": Rules(likeness_and_gain_authors, likeness_and_gain_stricter),
    "agreement_as_printed": Rules(agreement_as_printed_authors, agreement_as_printed_stricter),
    "feeble_link": Rules(feeble_link_authors, feeble_link_stricter, feeble_link_items),
}
