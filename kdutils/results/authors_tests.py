"""The authors' tests on a table of gains, and what the sections say about tables, in words.

Undefined statistics are NaN (inference/intervals.py). Nothing here chooses a selection rule.
"""

import math
from collections.abc import Iterable
from itertools import product

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_LABELS, METHOD_NAMES, PAPER_METHODS, TASK_LABELS
from kdutils.grid.cell_table import model_parameters
from kdutils.grid.study import SELECTIONS, place_of
from kdutils.inference import intervals
from kdutils.inference.estimate import Tested
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
    """Gains on averages (domain, gain, low, student, ...) by domain, in words; of one pair every gain."""
    if table["pair"].nunique() == 1:
        has_several = table["domain"].nunique() > 1
        named = [
            f"{METHOD_NAMES[row.method]} {gain_tables.interval_text(row.gain, row.low, row.high)}"
            + (f" ({row.domain})" if has_several else "")
            for row in table.itertuples()
        ]
        return f"{table['pair'].iloc[0]}: {', '.join(named)} points."
    said, sizes = [], table["student"].map(model_parameters)
    for domain, part in table.groupby("domain", sort=False):
        up, clear, of_size = (part["gain"] > 0).sum(), (part["low"] > 0).sum(), sizes[part.index]
        means = []
        for name, size in (("smallest", of_size.min()), ("largest", of_size.max())):
            own = part[of_size == size]
            means.append(
                f"{own['gain'].mean():+.1f} of the {name} student ({', '.join(own['student'].unique())})"
            )
        said.append(
            f"{DOMAIN_LABELS[domain]}: {up} of {len(part)} gains are positive, {clear} with an interval "
            f"above zero; mean gain {' and '.join(means)}."
        )
    return " ".join(said)


def authors_tests(
    gain_table: pd.DataFrame, *, tests: Iterable[str] = tuple(SECTION_OF_TEST), alone: bool = True
) -> pd.DataFrame:
    """The paper's own tests on a table of gains: STATISTIC_COLUMNS, one row a test, in the order of `tests`.

    For each domain and task (and `average`): one-sided one-sample t of gain > 0, one-way ANOVA of the
    gain over methods, Spearman of the gain with teacher accuracy, student size, student SFT accuracy,
    agreement and fidelity, where there are any; for all methods together (`all`), and each `alone` but for
    the ANOVA. What is tested varies between pairs, so that with fewer than FEWEST_PAIRS every result is NaN:
    the methods of one pair are no sample of pairs.

    Raises:
        KeyError: for a test that is not in SECTION_OF_TEST.

    Source: analysis/statistical_tests_{math,cs}.ipynb of the authors' repository.
    """
    columns = ["teacher", "student", "task", "method", "gain"]
    columns += [name for name in CORRELATES.values() if name in gain_table]
    parts = []
    for where, table in gain_table.groupby(["source", "selection", "domain"], sort=False):
        plain = table[columns].astype(dict.fromkeys(columns[:4], object))  # rows are chosen in half the time
        tasks = sorted({*plain["task"]}, key=place_of)
        parts += [(where, task, plain[plain["task"] == task]) for task in tasks]
    rows = []
    for test, (where, task, of_task) in product(tests, parts):
        column, is_likeness = CORRELATES.get(test), test in LIKENESS_TESTS
        if of_task.empty or (is_likeness and (task == AVERAGE or of_task[column].isna().all())):
            continue
        groups = {"all": of_task}
        if alone and test != "anova_methods":
            groups |= {name: of_task[of_task["method"] == name] for name in PAPER_METHODS}
        is_too_few = gain_tables.n_pairs(of_task) < FEWEST_PAIRS[test]
        for group, gains in groups.items():
            if gains.empty:
                continue
            if is_too_few:
                found = Tested(n=len(gains))
            elif test == "anova_methods":
                found = intervals.anova_oneway(gains["gain"], gains["method"])
            elif test == "ttest_gain_gt_0":
                found = intervals.ttest_greater(gains["gain"])
            else:
                found = intervals.spearman(gains["gain"], gains[column].astype(float))
            names = (SECTION_OF_TEST[test], test, *where, task, group)
            rows.append((*names, found.statistic, found.p_value, found.n))
    return pd.DataFrame(rows, columns=STATISTIC_COLUMNS)


def ledger(cells: pd.DataFrame, *, section: str | None = None) -> pd.DataFrame:
    """Rows of statistics.csv for one section, or all: the authors' tests under every selection rule."""
    tests = [test for test, of_section in SECTION_OF_TEST.items() if section in (None, of_section)]
    tables = [authors_tests(gain_tables.gains(cells, selection=rule), tests=tests) for rule in SELECTIONS]
    return pd.concat(tables, ignore_index=True)


