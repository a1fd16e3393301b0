"""The authors' tests give the authors' numbers; intervals agree with other code; degenerate input is NaN."""

import math

import pandas as pd
import pytest
import scipy.stats

from kdutils.results import authors_tests, gain_tables

# Printed by the authors' executed notebooks (analysis/*.ipynb), full precision, and in the paper's notes.
GOLDEN = [
    # test, domain, task, group, statistic, p
    ("spearman_gain_size", "math", "aqua", "all", -0.23354950579603131, 0.1908444244693463),
    ("spearman_gain_size", "math", "addsub", "all", -0.6429522330348477, 5.456794944824555e-05),
    ("spearman_gain_size", "math", "gsm8k", "all", -0.5071942010349922, 0.0025908486714378356),
    ("spearman_gain_size", "math", "multiarith", "all", -0.8281413757174615, 2.7234237033303516e-09),
    ("spearman_gain_size", "math", "svamp", "all", -0.4284915377731902, 0.012849734503115075),
    ("spearman_gain_size", "math", "singleeq", "all", -0.5853924349602805, 0.00034540689418727195),
    ("spearman_gain_size", "math", "average", "all", -0.6561923549473493, 3.379283515328986e-05),
    ("spearman_gain_size", "math", "aqua", "gkd", 0.3178819766028755, 0.34077826406210787),
    ("spearman_gain_size", "math", "addsub", "revkd", -0.8695007007078652, 0.0005063656159491043),
    ("spearman_gain_size", "math", "average", "fkl", -0.6918607726062582, 0.018337354318294488),
    ("spearman_gain_teacher", "math", "svamp", "all", -0.09353658879327026, 0.6046356146483721),
    ("spearman_gain_teacher", "math", "singleeq", "all", 0.3512128179428033, 0.04505649869168474),
    ("spearman_gain_teacher", "math", "average", "all", -0.010451015507627961, 0.9539692127196084),
    ("spearman_gain_teacher", "math", "gsm8k", "gkd", -0.018881372801234024, 0.9560584883956397),
    ("spearman_gain_teacher", "math", "singleeq", "revkd", 0.5570004976364038, 0.07508373509366009),
    ("spearman_gain_teacher", "math", "addsub", "fkl", 0.49091569283208464, 0.12519855184351997),
    ("anova_methods", "math", "singleeq", "all", 1.180224292222144, 0.3210708090704499),
    ("anova_methods", "math", "average", "all", 2.267109288423927, 0.12108053158590967),
]
# To the digits printed in secondary tables.
PRINTED = [
    ("anova_methods", "math", "gsm8k", 5.62, 0.008),
    ("anova_methods", "math", "svamp", 4.73, 0.016),
    ("anova_methods", "commonsense", "average", 0.30, 0.746),
    ("ttest_gain_gt_0", "math", "average", 8.47, None),
    ("ttest_gain_gt_0", "commonsense", "average", 3.86, 2.6e-4),
    ("ttest_gain_gt_0", "commonsense", "boolq", 1.40, 0.086),
    ("ttest_gain_gt_0", "commonsense", "hellaswag", 0.66, 0.26),
    ("spearman_gain_size", "commonsense", "winogrande", -0.34, 0.051),
    ("spearman_gain_size", "commonsense", "average", -0.54, 0.001),
    ("spearman_gain_sft", "math", "average", -0.56, 0.0007),
    ("spearman_gain_sft", "commonsense", "average", -0.61, 1e-4),
    ("spearman_gain_teacher", "commonsense", "arc_c", -0.41, 0.02),
    ("spearman_gain_agreement", "math", "multiarith", -0.63, 8e-5),
    ("spearman_gain_agreement", "commonsense", "obqa", -0.32, 0.07),
    ("spearman_gain_fidelity", "math", "multiarith", -0.46, 0.007),
    ("spearman_gain_fidelity", "math", "singleeq", 0.11, 0.55),
]


@pytest.fixture(scope="module")
def statistics(cells):
    return authors_tests.authors_tests(gain_tables.gains(cells, selection="best_on_test"))


