"""The authors' tests on a table of gains, and what the sections say about tables, in words.

Undefined statistics are NaN (inference/intervals.py). Nothing here chooses a selection rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_LABELS, METHOD_NAMES, PAPER_METHODS, TASK_LABELS
from kdutils.grid.cell_table import model_parameters
from kdutils.grid.study import SELECTIONS
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate, Tested
from kdutils.results import authors_tables, gain_tables

STATISTIC_COLUMNS = ["section", "test", "source", "selection", "domain", "task", "group"]
STATISTIC_COLUMNS += ["statistic", "p_value", "n"]
SECTION_OF_TEST = {
    "ttest_gain_gt_0": "01",
    "anova_methods": "01",
    "spearman_gain_size": "02",
    "spearman_gain_sft": "02",
    "spearman_gain_teacher": "03",
    "spearman_gain_agreement": "04",
    "spearman_gain_fidelity": "05",
}
CORRELATES = {  # test -> column of the gain table that the gain is correlated with
    "spearman_gain_size": "student_parameters",
    "spearman_gain_sft": "sft_accuracy",
    "spearman_gain_teacher": "teacher_accuracy",
    "spearman_gain_agreement": "agreement",
    "spearman_gain_fidelity": "fidelity",
}
FEWEST_PAIRS = {"ttest_gain_gt_0": 2, "anova_methods": 2} | dict.fromkeys(CORRELATES, 3)  # their unit
LIKENESS_TESTS = ("spearman_gain_agreement", "spearman_gain_fidelity")  # released by task, without average


def gain_remark(table: pd.DataFrame) -> str:
    """A summary of gains on averages (columns gain, low, high, student, ...), in a sentence or two.

    Of one pair every gain is named.
    """
    if table["pair"].nunique() == 1:
        has_several = table["domain"].nunique() > 1
        named = [
            f"{METHOD_NAMES[row.method]} {Estimate(row.gain, row.low, row.high).text()}"
            + (f" ({row.domain})" if has_several else "")
            for row in table.itertuples()
        ]
        return f"{table['pair'].iloc[0]}: {', '.join(named)} points.".replace("-", "−")
    up, clear = (table["gain"] > 0).sum(), (table["low"] > 0).mean()
    text = f"{up} of {len(table)} gains are positive; {clear:.0%} have an interval above zero."
    sizes = table["student"].map(model_parameters)
    for name, size in (("smallest", sizes.min()), ("largest", sizes.max())):
        part = table[sizes == size]
        students = ", ".join(part["student"].unique())
        text += f" Mean gain of the {name} student ({students}): {part['gain'].mean():+.1f} points."
    return text


def authors_tests(gain_table: pd.DataFrame, *, tests: Iterable[str] = tuple(SECTION_OF_TEST)) -> pd.DataFrame:
    """The paper's own tests on a table of gains: STATISTIC_COLUMNS, one row a test, in the order of `tests`.

    For each domain and task (and `average`): one-sided one-sample t of gain > 0, one-way ANOVA of the
    gain over methods, Spearman of the gain with teacher accuracy, student size, student SFT accuracy,
    agreement and fidelity; for all methods together (`all`) and each alone, the ANOVA for all only.
    Agreement and fidelity are tested where the tables have them. What is tested varies between pairs, so that
    with fewer than FEWEST_PAIRS every result is NaN: the methods of one pair are no sample of pairs.

    Raises:
        KeyError: for a test that is not in SECTION_OF_TEST.

    Source: analysis/statistical_tests_{math,cs}.ipynb of the authors' repository.
    """
    return tests_of(by_task(gain_table), tests=tests)


class OfTask(NamedTuple):
    """The gains on one task, as the authors' tests take them."""

    where: tuple[str, str, str]  # source, selection, domain
    task: str
    rows: dict[str, pd.DataFrame]  # group -> its rows: `all`, and each of the paper's methods that there is
    n_pairs: int


