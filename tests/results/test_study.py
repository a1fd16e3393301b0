"""Gains and contrasts computed from cells, by hand on small tables and on the released ones."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest

from kdutils import spec
from kdutils.data import sources
from kdutils.grid import cell_table as cell_rows
from kdutils.grid.plan import Filter, Plan
from kdutils.grid.profile import load_profile
from kdutils.grid.study import RELEASED_MODELS, PlannedRun
from kdutils.results import agreement_fidelity, answer_modes, authors_tables, gain_tables, sweeps
from kdutils.runs import comparison, store


def cell(**fields):
    row = {"source": "live", "protocol": "careful", "domain": "math", "task": "svamp", "family": "toy"}
    row |= {"teacher": "toy-8M", "student": "toy-1M", "teacher_parameters": 8_000_000, "seed": 0, "n": 100}
    row |= {"student_parameters": 1_000_000, "noise_sigma": 0.0, "flags": ""}
    return row | fields


def baseline(student, method, accuracy, **fields):
    nothing = {"teacher": "", "teacher_parameters": None, "teacher_tuned": None, "temperature": math.nan}
    return cell(student=student, method=method, accuracy=accuracy, accuracy_se=1.0, **nothing, **fields)


def distilled(method, temperature, accuracy, **fields):
    fields = {"teacher_tuned": True, "accuracy_se": 2.0} | fields
    return cell(method=method, temperature=temperature, accuracy=accuracy, **fields)


@pytest.fixture
def cells():
    return cell_rows.cell_table(
        [
            baseline("toy-1M", "sft", 40.0),
            baseline("toy-8M", "sft", 80.0),
            baseline("toy-8M", "base", 10.0),
            distilled("fkl", 1.0, 45.0),
            distilled("fkl", 2.0, 50.0),
            distilled("fkl", 1.0, 20.0, teacher_tuned=False),
            distilled("fkl", 1.0, 90.0, noise_sigma=1.0),
            distilled("gkd", 1.0, 47.0),
        ]
    )


def test_best_on_test_takes_the_maximum_over_temperatures(cells):
    gains = gain_tables.gains(cells, selection="best_on_test").set_index("method")
    assert gains["gain"].to_dict() == {"fkl": 10.0, "gkd": 7.0}
    assert gains.loc["fkl", "temperature"] == 2.0
    assert gains.loc["fkl", "teacher_accuracy"] == 80.0
    assert gains.loc["fkl", "gain_se"] == pytest.approx(math.sqrt(5))


def test_temperature_1_takes_no_other(cells):
    gains = gain_tables.gains(cells, selection="temperature_1").set_index("method")
    assert gains["gain"].to_dict() == {"fkl": 5.0, "gkd": 7.0}


def test_noisy_and_untuned_runs_are_no_gains(cells):
    assert gain_tables.gains(cells, selection="best_on_test")["gain"].max() < 50


def test_unknown_selection_is_refused(cells):
    with pytest.raises(ValueError, match=r"unknown selection 'best'; choose one of \['best_on_test'"):
        gain_tables.gains(cells, selection="best")


def test_seeds_are_averaged_before_selection():
    rows = [baseline("toy-1M", "sft", value, seed=seed) for seed, value in enumerate((40.0, 44.0))]
    rows += [distilled("fkl", 1.0, value, seed=seed) for seed, value in enumerate((50.0, 40.0))]
    rows += [distilled("fkl", 2.0, value, seed=seed) for seed, value in enumerate((46.0, 46.0))]
    gains = gain_tables.gains(cell_rows.cell_table(rows), selection="best_on_test")
    assert gains["gain"].tolist() == [4.0]  # 46 - 42; the single best run, 50, is not what is selected
    assert gains["temperature"].tolist() == [2.0]


def test_temperatures_are_compared_on_the_seeds_they_share():
    rows = [baseline("toy-1M", "sft", 40.0)]
    rows += [distilled("fkl", 1.0, value, seed=seed) for seed, value in enumerate((48.0, 40.0, 41.0))]
    rows += [distilled("fkl", 2.0, 46.0)]
    cells = cell_rows.cell_table(rows)
    (best,) = gain_tables.gains(cells, selection="best_on_test").to_dict("records")
    assert (best["temperature"], best["gain"]) == (1.0, 8.0)  # 48 against 46, not 43 against 46
    (plain,) = gain_tables.gains(cells, selection="temperature_1").to_dict("records")
    assert plain["gain"] == 3.0  # all three seeds


def test_missing_baseline_gives_nan_not_a_gain(cells):
    without = cells[cells["method"] != "sft"]
    assert gain_tables.gains(without, selection="best_on_test")["gain"].isna().all()


def test_teacher_tuning_compares_the_same_distillation(cells):
    row = gain_tables.teacher_tuning(cells).iloc[0]
    assert (row["tuned"], row["untuned"], row["cost"], row["teacher_base"]) == (45.0, 20.0, 25.0, 10.0)
    assert gain_tables.teacher_tuning(cells[cells["teacher_tuned"].fillna(True)]).empty


def test_teacher_tuning_compares_the_same_seeds(cells):
    more = [distilled("fkl", 1.0, 99.0, seed=seed) for seed in (1, 2)]  # of the tuned teacher alone
    both = pd.concat([cells, cell_rows.cell_table(more)], ignore_index=True)
    assert gain_tables.teacher_tuning(both)["cost"].tolist() == [25.0]


def test_temperature_runs_are_those_with_several(cells):
    runs = sweeps.temperature_runs(cells)
    assert sorted(runs["temperature"]) == [1.0, 2.0]
    assert set(runs["method"]) == {"fkl"}


def noisy(sigma, accuracy, **fields):
    return distilled("fkl", 1.0, accuracy, noise_sigma=sigma, task="average", **fields)


def test_noise_costs_the_noise_free_run_of_the_same_seed_minus_the_noisy_one():
    rows = [noisy(0.0, 40.0), noisy(2.0, 36.0), noisy(5.0, 19.0), noisy(0.0, 90.0, seed=1)]
    rows += [noisy(0.0, 50.0, student="toy-2M"), baseline("toy-1M", "sft", 45.0, task="average")]
    rows += [baseline("toy-1M", "base", 10.0, task="average", protocol="paper")]
    runs = sweeps.noise_runs(cell_rows.cell_table(rows))
    assert runs["accuracy"].tolist() == [40.0, 36.0, 19.0]  # neither the second seed nor the other student
    assert set(runs["sft_accuracy"]) == {45.0}
    assert set(runs["base_accuracy"]) == {10.0}
    losses = sweeps.noise_losses(runs)
    assert losses["loss"].tolist() == [4.0, 21.0]
    assert losses["is_collapsed"].tolist() == [False, True]
    assert sweeps.noise_losses(runs[runs["noise_sigma"] > 0]).empty


def test_half_of_the_noise_free_accuracy_is_no_collapse():
    losses = sweeps.noise_losses(
        sweeps.noise_runs(cell_rows.cell_table([noisy(0.0, 40.0), noisy(5.0, 20.0)]))
    )
    assert not losses["is_collapsed"].any()


def test_nothing_with_noise_gives_empty_tables(cells):
    runs = sweeps.noise_runs(cells[cells["noise_sigma"] == 0.0])
    assert runs.empty
    assert gain_tables.averages(runs).empty
    assert sweeps.noise_losses(runs).empty


def test_temperatures_are_compared_on_the_seeds_that_have_several():
    rows = [distilled("fkl", 1.0, value, seed=seed) for seed, value in enumerate((40.0, 90.0))]
    runs = sweeps.temperature_runs(cell_rows.cell_table([*rows, distilled("fkl", 2.0, 50.0)]))
    assert dict(zip(runs["temperature"], runs["accuracy"], strict=True)) == {1.0: 40.0, 2.0: 50.0}


def test_accuracies_by_column_in_the_order_of_the_values_and_domains():
    rows = [distilled("fkl", t, 40.0 + t, task="average", domain=domain)
            for domain in ("commonsense", "math") for t in (5.0, 1.0)]  # fmt: skip
    wide = sweeps.by_column(sweeps.temperature_runs(cell_rows.cell_table(rows)), "temperature", "T")
    assert list(wide.columns) == ["domain", "teacher", "student", "method", "T = 1", "T = 5"]
    assert wide[["domain", "T = 1", "T = 5"]].to_numpy().tolist() == [
        ["math", 41.0, 45.0],
        ["commonsense", 41.0, 45.0],
    ]


def test_remark_on_the_best_temperature_gives_the_range_over_cases():
    shares = pd.DataFrame({"T = 1": [25.0, 50.0], "T = 2": [50.0, 50.0]}, index=["math, fkl", "math, revkd"])
    assert "T = 1 25 to 50 %, T = 2 50 %." in sweeps.best_temperature_remark(shares)


def test_likeness_of_students_keeps_methods_apart_and_has_one_sft_value(cells):
    table = cells.copy()
    table.loc[table["method"] == "fkl", "fidelity"] = 60.0
    table.loc[table["method"] == "gkd", "fidelity"] = 70.0
    table.loc[table["teacher"] != "", "fidelity_sft"] = 50.0
    gains = gain_tables.gains(table, selection="best_on_test")
    found = agreement_fidelity.of_students(gains, measure="fidelity").query("task == 'average'")
    assert found["method"].tolist() == ["sft", "fkl", "gkd"]
    assert found["fidelity"].tolist() == [50.0, 60.0, 70.0]


def test_right_and_alike_takes_plain_runs_only(cells):
    table = cells.assign(fidelity_correct_r=0.1)
    found = agreement_fidelity.right_and_alike(table)
    assert sorted(found["method"]) == ["fkl", "gkd"]  # not temperature 2, the untuned teacher or the noise
    assert set(found["label"]) == {"SVAMP"}
    aqua = table[table["method"] == "gkd"].assign(task="aqua", family="zoo")
    assert agreement_fidelity.right_and_alike(pd.concat([table, aqua]))["label"].iloc[0] == "AQuA"
    assert agreement_fidelity.right_and_alike(cells).empty


def test_decoding_names_the_protocol(cells):
    live = cells[cells["source"] == "live"]
    assert sweeps.decoding(live.assign(decoding="greedy")) == "greedy decoding, protocol careful"
    assert sweeps.decoding(live.assign(decoding="sampled")).startswith("sampled")


def test_gains_of_two_decodings_are_never_averaged(cells):
    live = cells[cells["source"] == "live"]
    both = pd.concat([live.assign(decoding=each) for each in ("greedy", "sampled")])
    with pytest.raises(ValueError, match="several decodings"):
        gain_tables.gains(both, selection="temperature_1")


def test_best_temperature_shares_by_hand(cells):
    shares = sweeps.best_temperature_shares(sweeps.temperature_runs(cells))
    assert shares.to_dict("index") == {"math, SeqKD†": {"T = 2": 100.0}}
    by_seed = {1.0: (55.0, 30.0, 29.0), 2.0: (28.0, 29.0, 57.0)}  # equal means, as numbers 7e-15 apart
    tied = [
        distilled("fkl", temperature, accuracy, seed=seed)
        for temperature, own in by_seed.items()
        for seed, accuracy in enumerate(own)
    ]
    shares = sweeps.best_temperature_shares(sweeps.temperature_runs(cell_rows.cell_table(tied)))
    assert shares.to_dict("index") == {"math, SeqKD†": {"T = 1": 100.0}}


def shown(**parameters):
    """Rows (method, student) of the toy cells that a plan with these filters shows."""
    return Plan("01", load_profile("published"), Path(), (), Filter(**parameters))


def test_a_filter_keeps_the_baselines_of_what_it_shows(cells):
    assert set(gain_tables.restrict(cells, shown(methods=("gkd",)))["method"]) == {"base", "sft", "gkd"}
    assert gain_tables.restrict(cells, shown(domains=("commonsense",))).empty
    assert gain_tables.restrict(cells, shown(tasks=("gsm8k",))).empty
    assert gain_tables.restrict(cells, shown(tasks=("svamp",))).equals(cells)
    assert gain_tables.restrict(cells, shown(students=("toy-1M",))).equals(cells)  # its teacher is a baseline
    assert gain_tables.restrict(cells, shown(teachers=("other-8M",))).empty


def test_seed_noise_is_pooled_over_the_cells_that_have_several():
    rows = [baseline("toy-1M", "sft", value, seed=seed) for seed, value in enumerate((40.0, 44.0))]
    rows += [distilled("fkl", 1.0, value, seed=seed) for seed, value in enumerate((50.0, 52.0, 54.0))]
    rows += [distilled("gkd", 1.0, 50.0)]
    table = gain_tables.mean_over_seeds(cell_rows.cell_table(rows)).set_index("method")
    variance = (8.0 + 8.0) / (1 + 2)  # sums of squares over degrees of freedom
    expected = {"sft": variance / 2, "fkl": variance / 3, "gkd": variance}
    assert (table["seed_se"] ** 2).to_dict() == pytest.approx(expected)
    gains = gain_tables.gains(cell_rows.cell_table(rows), selection="temperature_1").set_index("method")
    assert gains.loc["gkd", "gain_se"] ** 2 == pytest.approx(2.0**2 + 1.0 + variance + variance / 2)


def test_without_repeated_runs_seed_noise_is_unknown(cells):
    assert gain_tables.mean_over_seeds(cells)["seed_se"].isna().all()


def test_one_cell_twice_is_refused():
    with pytest.raises(ValueError, match="two rows for one cell"):
        cell_rows.cell_table([distilled("fkl", 1.0, 45.0), distilled("fkl", 1.0, 46.0)])
    with pytest.raises(KeyError, match="acuracy"):
        cell_rows.cell_table([cell(acuracy=1.0)])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen2.5-0.5B", 500_000_000),
        ("Llama-3.1-8B", 8_000_000_000),
        ("mini-28k", 28_000),
        ("x-135M", 135_000_000),
        ("Qwen/Qwen2.5-0.5B", 500_000_000),
        ("/models/Llama-3.2-1B/", 1_000_000_000),
    ],
)
def test_parameters_are_read_off_the_name(name, count):
    assert cell_rows.model_parameters(name) == count


@pytest.mark.parametrize(
    ("name", "short", "family"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B", "Qwen2.5"),
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B", "Llama-3"),
        ("/models/qwen-0.5B.gguf", "qwen-0.5B", "qwen"),
        ("mini-qwen-1.5B", "mini-qwen-1.5B", "mini-qwen"),
    ],
)
def test_names_are_short_in_tables(name, short, family):
    assert cell_rows.short_name(name) == short
    assert cell_rows.model_family(name) == family


def test_pairs_are_labelled_without_owners():
    names = {"teacher": ["meta-llama/Llama-3.1-8B", "Qwen2.5-14B"]}
    table = pd.DataFrame(names | {"student": ["meta-llama/Llama-3.2-1B", "Qwen2.5-0.5B"]})
    assert gain_tables.pair_label(table).tolist() == ["Llama 8B→1B", "Qwen 14B→0.5B"]


@pytest.mark.parametrize("label", ["14B", "0.5B", "135M", "1.5M", "518k"])
def test_size_labels_are_read_back(label):
    assert cell_rows.size_label(cell_rows.model_parameters(f"x-{label}")) == label


def test_name_without_size_is_refused():
    with pytest.raises(ValueError, match="'gpt2' does not end in a size"):
        cell_rows.model_parameters("gpt2")


def test_released_gains_are_33_a_task():
    gains = gain_tables.gains(authors_tables.cells(), selection="best_on_test")
    assert set(gains.groupby(["domain", "task"]).size()) == {33}
    top = gains[gains["task"] != "average"].nlargest(1, "gain").iloc[0]
    assert (top["student"], top["method"], top["task"]) == ("Llama-3.2-1B", "gkd", "multiarith")
    assert top["gain"] == pytest.approx(22.33)


def test_average_is_the_best_average_not_the_average_of_the_best():
    gains = gain_tables.gains(authors_tables.cells(), selection="best_on_test")
    row = gains.query(
        "teacher == 'Qwen2.5-3B' and student == 'Qwen2.5-1.5B' and method == 'revkd' "
        "and domain == 'commonsense'"
    ).set_index("task")
    assert row.loc["average", "accuracy"] == 59.16
    assert row.drop(index="average")["accuracy"].mean() > 60


def test_likeness_takes_the_sft_value_of_the_same_teacher():
    gains = gain_tables.gains(authors_tables.cells(), selection="best_on_test")
    table = agreement_fidelity.by_pair(gains, measure="agreement")
    assert len(table) == 22
    math_rise = table.loc[table["domain"] == "math", "rise"].mean()
    assert math_rise == pytest.approx(5.4, abs=0.05)
    assert isinstance(table, pd.DataFrame)


def test_the_released_models_are_those_of_the_tables():
    table = authors_tables.cells()
    assert set(RELEASED_MODELS) == {*table["student"], *table["teacher"]} - {""}


def test_seqkd_is_a_gain_where_it_is_asked_for(cells):
    table = cell_rows.cell_table([*cells.to_dict("records"), distilled("seqkd", 1.0, 41.0)])
    assert "seqkd" not in set(gain_tables.gains(table, selection="best_on_test")["method"])
    asked = gain_tables.gains(table, selection="best_on_test", methods=("seqkd",))
    assert asked["gain"].tolist() == [1.0]


def average(student, teacher, gain, *, teacher_accuracy, size, teacher_size, method="fkl"):
    row = {"source": "live", "protocol": "careful", "domain": "math", "student": student, "teacher": teacher}
    row |= {"student_parameters": size, "teacher_parameters": teacher_size, "method": method}
    return row | {"gain": gain, "teacher_accuracy": teacher_accuracy}


@pytest.fixture
def several_teachers():
    """Two students of two teachers, which differ in gain, and one of a single teacher."""
    rows = [
        average("a-109k", "a-200k", 1.0, teacher_accuracy=40.0, size=109_000, teacher_size=200_000),
        average("a-109k", "a-400k", 5.0, teacher_accuracy=60.0, size=109_000, teacher_size=400_000),
        average("a-14k", "a-200k", 20.0, teacher_accuracy=40.0, size=14_000, teacher_size=200_000),
        average("a-14k", "a-400k", 10.0, teacher_accuracy=60.0, size=14_000, teacher_size=400_000),
        average("a-200k", "a-400k", 99.0, teacher_accuracy=60.0, size=200_000, teacher_size=400_000),
    ]
    return pd.DataFrame(rows)


def test_within_a_student_only_its_teachers_differ(several_teachers):
    within = gain_tables.within_student(several_teachers)
    assert set(within["student"]) == {"a-109k", "a-14k"}
    assert within["gain_within"].tolist() == [-2.0, 2.0, 5.0, -5.0]
    assert within["teacher_within"].tolist() == [-10.0, 10.0, -10.0, 10.0]
    assert gain_tables.within_student(several_teachers.tail(1)).empty


def test_in_view_are_the_tasks_asked_for_and_the_averages(tmp_path):
    wanted = Filter(domains=("math",), tasks=("svamp",))
    plan = Plan("02", load_profile("published"), tmp_path, (), wanted)
    rows = [("math", "svamp"), ("math", "aqua"), ("math", "average"), ("commonsense", "average")]
    table = pd.DataFrame(rows, columns=["domain", "task"])
    assert gain_tables.in_view(table, plan)["task"].tolist() == ["svamp", "average"]
    assert gain_tables.in_view(table.head(0), plan).empty


def items(parsed, answers, task="svamp"):
    """Item rows as an evaluation keeps them."""
    rows = [
        {"task": task, "item_id": str(i), "sample": 0, "parsed": given, "correct": given == gold, "top1": []}
        for i, (given, gold) in enumerate(zip(parsed, answers, strict=True))
    ]
    return pd.DataFrame(rows)


def finished_run(out, run, evaluation, rows):
    folder = store.folder_of(out, run.run_id)
    folder.begin(run.to_dict())
    folder.finish({"status": "done"}, [])
    folder.write_evaluation(evaluation, rows, {"seconds": 0.0})


@pytest.fixture
def answered(tmp_path):
    """A plan whose teacher, SFT student and KD student have answered five items; a noisy run has too."""
    gold = ["1", "2", "3", "4", "5"]
    common = {"data": "mini", "domain": "math"}
    student, teacher = "mini-qwen-0.5B", "mini-qwen-1.5B"
    kd = spec.RunSpec(student=student, teacher=teacher, method="fkl", **common)
    specs = {
        spec.RunSpec(student=teacher, method="sft", **common): ["1", "2", "9", None, "8"],
        spec.RunSpec(student=student, method="sft", **common): ["0", "0", "0", "4", None],
        kd: ["1", "7", "9", "4", None],
        dataclasses.replace(kd, noise_sigma=2.0): gold,
        dataclasses.replace(kd, seed=1): None,  # not finished
    }
    evaluation = spec.EvalSpec(tasks=("svamp",))
    for run, parsed in specs.items():
        if parsed:
            finished_run(tmp_path, sources.resolved(run), evaluation, items(parsed, gold))
    planned = tuple(PlannedRun(run, evaluation) for run in specs)
    return Plan("04", load_profile("mini"), tmp_path, planned, Filter())


def test_answers_of_student_and_teacher_by_hand(answered):
    table = agreement_fidelity.answers(agreement_fidelity.paired_answers(answered)).set_index("method")
    assert table.index.tolist() == ["fkl", "sft"]
    kd = table.loc["fkl"]
    # 1 both right, 2 only the teacher, 3 the same wrong answer, 4 only the student, 5 other wrong answers
    assert kd[agreement_fidelity.ANSWERS].tolist() == [20.0, 20.0, 20.0, 20.0, 20.0]
    assert (kd["agreement"], kd["n"]) == (40.0, 5)
    assert kd["error_consistency"] == pytest.approx((0.6 - 0.52) / 0.48)
    assert table.loc["sft", agreement_fidelity.ANSWERS].tolist() == [0.0, 0.0, 40.0, 40.0, 20.0]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
def test_item_rows_stand_side_by_side_in_any_order(order):
    gold = ["1", "2", "3", "4", "5"]
    student, teacher = items(["1", "2", "9", None, "8"], gold), items(["1", "7", "9", "4", None], gold)
    both = comparison.paired(student, teacher.iloc[order])
    assert both["parsed"].fillna("-").tolist() == ["1", "2", "9", "-", "8"]
    assert both["parsed_teacher"].fillna("-").tolist() == ["1", "7", "9", "4", "-"]
    shuffled = comparison.paired(student.iloc[order], teacher)
    assert shuffled["item_id"].tolist() == student["item_id"].iloc[order].tolist()
    assert shuffled["parsed_teacher"].iloc[order.index(1)] == "7"


def test_other_items_do_not_stand_side_by_side():
    rows = items(["1", "2"], ["1", "2"])
    with pytest.raises(ValueError, match="different items .1, such as .*'1'"):
        comparison.paired(rows, rows.head(1))


def test_answers_are_what_agreement_says_of_every_pair_and_task(answered):
    paired = agreement_fidelity.paired_answers(answered)
    table = agreement_fidelity.answers(paired)
    for method, both in paired.groupby("method"):
        found = comparison.agreement(both)
        row = table[table["method"] == method].iloc[0]
        for name in ("agreement", "error_consistency", "both_right", "only_student", "only_teacher"):
            assert row[name] == found[name]


def test_answers_need_live_runs(tmp_path):
    plan = Plan("04", load_profile("published"), tmp_path, (), Filter())
    none = agreement_fidelity.answers(agreement_fidelity.paired_answers(plan))
    assert none.empty
    assert set(agreement_fidelity.ANSWERS) <= set(none)


def test_few_pairs_are_left_out_and_named(cells):
    several = pd.concat([cells.assign(student=f"toy-{size}M") for size in (1, 2, 3)], ignore_index=True)
    tables = {"published": several, "live": cells}
    assert list(gain_tables.several_pairs(tables)) == ["published"]
    labels = {"published": "Released", "live": "Live, Qwen2.5"}
    remark = gain_tables.few_pairs_remark(tables, labels)
    assert remark == "Live, Qwen2.5: one pair (toy 8M→1M): nothing to correlate."
    assert gain_tables.few_pairs_remark(tables, labels, least=1) == ""
    assert gain_tables.few_pairs_remark({"live": cells.head(0)}, labels) == (
        "Live, Qwen2.5: no pair: nothing to correlate."
    )


@pytest.mark.parametrize(
    ("families", "label"),
    [
        (["Qwen2.5"], "Live, Qwen2.5"),
        (["Qwen2.5", "Llama-3", "Qwen2.5"], "Live, Qwen2.5 and Llama-3"),
        (["mini-qwen", "mini-llama"], "Live"),
        ([], "Live"),
    ],
)
def test_live_results_are_called_by_the_family_of_real_models(cells, families, label):
    table = pd.concat([cells.head(0), *(cells.head(1).assign(family=name) for name in families)])
    assert gain_tables.labels_of(table) == {"published": "Released", "live": label}
    of_released = cells.assign(source="published", family="Qwen2.5")
    assert gain_tables.labels_of(pd.concat([table, of_released]))["live"] == label


def test_answer_shares_weigh_pairs_and_not_tasks_or_seeds():
    row = dict.fromkeys([*agreement_fidelity.ANSWERS, "agreement", "error_consistency"], 0.0) | {
        "domain": "math"
    }
    row |= {"method": "gkd", "teacher": "t", "student": "a", "task": "aqua", "seed": 0}
    rows = [row | {"agreement": 10.0}, row | {"agreement": 30.0, "seed": 1}]
    rows += [row | {"agreement": 40.0, "task": "svamp"}, row | {"agreement": 90.0, "student": "b"}]
    rows += [row | {"method": "sft", "agreement": 5.0}]
    shares = agreement_fidelity.answer_shares(pd.DataFrame(rows))
    assert shares["label"].tolist() == ["SFT", "GKD"]
    assert shares["agreement"].tolist() == [5.0, 60.0]  # a: (mean of seeds 20 + 40) / 2; b: 90
    assert shares["n_pairs"].tolist() == [1, 2]


def test_texts_without_an_answer_are_shown_beside_the_accuracy():
    rows = [baseline("toy-1M", "sft", 60.0, task="average", unparsed=0.0, truncated=1.0)]
    rows += [distilled("gkd", 1.0, value, seed=seed, task="average", unparsed=80.0 + seed, truncated=0.0)
             for seed, value in enumerate((10.0, 20.0))]  # fmt: skip
    rows += [distilled("gkd", 2.0, 90.0, task="average", unparsed=0.0, truncated=0.0)]
    rows += [distilled("fkl", 1.0, 50.0, task="average", source="published", protocol="paper")]
    rows += [baseline("toy-8M", "sft", 90.0, task="average", unparsed=0.0, truncated=0.0)]  # of the teacher
    table = answer_modes.failures(cell_rows.cell_table(rows))
    assert table["method"].tolist() == ["SFT", "GKD"]
    assert table.loc[1, ["accuracy", "unparsed", "runs"]].tolist() == [15.0, 80.5, 2]
    assert table.loc[0, ["accuracy", "runs"]].tolist() == [60.0, 1]