def one(statistics, **where):
    rows = statistics
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize(("test", "domain", "task", "group", "statistic", "p"), GOLDEN)
def test_authors_numbers_to_full_precision(statistics, test, domain, task, group, statistic, p):
    row = one(statistics, test=test, domain=domain, task=task, group=group)
    assert row["statistic"] == pytest.approx(statistic, rel=1e-12)
    assert row["p_value"] == pytest.approx(p, rel=1e-11)


@pytest.mark.parametrize(("test", "domain", "task", "statistic", "p"), PRINTED)
def test_authors_numbers_to_the_printed_digits(statistics, test, domain, task, statistic, p):
    row = one(statistics, test=test, domain=domain, task=task, group="all")
    assert row["statistic"] == pytest.approx(statistic, abs=0.0051)
    if p is not None:
        digits = len(f"{p:.10f}".rstrip("0").split(".")[1])
        assert row["p_value"] == pytest.approx(p, abs=0.51 * 10**-digits)


def test_there_are_as_many_tests_as_the_authors_ran(statistics):
    assert statistics.groupby("domain").size().to_dict() == {"commonsense": 185, "math": 167}
    assert list(statistics.columns) == authors_tests.STATISTIC_COLUMNS
    assert set(statistics.loc[statistics["group"] == "all", "n"]) == {33}
    assert set(statistics.loc[statistics["group"] != "all", "n"]) == {11}


def test_selection_decides_whether_methods_differ(cells):
    """notes on the release: at temperature 1 the ANOVA on the average is significant in both domains."""
    at_1 = authors_tests.authors_tests(
        gain_tables.gains(cells, selection="temperature_1"), tests=["anova_methods"]
    )
    assert one(at_1, domain="math", task="average")["statistic"] == pytest.approx(5.48, abs=0.005)
    assert one(at_1, domain="commonsense", task="average")["p_value"] == pytest.approx(0.046, abs=0.0005)


def test_remark_on_gains_names_the_smallest_and_the_largest_student_of_each_domain():
    """Points of accuracy and of ROUGE-L are not averaged."""
    table = pd.DataFrame(
        {
            "student": ["a-1k", "a-1k", "a-2k", "a-1k"],
            "gain": [3.0, 5.0, -1.0, -8.0],
            "low": [1.0, -1.0, -2.0, -9.0],
        }
    )
    table["pair"] = ["a 1k→1k", "a 2k→1k", "a 4k→2k", "a 1k→1k"]
    table["domain"] = ["math", "math", "math", "instruction"]
    assert authors_tests.gain_remark(table) == (
        "Math: 2 of 3 gains are positive, 1 with an interval above zero; mean gain +4.0 of the smallest "
        "student (a-1k) and -1.0 of the largest student (a-2k). "
        "Instruction following: 0 of 1 gains are positive, 0 with an interval above zero; mean gain -8.0 of "
        "the smallest student (a-1k) and -8.0 of the largest student (a-1k)."
    )


def test_remark_on_the_gains_of_one_pair_names_each_with_its_interval():
    table = pd.DataFrame({"gain": [3.0, -1.0], "low": [1.0, -2.0], "high": [5.0, 0.5], "domain": "math"})
    table = table.assign(pair="Qwen 1.5B→0.5B", student="Qwen2.5-0.5B", method=["fkl", "gkd"])
    remark = authors_tests.gain_remark(table)
    assert remark == "Qwen 1.5B→0.5B: SeqKD† +3.0 [+1.0, +5.0], GKD −1.0 [−2.0, +0.5] points."


def test_the_methods_of_one_pair_are_no_sample_of_pairs(cells):
    gains = gain_tables.gains(cells, selection="temperature_1")
    gains = gains[(gains["student"] == "Qwen2.5-0.5B") & (gains["domain"] == "math")]
    one_pair = authors_tests.authors_tests(gains[gains["teacher"] == "Qwen2.5-3B"])
    assert one_pair["statistic"].isna().all()
    assert one_pair["p_value"].isna().all()
    assert one(one_pair, test="ttest_gain_gt_0", task="average", group="all")["n"] == 3
    two_pairs = authors_tests.authors_tests(gains[gains["teacher"].isin(["Qwen2.5-3B", "Qwen2.5-7B"])])
    is_defined = two_pairs[two_pairs["group"] == "all"].groupby("test")["statistic"].count() > 0
    assert is_defined[is_defined].index.tolist() == ["anova_methods", "ttest_gain_gt_0"]


