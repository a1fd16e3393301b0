"""How a claim is judged: one function a kind of claim, each with its rule in its docstring.

A judge looks at evidence of any source and returns a Finding. Thresholds are arguments, declared in
`claims` next to the statement they judge. Where the evidence lacks what a claim is about, the verdict
is `not_testable`, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from kdutils.claims.evidence import (
    ALPHA,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Evidence,
    Finding,
    average_gains,
    finding,
    missing,
    task_rows,
    who,
)
from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES, TASK_LABELS
from kdutils.grid.cell_table import size_label
from kdutils.inference import intervals
from kdutils.results import agreement_fidelity, gain_tables, sweeps


def gain_is_positive(evidence: Evidence, *, domain: str, absent: str = "") -> Finding:
    """KD beats SFT: t-test of the average gain over pairs x methods.

    reproduced: p < 0.05 and every method's mean gain above 0; not_reproduced: the mean is not above 0;
    otherwise inconclusive. `absent` is why there may be no such gains.
    """
    gains = average_gains(evidence, domain)
    if gains.empty and evidence.source == "published" and absent:
        return Finding(verdict=NOT_TESTABLE, reason=absent)
    if gains.empty:
        return missing(f"{DOMAIN_LABELS[domain]} gains")
    test, interval = intervals.ttest_greater(gains["gain"]), intervals.mean_interval(gains["gain"])
    by_method = gains.groupby("method", sort=False)["gain"].mean()
    positive = int((gains["gain"] > 0).sum())
    if not interval.value > 0:
        verdict = NOT_REPRODUCED
    else:
        verdict = REPRODUCED if test.p_value < ALPHA and (by_method > 0).all() else INCONCLUSIVE
    methods = ", ".join(f"{METHOD_NAMES[method]} {value:+.2f}" for method, value in by_method.items())
    return finding(
        interval,
        verdict=verdict,
        p_value=test.p_value,
        reason=f"mean gain {interval.value:+.2f} points ({methods}); {positive} of {len(gains)} gains are "
        f"above 0; one-sided t p = {test.p_value:.2g}",
    )


def largest_gain(
    evidence: Evidence, *, printed: float, tolerance: float, single_task: bool, below: float = math.inf
) -> Finding:
    """The largest gain of any pair, method and domain: on the average, or on one task.

    reproduced: within `tolerance` points of the printed value; otherwise not_reproduced.
    `below` keeps students with fewer nominal parameters only. The interval is that of the winning
    cell, from its items; it ignores that the cell was picked for being the largest.
    """
    gains = evidence.gains
    gains = gains[(gains["task"] != AVERAGE) == single_task].dropna(subset=["gain"])
    gains = gains[gains["student_parameters"] < below]
    if gains.empty:
        return missing("gains of such students")
    top = gains.loc[gains["gain"].idxmax()]
    reason = f"{top['gain']:+.2f}: {who(top)}"
    if top["task"] in evidence.contaminated:
        clean = gains[~gains["task"].isin(evidence.contaminated)]
        best = clean.loc[clean["gain"].idxmax()]
        reason += (
            f"; its test questions are in the training set, the largest elsewhere is {best['gain']:+.2f}: "
        )
        reason += who(best)
    return Finding(
        verdict=REPRODUCED if abs(top["gain"] - printed) <= tolerance else NOT_REPRODUCED,
        reason=reason,
        estimate=float(top["gain"]),
        ci_low=float(top["gain"] - 1.96 * top["gain_se"]),
        ci_high=float(top["gain"] + 1.96 * top["gain_se"]),
        n=len(gains),
    )


def gain_of_largest_student(evidence: Evidence, *, printed: float, tolerance: float) -> Finding:
    """Mean average gain of the largest students, over their teachers, methods and domains.

    reproduced: within `tolerance` points of the printed value; otherwise not_reproduced.
    """
    gains = evidence.gains[evidence.gains["task"] == AVERAGE].dropna(subset=["gain"])
    if gains.empty:
        return missing("average gains")
    largest = gains[gains["student_parameters"] == gains["student_parameters"].max()]
    interval = intervals.mean_interval(largest["gain"])
    by_domain = largest.groupby("domain", sort=False)["gain"].mean()
    domains = ", ".join(f"{domain} {value:+.2f}" for domain, value in by_domain.items())
    return finding(
        interval,
        verdict=REPRODUCED if abs(interval.value - printed) <= tolerance else NOT_REPRODUCED,
        reason=f"{', '.join(largest['student'].unique())}: {interval.value:+.2f} points ({domains})",
    )


def methods_do_not_differ(evidence: Evidence, *, domain: str) -> Finding:
    """One-way ANOVA of the gain over methods.

    reproduced: p >= 0.05 on the average and on every task; inconclusive: only on the average;
    not_reproduced: p < 0.05 on the average. That p >= 0.05 shows no difference is the authors' reading.
    """
    table = evidence.of("anova_methods", domain=domain)
    overall = table[table["task"] == AVERAGE]
    if overall.empty or overall["p_value"].isna().all():
        return missing(f"{DOMAIN_LABELS[domain]} gains of several methods")
    overall = overall.iloc[0]
    significant = table[(table["task"] != AVERAGE) & (table["p_value"] < ALPHA)]
    named = ", ".join(f"{TASK_LABELS[row.task]} (p = {row.p_value:.2g})" for row in significant.itertuples())
    verdict = INCONCLUSIVE if named else REPRODUCED
    if overall["p_value"] < ALPHA:
        verdict = NOT_REPRODUCED
    return Finding(
        verdict=verdict,
        reason=f"average: F = {overall['statistic']:.2f}, p = {overall['p_value']:.2g}; single tasks with "
        f"p < {ALPHA}: {named or 'none'}",
        estimate=float(overall["statistic"]),
        p_value=float(overall["p_value"]),
        n=int(overall["n"]),
    )


def gain_falls_with_size(
    evidence: Evidence, *, domain: str, task: str, printed_rho: float, printed_p: float
) -> Finding:
    """Spearman of gain with student size.

    Released results: reproduced if rho equals the printed value to two decimals and p lies on the same
    side of 0.05; inconclusive if only rho does. Live results, where no value can be equal: reproduced if
    sign and side agree, inconclusive if only the sign does. Otherwise not_reproduced.
    """
    table = evidence.of("spearman_gain_size", domain=domain, task=task)
    if table.empty or table["statistic"].isna().all():
        return missing(f"{TASK_LABELS[task]} gains of students of different sizes")
    row = table.iloc[0]
    rho, p_value = float(row["statistic"]), float(row["p_value"])
    is_same_side = (p_value < ALPHA) == (printed_p < ALPHA)
    if evidence.can_equal_print:
        is_same_rho = abs(round(rho, 2) - printed_rho) < 1e-9
    else:
        is_same_rho = rho * printed_rho > 0
    verdict = NOT_REPRODUCED
    if is_same_rho:
        verdict = REPRODUCED if is_same_side else INCONCLUSIVE
    reason = f"rho = {rho:+.2f}, p = {p_value:.2g}"
    if not is_same_side:
        reason += f"; the poster prints p = {printed_p:.1f}, on the other side of {ALPHA}"
    interval = intervals.spearman_interval(rho, int(row["n"]))
    return finding(interval, verdict=verdict, p_value=p_value, reason=reason)


def correlation_is_weak(
    evidence: Evidence, *, test: str, domains: tuple[str, ...], bound: float, signed: bool
) -> Finding:
    """A correlation of the gain is weak on most tasks.

    Weak: below `bound`; `signed` counts every negative rho as fulfilling the claim ("weak or negative"),
    otherwise its absolute value counts. reproduced: on more than half of the tasks; else not_reproduced.
    The estimate is the median rho over tasks.
    """
    table = task_rows(evidence, test, domains)
    if table.empty:
        return missing("tasks with this correlation")
    rho = table["statistic"]
    is_weak = rho < bound if signed else rho.abs() < bound
    strong = table[~is_weak]
    named = ", ".join(f"{TASK_LABELS[row.task]} {row.statistic:+.2f}" for row in strong.itertuples())
    return Finding(
        verdict=REPRODUCED if is_weak.mean() > 0.5 else NOT_REPRODUCED,
        reason=f"rho {'below' if signed else 'within ±'} {bound} on {int(is_weak.sum())} of {len(table)} "
        f"tasks (range {rho.min():+.2f} to {rho.max():+.2f}); beyond: {named or 'none'}",
        estimate=float(rho.median()),
        n=int(table["n"].max()),
    )


def correlation_is_absent(evidence: Evidence, *, test: str, domains: tuple[str, ...]) -> Finding:
    """No task shows a significant correlation of the gain.

    reproduced: none has p < 0.05; inconclusive: one has, as chance alone would often give over 14 tasks;
    not_reproduced: more. The estimate is the median rho, p the smallest over the tasks.
    """
    table = task_rows(evidence, test, domains)
    if table.empty:
        return missing("tasks with this correlation")
    significant = table[table["p_value"] < ALPHA]
    named = ", ".join(
        f"{TASK_LABELS[row.task]} {row.statistic:+.2f} (p = {row.p_value:.2g})"
        for row in significant.itertuples()
    )
    return Finding(
        verdict={0: REPRODUCED, 1: INCONCLUSIVE}.get(len(significant), NOT_REPRODUCED),
        reason=f"{len(significant)} of {len(table)} tasks have p < {ALPHA}: {named or 'none'}",
        estimate=float(table["statistic"].median()),
        p_value=float(table["p_value"].min()),
        n=int(table["n"].max()),
    )


def likeness_rises(evidence: Evidence, *, measure: str, domains: tuple[str, ...]) -> Finding:
    """KD students are more like their teacher than SFT students: t-test over pairs of the mean over tasks.

    And over methods: a released value stands for all of them. reproduced: p < 0.05 in every domain;
    not_reproduced: no domain has a mean above 0; else inconclusive.
    """
    table = evidence.gains.dropna(subset=[measure, f"{measure}_sft"])
    table = table[table["domain"].isin(domains)]
    if table.empty:
        return missing(measure)
    rise = table[measure] - table[f"{measure}_sft"]
    pairs = rise.groupby([table["domain"], table["teacher"], table["student"]], sort=False).mean()
    tests = {domain: intervals.ttest_greater(pairs[domain]) for domain in pairs.index.unique("domain")}
    means = {domain: pairs[domain].mean() for domain in tests}
    if all(test.p_value < ALPHA for test in tests.values()):
        verdict = REPRODUCED
    else:
        verdict = INCONCLUSIVE if any(mean > 0 for mean in means.values()) else NOT_REPRODUCED
    parts = ", ".join(f"{domain} {means[domain]:+.2f} (p = {tests[domain].p_value:.2g})" for domain in tests)
    return finding(
        intervals.mean_interval(pairs),
        verdict=verdict,
        p_value=max(test.p_value for test in tests.values()),
        reason=f"KD minus SFT student, points, mean over the pairs: {parts}",
    )


def agreement_of_small_students(evidence: Evidence, *, task: str, printed: float, below: float) -> Finding:
    """Highest agreement with the largest teacher among KD students below `below` parameters.

    Released results: reproduced if it equals the printed value to one decimal; else not_reproduced, and
    the reason says whose value the printed one is. Live results: within 5 points.
    """
    table = evidence.gains[evidence.gains["task"] == task].dropna(subset=["agreement"])
    table = table[table["teacher_parameters"] == table["teacher_parameters"].max()]
    small = table[table["student_parameters"] < below]
    if small.empty:
        return missing(f"{TASK_LABELS[task]} agreement of small students")
    top = small.loc[small["agreement"].idxmax()]
    tolerance = 0.05 if evidence.can_equal_print else 5.0
    reason = (
        f"{top['student']} agrees with {top['teacher']} on {top['agreement']:.1f} % of {TASK_LABELS[task]}"
    )
    owners = table.loc[(table["agreement"] - printed).abs() < 0.05, "student"].unique()
    if len(owners):
        reason += f"; the printed {printed} is the value of {', '.join(owners)}"
    return Finding(
        verdict=REPRODUCED if abs(top["agreement"] - printed) <= tolerance else NOT_REPRODUCED,
        reason=reason,
        estimate=float(top["agreement"]),
        n=len(small.drop_duplicates("student")),
    )


def untuned_teacher_costs(evidence: Evidence, *, printed: float) -> Finding:
    """Largest cost of an untuned teacher on a domain average, points.

    reproduced: at least the printed value; otherwise not_reproduced. The interval is that of the mean
    cost over pairs and domains.
    """
    table = gain_tables.teacher_tuning(evidence.cells)
    table = table[table["task"] == AVERAGE]
    if table.empty:
        return missing("runs with an untuned teacher")
    top = table.loc[table["cost"].idxmax()]
    mean = intervals.mean_interval(table["cost"])
    return Finding(
        verdict=REPRODUCED if top["cost"] >= printed else NOT_REPRODUCED,
        reason=f"largest cost {top['cost']:.1f} points ({top['teacher']} to {top['student']}, "
        f"{top['domain']} average); mean {mean.value:.1f} [{mean.low:.1f}, {mean.high:.1f}] over "
        f"{len(table)} pairs x domains",
        estimate=float(top["cost"]),
        n=len(table),
    )


def right_and_alike_are_feebly_linked(evidence: Evidence, *, task: str, bound: float, absent: str) -> Finding:
    """Over the items of one task, being right correlates feebly with likeness to the teacher's text.

    The point-biserial r of correctness with the item's sentence BLEU against the teacher, of each KD run at
    temperature 1 without noise from a tuned teacher. reproduced: the median |r| over the runs is below
    `bound`; otherwise not_reproduced. `absent` is why there may be no item rows.
    """
    runs = agreement_fidelity.right_and_alike(evidence.cells)
    runs = runs[runs["task"] == task]
    if runs.empty and evidence.source == "published":
        return Finding(verdict=NOT_TESTABLE, reason=absent)
    if runs.empty:
        return missing(f"{TASK_LABELS[task]} items of KD students beside their teachers'")
    r = runs["fidelity_correct_r"]
    median = float(r.abs().median())
    return Finding(
        verdict=REPRODUCED if median < bound else NOT_REPRODUCED,
        reason=f"median |r| over {len(r)} runs on {TASK_LABELS[task]} {median:.2f}; r from {r.min():+.2f} to "
        f"{r.max():+.2f}, below ±{bound} in {int((r.abs() < bound).sum())}",
        estimate=median,
        n=len(r),
    )


def little_noise_costs_little(
    evidence: Evidence, *, sigmas: tuple[float, ...], slight: float, absent: str
) -> Finding:
    """Loss through noise of these sigmas against the noise-free run, on domain averages, points.

    reproduced: the mean loss is below `slight` in every domain; inconclusive: in some; otherwise
    not_reproduced. The interval is that of the mean over pairs x methods x domains, the sigmas of each
    averaged first. `absent` is why there may be no noisy runs.
    """
    loss = _noise_loss(evidence, sigmas)
    if loss.empty:
        return _no_noise(evidence, sigmas, absent)
    cases = loss.groupby(["domain", "teacher", "student", "method"], sort=False)["loss"].mean()
    by_domain = cases.groupby("domain", sort=False).mean()
    n_slight = int((by_domain < slight).sum())
    verdict = {len(by_domain): REPRODUCED, 0: NOT_REPRODUCED}.get(n_slight, INCONCLUSIVE)
    parts = ", ".join(f"{domain} {value:.1f}" for domain, value in by_domain.items())
    return finding(
        intervals.mean_interval(cases),
        verdict=verdict,
        reason=f"mean loss at sigma {_listed(loss['noise_sigma'])}: {parts} points over {len(cases)} pairs x "
        f"methods x domains; largest of a single run {loss['loss'].max():.1f}",
    )


def much_noise_collapses(evidence: Evidence, *, sigma: float, absent: str) -> Finding:
    """Students below half of their noise-free accuracy (domain average) after noise of this sigma.

    reproduced: in at least half of the pairs x methods x domains; inconclusive: in some; not_reproduced: in
    none. The estimate is the mean loss, points. `absent` is why there may be no noisy runs.
    """
    loss = _noise_loss(evidence, (sigma,))
    if loss.empty:
        return _no_noise(evidence, (sigma,), absent)
    share = float(loss["is_collapsed"].mean())
    verdict = NOT_REPRODUCED if share == 0 else INCONCLUSIVE
    by_domain = loss.groupby("domain", sort=False)["loss"].mean()
    parts = ", ".join(f"{domain} {value:.1f}" for domain, value in by_domain.items())
    return finding(
        intervals.mean_interval(loss["loss"]),
        verdict=REPRODUCED if share >= 0.5 else verdict,
        reason=f"{int(loss['is_collapsed'].sum())} of {len(loss)} pairs x methods x domains fall below half "
        f"of their noise-free accuracy; mean loss {parts} points",
    )


def _noise_loss(evidence: Evidence, sigmas: tuple[float, ...]) -> pd.DataFrame:
    losses = sweeps.noise_losses(evidence.noise_runs)
    return losses[(losses["task"] == AVERAGE) & losses["noise_sigma"].isin(sigmas)]


def _no_noise(evidence: Evidence, sigmas: tuple[float, ...], absent: str) -> Finding:
    if evidence.source == "published":
        return Finding(verdict=NOT_TESTABLE, reason=absent)
    return missing(f"runs with noise of sigma {_listed(sigmas)} beside noise-free ones")


def _listed(sigmas: Iterable[float]) -> str:
    return " or ".join(f"{sigma:g}" for sigma in sorted(set(sigmas)))


def temperature_is_best(evidence: Evidence, *, temperature: float) -> Finding:
    """One temperature is the best in most cases: pairs x methods x tasks trained at several.

    reproduced: best in more than half (a tie counts as a share); otherwise not_reproduced.
    """
    runs = evidence.temperature_runs
    runs = runs[runs["task"] != AVERAGE]
    if runs.empty or temperature not in set(runs["temperature"]):
        return missing(f"runs at temperature {temperature:g} and others")
    cases = runs.groupby(["domain", "teacher", "student", "method", "task"], sort=False)
    is_best = runs["accuracy"] == cases["accuracy"].transform("max")
    share = is_best / is_best.groupby([runs[key] for key in cases.keys]).transform("sum")
    wins = share[runs["temperature"] == temperature]
    by = runs.loc[wins.index].assign(win=wins).groupby(["domain", "method"], sort=False)["win"].mean()
    parts = ", ".join(
        f"{domain} {METHOD_NAMES[method]} {value:.0%}" for (domain, method), value in by.items()
    )
    return Finding(
        verdict=REPRODUCED if wins.mean() > 0.5 else NOT_REPRODUCED,
        reason=f"T = {temperature:g} is the best in {wins.mean():.0%} of {cases.ngroups} pairs x methods x "
        f"tasks ({parts})",
        estimate=float(100 * wins.mean()),
        n=cases.ngroups,
    )


def high_temperature_drops(evidence: Evidence, *, temperature: float, severe: float) -> Finding:
    """Loss at a high temperature against the better of the lower ones, on domain averages, points.

    reproduced: the mean loss is at least `severe` in every domain; inconclusive: in some; else not.
    """
    loss = _loss_at(evidence, temperature)
    if loss.empty:
        return missing(f"runs at temperature {temperature:g} and lower")
    by_domain = loss.groupby("domain", sort=False)["loss"].mean()
    n_severe = int((by_domain >= severe).sum())
    verdict = {len(by_domain): REPRODUCED, 0: NOT_REPRODUCED}.get(n_severe, INCONCLUSIVE)
    parts = ", ".join(f"{domain} {value:.1f}" for domain, value in by_domain.items())
    return finding(
        intervals.mean_interval(loss["loss"]),
        verdict=verdict,
        reason=f"mean loss at T = {temperature:g} against the better lower temperature: {parts} points; "
        f"largest {loss['loss'].max():.1f}, smallest {loss['loss'].min():.1f}",
    )


def smaller_students_drop_more(evidence: Evidence, *, temperature: float) -> Finding:
    """Spearman of that loss with student size over pairs x methods x domains.

    reproduced: rho < 0 with p < 0.05 and the mean loss falls from size to size in every domain;
    inconclusive: rho < 0 only; otherwise not_reproduced.
    """
    loss = _loss_at(evidence, temperature)
    if loss["student_parameters"].nunique() < 2:
        return missing(f"students of different sizes at temperature {temperature:g}")
    test = intervals.spearman(loss["student_parameters"].astype(float), loss["loss"])
    means = loss.pivot_table(index="student_parameters", columns="domain", values="loss", sort=True)
    falls = bool((means.diff().iloc[1:] < 0).all(axis=None))
    verdict = NOT_REPRODUCED
    if test.statistic < 0:
        verdict = REPRODUCED if test.p_value < ALPHA and falls else INCONCLUSIVE
    parts = "; ".join(
        f"{size_label(size)} " + ", ".join(f"{domain} {value:.1f}" for domain, value in row.items())
        for size, row in means.iterrows()
    )
    interval = intervals.spearman_interval(test.statistic, test.n)
    return finding(
        interval,
        verdict=verdict,
        p_value=test.p_value,
        reason=f"rho of loss with size {test.statistic:+.2f}, p = {test.p_value:.2g}; mean loss: {parts}",
    )


def _loss_at(evidence: Evidence, temperature: float) -> pd.DataFrame:
    runs = evidence.temperature_runs
    runs = runs[runs["task"] == AVERAGE]
    keys = ["domain", "teacher", "student", "student_parameters", "method"]
    lower = runs[runs["temperature"] < temperature].groupby(keys, sort=False)["accuracy"].max()
    at = runs[runs["temperature"] == temperature].set_index(keys)["accuracy"]
    return (lower - at).dropna().rename("loss").reset_index()