def by_task(gain_table: pd.DataFrame) -> list[OfTask]:
    """A table of gains in the parts that `tests_of` asks about, many times."""
    columns = ["teacher", "student", "task", "method", "gain"]
    columns += [name for name in CORRELATES.values() if name in gain_table]
    parts = []
    for where, table in gain_table.groupby(["source", "selection", "domain"], sort=False):
        plain = table[columns].astype(dict.fromkeys(columns[:4], object))  # rows are chosen in half the time
        for task in gain_tables.tasks_of(where[-1]):
            of_task = plain[plain["task"] == task]
            if not of_task.empty:
                methods = {name: of_task[of_task["method"] == name] for name in PAPER_METHODS}
                rows = {"all": of_task} | {name: part for name, part in methods.items() if len(part)}
                parts.append(OfTask(where, task, rows, gain_tables.n_pairs(of_task)))
    return parts


def tests_of(parts: Iterable[OfTask], *, tests: Iterable[str], alone: bool = True) -> pd.DataFrame:
    """As `authors_tests`, which says more; `alone` False leaves out the tests of each method alone."""
    rows = []
    for test in tests:
        section = SECTION_OF_TEST[test]
        for part in parts:
            for group, result in _results(test, part, alone=alone):
                where = (section, test, *part.where, part.task, group)
                rows.append((*where, result.statistic, result.p_value, result.n))
    return pd.DataFrame(rows, columns=STATISTIC_COLUMNS)


def _results(test: str, part: OfTask, *, alone: bool) -> Iterator[tuple[str, Tested]]:
    """(group, result) of one test on one task: all methods together, then each alone."""
    of_task, is_too_few = part.rows["all"], part.n_pairs < FEWEST_PAIRS[test]
    if test == "anova_methods":
        test_of_all = intervals.anova_oneway(of_task["gain"], of_task["method"])
        yield "all", _undefined(len(of_task)) if is_too_few else test_of_all
        return
    column = CORRELATES.get(test)
    if test in LIKENESS_TESTS and (part.task == AVERAGE or of_task[column].isna().all()):
        return
    for group, rows in part.rows.items() if alone else [("all", of_task)]:
        if is_too_few:
            yield group, _undefined(len(rows))
        elif column is None:
            yield group, intervals.ttest_greater(rows["gain"])
        else:
            yield group, intervals.spearman(rows["gain"], rows[column].astype(float))


def _undefined(n: int) -> Tested:
    return Tested(math.nan, math.nan, n)


def ledger(cells: pd.DataFrame, *, section: str) -> pd.DataFrame:
    """Rows of statistics.csv for one section: the authors' tests under every selection rule."""
    tests = [test for test, of_section in SECTION_OF_TEST.items() if of_section == section]
    tables = [authors_tests(gain_tables.gains(cells, selection=rule), tests=tests) for rule in SELECTIONS]
    return pd.concat(tables, ignore_index=True)


def readable_tests(statistics: pd.DataFrame, test: str) -> pd.DataFrame:
    """One of the tests for people to read: a row a task, a column a group, `statistic (p)` in the cells."""
    rows = statistics[statistics["test"] == test].copy()
    rows["text"] = [
        f"{row.statistic:+.2f} (p = {row.p_value:.2g})" if math.isfinite(row.statistic) else "undefined"
        for row in rows.itertuples()
    ]
    labels = {"all": "all methods"} | METHOD_NAMES
    rows["column"] = rows["group"].map(labels)
    rows["task"] = rows["task"].map(TASK_LABELS)
    keys = ["domain", "task"]
    table = rows.pivot(index=keys, columns="column", values="text")
    order = rows.drop_duplicates(keys).set_index(keys).index
    return table.loc[order, list(dict.fromkeys(rows["column"]))].reset_index().rename_axis(columns=None)


def correlation_intervals(statistics: pd.DataFrame, test: str) -> pd.DataFrame:
    """One correlation for every task with its approximate interval: the row with columns rho, low, high."""
    rows = statistics[(statistics["test"] == test) & (statistics["group"] == "all")]
    found = [intervals.spearman_interval(row.statistic, row.n) for row in rows.itertuples()]
    return rows.assign(
        label=rows["task"].map(TASK_LABELS),
        **pd.DataFrame([each.bounds for each in found], rows.index, ["rho", "low", "high"]),
    ).reset_index(drop=True)