def test_rise_by_method_averages_tasks_within_a_pair_first():
    rows = [("a", 50.0, 52.0), ("a", 50.0, 54.0), ("b", 40.0, 45.0)]  # rises of the pairs: 3 and 5
    table = pd.DataFrame(rows, columns=["student", "fidelity_sft", "fidelity"])
    table = table.assign(domain="math", method="gkd", teacher="t")
    row = authors_tests.rise_by_method(table, measure="fidelity").iloc[0]
    assert (row["pairs"], row["sft"], row["kd"], row["rise"]) == (2, 45.0, 49.0, 4.0)
    half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(2) / math.sqrt(2)
    assert row["high"] == pytest.approx(4.0 + half)


def test_noise_costs_by_hand():
    table = pd.DataFrame(
        {
            "domain": ["commonsense", "math", "math", "math"],
            "task": ["average", "average", "average", "svamp"],
            "noise_sigma": [5.0, 5.0, 5.0, 5.0],
            "loss": [1.0, 10.0, 20.0, 99.0],
            "is_collapsed": [False, True, False, True],
        }
    )
    found = authors_tests.noise_costs(table)
    assert found["domain"].tolist() == ["math", "commonsense"]
    assert found["loss"].tolist() == [15.0, 1.0]
    assert found["collapsed"].tolist() == [1, 0]
    assert math.isnan(found.loc[1, "low"])
    assert authors_tests.noise_costs(table.head(0)).empty


def test_size_and_headroom_count_a_student_once():
    table = pd.DataFrame(
        {
            "domain": "math",
            "student": ["a", "a", "b", "c"],
            "gain": [9.0, 8.0, 3.0, 1.0],
            "student_parameters": [1, 1, 2, 3],
            "sft_accuracy": [30.0, 30.0, 20.0, 40.0],
        }
    )
    row = authors_tests.size_and_headroom(table).iloc[0]
    assert row["gain and size"] == pytest.approx(scipy.stats.spearmanr([9, 8, 3, 1], [1, 1, 2, 3]).statistic)
    assert row["gain and size"] < -0.9
    assert row["size and SFT accuracy"] == pytest.approx(0.5)  # ranks 1 2 3 and 2 1 3
    assert (row["runs"], row["students"]) == (4, 3)


def test_remark_within_students_has_the_slope_and_how_often_the_best_teacher_is_best():
    table = pd.DataFrame(
        {
            "domain": "math",
            "student": ["a", "a", "b", "b"],
            "method": "gkd",
            "teacher_accuracy": [40.0, 60.0, 40.0, 60.0],
            "gain": [1.0, 5.0, 20.0, 10.0],
            "teacher_within": [-10.0, 10.0, -10.0, 10.0],
            "gain_within": [-2.0, 2.0, 5.0, -5.0],
        }
    )
    text = authors_tests.within_student_remark(table)
    assert "goes with -0.15 points of gain" in text  # (20 + 20 - 50 - 50) / 400
    assert "in 1 of 2 cases of one student and method (1.0 expected" in text
    equal = authors_tests.within_student_remark(table.assign(teacher_within=0.0))
    assert equal.startswith("Math: the most accurate teacher")


def test_remark_on_tuning_names_the_worst_task_and_not_the_average():
    table = pd.DataFrame(
        {
            "teacher": "t-8M",
            "student": "s-1M",
            "task": ["average", "svamp", "aqua"],
            "untuned": [20.0, 10.0, 30.0],
            "teacher_base": [15.0, 5.0, 5.0],
            "cost": [50.0, 12.5, -3.0],
        }
    )
    assert authors_tests.tuning_remark(table) == (
        "The cost is 50.0 points on average and 50.0 at most on a domain average; on a single task it "
        "reaches 12.5 (t-8M to s-1M, SVAMP). The student ends above its untuned teacher's own score in 1 of "
        "1 cases."
    )
    assert "single task" not in authors_tests.tuning_remark(table.head(1))