def readable_tests(statistics: pd.DataFrame, test: str) -> pd.DataFrame:
    """One of the tests for people to read: a row a task, a column a group, `statistic (p)` in the cells."""
    rows = statistics[statistics["test"] == test]
    texts = [
        f"{row.statistic:+.2f} (p = {row.p_value:.2g})" if math.isfinite(row.statistic) else "undefined"
        for row in rows.itertuples()
    ]
    groups = rows["group"].map({"all": "all methods"} | METHOD_NAMES)
    rows = rows.assign(text=texts, group=groups, task=rows["task"].map(TASK_LABELS))
    return gain_tables.wide(rows, index=["domain", "task"], columns="group", values="text")


def correlation_intervals(statistics: pd.DataFrame, test: str) -> pd.DataFrame:
    """One correlation for every task with its approximate interval: the row with columns rho, low, high."""
    rows = statistics[(statistics["test"] == test) & (statistics["group"] == "all")]
    bounds = [intervals.spearman_interval(row.statistic, row.n).bounds for row in rows.itertuples()]
    rows = rows.assign(label=rows["task"].map(TASK_LABELS))
    rows[["rho", "low", "high"]] = pd.DataFrame(bounds, rows.index, range(3))
    return rows.reset_index(drop=True)


def compare_selections(statistics: pd.DataFrame, *, task: str) -> pd.DataFrame:
    """Tests of all methods on one task, the selection rules side by side: statistic and p of each."""
    rows = statistics[(statistics["task"] == task) & (statistics["group"] == "all")]
    rows = rows.rename(columns={"p_value": "p"})
    numbers = rows.melt(["domain", "test", "selection"], ["statistic", "p"], "number")
    numbers["column"] = numbers["number"] + ", " + numbers["selection"]
    wide = gain_tables.wide(numbers, index=["domain", "test"], columns="column", values="value")
    columns = [f"{number}, {rule}" for rule in SELECTIONS for number in ("statistic", "p")]
    return wide[["domain", "test", *columns]]


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
    """Spearman of two columns within each task over pairs and methods: domain, task, rho (or NaN), n."""
    rows = []
    for (domain, task), part in table.groupby(["domain", "task"], sort=False):
        test = intervals.spearman(part[x], part[y])
        rows.append((domain, TASK_LABELS[task], test.statistic, test.n))
    return pd.DataFrame(rows, columns=["domain", "task", "rho", "n"])


def compare_fidelity_tables(gain_table: pd.DataFrame) -> pd.DataFrame:
    """The two released fidelity tables: range, share of 32-bit floats, rank correlation with the other."""
    values = gain_table.drop_duplicates(["teacher", "student", "task"])
    values = values[["fidelity", "fidelity_bleu2"]].set_axis(["BLEU.csv", "BLEU2.csv"], axis=1)
    found = pd.DataFrame({"file": values.columns, "lowest": values.min(), "highest": values.max()})
    found["share of 32-bit floats"] = values.apply(authors_tables.float32_share)
    rho = intervals.spearman(values["BLEU.csv"], values["BLEU2.csv"]).statistic
    return found.assign(**{"rho with the other": rho, "n": len(values)}).reset_index(drop=True)


def rise_by_method(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """A likeness before and after KD, a row a domain x method: pairs, sft, kd, rise, low, high.

    Means over pairs of the mean over tasks; the interval is Student's t over pairs, which share students and
    teachers and so are not independent. NaN bounds for one pair.
    """
    table = gain_table.dropna(subset=[measure, f"{measure}_sft"])
    keys = ["domain", "method", "teacher", "student"]
    pairs = table.groupby(keys, sort=False)[[measure, f"{measure}_sft"]].mean().reset_index()
    pairs = pairs.rename(columns={f"{measure}_sft": "sft", measure: "kd"})
    pairs = pairs.assign(rise=pairs["kd"] - pairs["sft"], method=pairs["method"].map(METHOD_LABELS))
    found = gain_tables.mean_intervals(pairs, ["domain", "method"], "sft", "kd", "rise")
    found.insert(2, "pairs", found.pop("n"))
    return found


def noise_costs(losses: pd.DataFrame) -> pd.DataFrame:
    """What each sigma costs on the average, a row a domain x sigma: runs, loss, low, high, collapsed.

    Takes `sweeps.noise_losses`; the interval of the mean loss (points) is Student's t over pairs x methods,
    and `collapsed` counts those below half of their noise-free accuracy.
    """
    table = losses[losses["task"] == AVERAGE].sort_values("noise_sigma", kind="stable")
    keys = ["domain", "noise_sigma"]
    found = gain_tables.mean_intervals(table, keys, "loss").rename(columns={"noise_sigma": "sigma"})
    found.insert(2, "runs", found.pop("n"))
    found["collapsed"] = table.groupby(keys, sort=False)["is_collapsed"].sum().to_numpy()
    return gain_tables.in_domain_order(found).reset_index(drop=True)