def compare_selections(statistics: pd.DataFrame, *, task: str) -> pd.DataFrame:
    """Tests of all methods on one task, the selection rules side by side: statistic and p of each."""
    rows = statistics[(statistics["task"] == task) & (statistics["group"] == "all")]
    wide = rows.pivot(index=["domain", "test"], columns="selection", values=["statistic", "p_value"])
    columns = [(value, rule) for rule in SELECTIONS for value in ("statistic", "p_value")]
    wide = wide[columns]
    wide.columns = [f"{'p' if value == 'p_value' else value}, {rule}" for value, rule in columns]
    order = rows.drop_duplicates(["domain", "test"]).set_index(["domain", "test"]).index
    return wide.loc[order].reset_index()


def size_and_headroom(points: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rho, by domain, of average gains with student size and SFT accuracy, and of those two.

    The first two over runs (`runs`), the last over `students`, since a student has one SFT accuracy.
    """
    rows = []
    for domain, part in points.groupby("domain", sort=False):
        students = part.drop_duplicates("student")
        pairs = (
            (part["gain"], part["student_parameters"]),
            (part["gain"], part["sft_accuracy"]),
            (students["student_parameters"], students["sft_accuracy"]),
        )
        rhos = [intervals.spearman(x.astype(float), y.astype(float)).statistic for x, y in pairs]
        rows.append((DOMAIN_LABELS[domain], *rhos, len(part), len(students)))
    rhos = ["gain and size", "gain and SFT accuracy", "size and SFT accuracy"]
    return pd.DataFrame(rows, columns=["domain", *rhos, "runs", "students"])


def within_student_remark(within: pd.DataFrame) -> str:
    """What one point of teacher accuracy is worth to a student, a sentence a domain.

    The slope is that of least squares on the values within students. No interval: the points share few
    teachers. No slope where the teachers of each student are equally accurate.
    """
    parts = []
    for domain, part in within.groupby("domain", sort=False):
        x, y = part["teacher_within"], part["gain_within"]
        slope = ""
        if (x**2).sum() > 0:
            points = (x * y).sum() / (x**2).sum()
            slope = f"one point of teacher accuracy goes with {points:+.2f} points of gain; "
        cases = part.groupby(["student", "method"], sort=False)
        is_best = cases["teacher_accuracy"].idxmax() == cases["gain"].idxmax()
        by_chance = (1 / cases.size()).sum()
        parts.append(
            f"{DOMAIN_LABELS[domain]}: {slope}the most accurate teacher gives the largest gain in "
            f"{int(is_best.sum())} of {len(is_best)} cases of one student and method "
            f"({by_chance:.1f} expected if teachers were drawn at random)."
        )
    return " ".join(parts)


def tuning_remark(tuning: pd.DataFrame) -> str:
    """What an untuned teacher costs (gain_tables.teacher_tuning), in two sentences."""
    average, tasks = tuning[tuning["task"] == AVERAGE], tuning[tuning["task"] != AVERAGE]
    cost, above = average["cost"], int((average["untuned"] > average["teacher_base"]).sum())
    text = f"The cost is {cost.mean():.1f} points on average and {cost.max():.1f} at most on a domain average"
    if len(tasks):
        worst = tasks.loc[tasks["cost"].idxmax()]
        where = f"{worst['teacher']} to {worst['student']}, {TASK_LABELS[worst['task']]}"
        text += f"; on a single task it reaches {worst['cost']:.1f} ({where})"
    text += f". The student ends above its untuned teacher's own score in {above} of {len(average)} cases."
    return text.replace(" -", " −")


def correlation_by_task(table: pd.DataFrame, *, x: str, y: str) -> pd.DataFrame:
    """Spearman of two columns within each task over pairs and methods: domain, task, rho, n.

    NaN where it is undefined.
    """
    rows = []
    for (domain, task), part in table.groupby(["domain", "task"], sort=False):
        test = intervals.spearman(part[x], part[y])
        rows.append((domain, TASK_LABELS[task], test.statistic, test.n))
    return pd.DataFrame(rows, columns=["domain", "task", "rho", "n"])


def fidelity_remark(gain_table: pd.DataFrame) -> str:
    """How fidelity goes with accuracy and with gain over all rows, in a sentence; not of a few pairs.

    The rows of one pair are its tasks and methods, over which nothing is claimed.
    """
    if gain_tables.n_pairs(gain_table) < FEWEST_PAIRS["spearman_gain_fidelity"]:
        return "Too few pairs to correlate."
    with_accuracy, with_gain = (
        intervals.spearman(gain_table[name], gain_table["fidelity"]).statistic
        for name in ("accuracy", "gain")
    )
    return f"Fidelity has rho {with_accuracy:+.2f} with accuracy and {with_gain:+.2f} with gain."


def compare_fidelity_tables(gain_table: pd.DataFrame) -> pd.DataFrame:
    """The two released fidelity tables: range, share of 32-bit floats, rank correlation with the other."""
    values = gain_table.drop_duplicates(["teacher", "student", "task"])
    rho = intervals.spearman(values["fidelity"], values["fidelity_bleu2"]).statistic
    rows = []
    for file, name in (("BLEU.csv", "fidelity"), ("BLEU2.csv", "fidelity_bleu2")):
        own, share = values[name], authors_tables.float32_share(values[name])
        rows.append((file, own.min(), own.max(), share, rho, len(values)))
    columns = ["file", "lowest", "highest", "share of 32-bit floats", "rho with the other", "n"]
    return pd.DataFrame(rows, columns=columns)


def rise_by_method(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """A likeness before and after KD, a row a domain x method: pairs, sft, kd, rise, low, high.

    Means over pairs of the mean over tasks; the interval is Student's t over pairs, which share students and
    teachers and so are not independent. NaN bounds for one pair.
    """
    table = gain_table.dropna(subset=[measure, f"{measure}_sft"])
    keys = ["domain", "method", "teacher", "student"]
    pairs = table.groupby(keys, sort=False)[[measure, f"{measure}_sft"]].mean().reset_index()
    rows = []
    for (domain, method), part in pairs.groupby(["domain", "method"], sort=False):
        rise = intervals.mean_interval(part[measure] - part[f"{measure}_sft"])
        means = (part[f"{measure}_sft"].mean(), part[measure].mean())
        rows.append((domain, METHOD_LABELS[method], rise.n, *means, *rise.bounds))
    return pd.DataFrame(rows, columns=["domain", "method", "pairs", "sft", "kd", "rise", "low", "high"])


def noise_costs(losses: pd.DataFrame) -> pd.DataFrame:
    """What each sigma costs on the average, a row a domain x sigma: runs, loss, low, high, collapsed.

    Takes `sweeps.noise_losses`; the interval of the mean loss (points) is Student's t over pairs x methods,
    and `collapsed` counts those below half of their noise-free accuracy.
    """
    table = losses[losses["task"] == AVERAGE].sort_values("noise_sigma", kind="stable")
    rows = []
    for (domain, sigma), part in table.groupby(["domain", "noise_sigma"], sort=False):
        loss = intervals.mean_interval(part["loss"])
        n_collapsed = int(part["is_collapsed"].sum())
        rows.append((domain, sigma, loss.n, *loss.bounds, n_collapsed))
    found = pd.DataFrame(rows, columns=["domain", "sigma", "runs", "loss", "low", "high", "collapsed"])
    return gain_tables.in_domain_order(found).reset_index(drop=True)


def item_links(runs: pd.DataFrame, *, bound: float) -> pd.DataFrame:
    """Of right_and_alike by task: runs, median r, median |r|, how many |r| are below `bound`."""
    rows = []
    for label, part in runs.groupby("label", sort=False):
        r = part["fidelity_correct_r"]
        rows.append((label, len(r), r.median(), r.abs().median(), int((r.abs() < bound).sum())))
    return pd.DataFrame(rows, columns=["task", "runs", "median r", "median |r|", f"|r| below {bound:g}"])
