"""Programs side by side: the same losses, failures as rows, measurements that are kept while they count."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from conftest import missing

from kdutils.bench import (
    kd_steps,
    mini_ladder,
    peers,
    performance,
    roofline,
    side_by_side,
    speed_figures,
    whole_runs,
    workloads,
)
from kdutils.bench.kd_steps import BFLOAT16, CACHED, CONTENDERS, ONLINE, PLAIN, TRL_GKD
from kdutils.bench.workloads import Case, Work
from kdutils.constants import AVERAGE, DOMAIN_TASKS
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import Architecture
from kdutils.io import cache
from kdutils.io.child_processes import Function
from kdutils.mini.family import FAMILY, ROWS
from kdutils.report import plots

SHAPE = Architecture(
    layers=1, hidden=16, heads=2, key_heads=1, intermediate=24, rows=60, is_tied=True, has_bias=True
)
TINY = Case(name="tiny", student=SHAPE, teacher=replace(SHAPE, hidden=32), rows=3, length=10, scored=4)
TEXTS = replace(  # of unequal lengths, so there is padding
    TINY,
    name="texts",
    student=replace(SHAPE, rows=ROWS),
    teacher=replace(SHAPE, rows=ROWS, hidden=32),
    length=0,
    scored=0,
    domain="math",
)
PEERS = {"trl": "TRL", "llm_distil": "llm-distil"}


@pytest.fixture(autouse=True)
def process_as_before():
    """What a contender sets in a process of its own is not left to the tests after it."""
    threads, variables = torch.get_num_threads(), dict(os.environ)
    os.environ["KDUTILS_COMPILE"] = ""
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    os.environ.clear()
    os.environ.update(variables)


def needs(name):
    """Skip, or fail where the extra is required, if the peer is not installed."""
    for package, start in PEERS.items():
        if name.startswith(start) and package in peers.missing():
            missing("bench", f"{package} is not installed (extra `bench`)")


# --- the same work -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand():
    """Losses of each case before and after one update, in float64 from dense logits."""
    found = {}
    for case in (TINY, TEXTS):
        its = Work(case)
        student, teacher = its.student.double(), its.teacher.double()
        optimiser, batch = its.optimiser(), its.batch
        how = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_BT}
        found[case.name] = []
        for _ in range(2):
            p_NV, q_NV = (
                network(**how).logits[:, :-1][batch.scored_BT[:, 1:]].softmax(-1)
                for network in (teacher, student)
            )
            m_NV = (p_NV + q_NV) / 2
            loss = sum(0.5 * (x * (x / m_NV).log()).sum(-1).mean() for x in (p_NV, q_NV))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            found[case.name].append(float(loss.detach()))
    return found


@pytest.mark.parametrize("case", [TINY, TEXTS], ids=lambda case: case.name)
@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in (BFLOAT16, kd_steps.COMPILED)])
def test_losses_before_and_after_an_update_are_those_of_dense_float64(name, case, by_hand):
    needs(name)
    found = kd_steps.measure(case, name, 1)
    assert found["losses"] == pytest.approx(by_hand[case.name], rel=2e-5)
    assert found["losses"][0] != found["losses"][1]
    assert len(found["seconds"]) == 1


def test_texts_of_the_mini_world_are_padded_and_only_responses_are_scored():
    sizes = Work(TEXTS).sizes
    assert sizes["tokens"] < sizes["padded_tokens"] == TEXTS.rows * sizes["length"]
    assert 0 < sizes["scored"] < sizes["tokens"]


def test_bfloat16_is_measured_where_kdutils_computes_with_it(monkeypatch):
    case = workloads.case_of("qwen-vocabulary")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("KDUTILS_CPU_BFLOAT16", "0")
    assert "KDUTILS_CPU_BFLOAT16=1" in kd_steps.hindrance(case, BFLOAT16)
    assert "KDUTILS_CPU_BFLOAT16=1" in kd_steps.hindrance(workloads.case_of("mini"), BFLOAT16)
    monkeypatch.setenv("KDUTILS_CPU_BFLOAT16", "1")
    assert kd_steps.hindrance(case, BFLOAT16) == ""
    assert kd_steps.hindrance(workloads.case_of("mini"), BFLOAT16) != ""


def test_cases_are_what_they_are_called():
    assert workloads.case_of("smollm").student.parameters == 134_515_008
    whole = workloads.case_of("qwen-vocabulary")
    assert whole.student.rows == whole.teacher.rows == 151_936
    assert (whole.student.parameters, whole.teacher.parameters) == (42_112_256, 103_502_336)
    mini = workloads.case_of("mini")
    from kdutils import models

    assert mini.student.rows == mini.teacher.rows == len(models.load_tokenizer(workloads.MINI_STUDENT))
    with pytest.raises(ValueError, match="unknown case 'qwen'; choose one of"):
        workloads.case_of("qwen")


def test_the_moments_of_the_optimiser_are_there_before_the_first_step():
    its = Work(TINY)
    given, plain = its.optimiser(), torch.optim.AdamW(its.student.parameters(), lr=workloads.RATE, fused=True)
    assert set(given.state) == set(its.student.parameters()) and not plain.state
    before = [weight.detach().clone() for weight in its.student.parameters()]
    after = []
    for optimiser in (given, plain):
        with torch.no_grad():
            for weight, value in zip(its.student.parameters(), before, strict=True):
                weight.copy_(value)
                weight.grad = torch.ones_like(weight)
        optimiser.step()
        after.append([weight.detach().clone() for weight in its.student.parameters()])
    assert all(map(torch.equal, *after))
    assert not any(map(torch.equal, before, after[0]))


# --- who is missing, who fails -----------------------------------------------------------------------------


def test_no_process_is_started_for_what_is_known_to_be_impossible(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(side_by_side, "Function", lambda *args, **how: pytest.fail("a process was started"))
    peers_of = ["'trl==1.16.0'", "'trl==1.16.0'", "evaluate 'llm-distil==0.1.0'"]
    names = [TRL_GKD, "TRL DistillationTrainer", "llm-distil", kd_steps.BFLOAT16]
    rows = side_by_side.measure([TINY], names, repeats=2)
    assert [row["repeats"] for row in rows] == [0, 0, 0, 0]
    reasons = [f"not installed: python -m pip install {package}" for package in peers_of]
    assert [row["reason"] for row in rows[:3]] == reasons
    assert rows[3]["reason"].startswith("kdutils computes with this in float32 alone")


def test_missing_peers_are_listed_with_the_command(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "trl" else object())
    table = performance.missing_peers()
    assert table.to_dict("records") == [{"package": "trl", "remedy": "python -m pip install 'trl==1.16.0'"}]


def test_a_case_that_fails_is_a_row_with_its_reason_and_the_others_stay():
    bad = replace(TINY, name="bad", student=replace(SHAPE, heads=2, key_heads=0))
    good, failed = side_by_side.measure([TINY, bad], [PLAIN], repeats=2, n_threads=1)
    assert good["repeats"] == 1 and good["loss"] > 0 and good["reason"] == ""
    assert good["peak_gb_above_start"] >= 0 and good["tokens"] == 30
    assert failed["repeats"] == 0 and failed["reason"].startswith("ended with code 1; ")


def dies(pipe, code, line):
    """What a visit may do to its process: write a line and end with this code."""
    print(line, file=sys.stderr, flush=True)
    os._exit(code)


def test_a_process_that_dies_is_a_row_with_its_reason(monkeypatch):
    started, line = [], "RuntimeError: can't allocate memory"

    def function(visit, arguments, **how):
        started.append(arguments)
        return Function(dies, (1, line), **how)

    monkeypatch.setattr(side_by_side, "Function", function)
    (row,) = side_by_side.measure([TINY], [PLAIN], repeats=6)
    assert row == {"case": "tiny", "contender": PLAIN, "reason": f"ended with code 1; {line}", "repeats": 0}
    assert len(started) == 1  # what has failed is not tried again


def test_one_that_hangs_is_stopped(monkeypatch):
    monkeypatch.setattr(side_by_side, "LIMIT_SECONDS", 0.01)
    (row,) = side_by_side.measure([TINY], [PLAIN], repeats=2)
    assert row["reason"] == "was stopped: took longer than 0.01 s"


def answers(seconds, *, losses=(0.5, 0.4), peak_gb=1.5):
    """What a process prints of the tiny case."""
    sizes = {"tokens": 30, "padded_tokens": 30, "length": 10, "scored": 12}
    measured = {
        "seconds": seconds,
        "cpu_seconds": [2 * each for each in seconds],
        "losses": list(losses),
        "start_gb": 1.0,
        "peak_gb": peak_gb,
    }
    return {"case": "tiny"} | measured | {"memory_by": "VmHWM"} | sizes


def test_rounds_go_to_and_fro_and_medians_are_over_all_of_them(monkeypatch):
    order, taken = [], iter([[4.0, 2.0, 9.0], [1.0] * 3, [1.0] * 2, [3.0, 5.0]])

    def visit(cases, name, steps, n_threads):
        order.append(name)
        seconds = next(taken)
        assert (len(seconds), n_threads) == (steps, 2)
        return [answers(seconds)]

    monkeypatch.setattr(side_by_side, "visit", visit)
    first, second = side_by_side.measure([TINY], [PLAIN, CACHED], repeats=5, n_threads=2)
    assert order == [PLAIN, CACHED, CACHED, PLAIN]
    assert (first["seconds_per_step"], first["repeats"], first["tokens_per_second"]) == (4.0, 5, 7.5)
    assert (second["seconds_per_step"], second["peak_gb_above_start"]) == (1.0, 0.5)
    assert second["cores_busy"] == 2.0


@pytest.mark.parametrize(("name", "backend"), [(CACHED, ""), (kd_steps.COMPILED, "inductor")])
def test_a_visit_is_given_threads_and_backend_and_our_environment_stays(name, backend, monkeypatch):
    before, given = dict(os.environ), []

    def function(visit, arguments, **how):
        given.append((arguments, how["env"]))
        return Function(dies, (0, ""), **how)

    monkeypatch.setattr(side_by_side, "Function", function)
    side_by_side.visit([TINY], name, 3, 2)
    ((arguments, env),) = given
    assert arguments == (kd_steps.visit, [TINY], name, 3, 2)
    assert (env["OMP_NUM_THREADS"], env["KDUTILS_COMPILE"]) == ("2", backend)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("names", "repeats", "message"), [(["TRL"], 5, "unknown contender 'TRL'"), ([PLAIN], 1, "at least 2")]
)
def test_what_cannot_be_asked_is_refused(names, repeats, message):
    with pytest.raises(ValueError, match=message):
        side_by_side.measure([TINY], names, repeats=repeats)


# --- rows --------------------------------------------------------------------------------------------------


def row(name, seconds=1.0, loss=0.5, after=0.4, peak=1.0, **more):
    facts = {"case": "tiny", "contender": name, "reason": "", "repeats": 5, "seconds_per_step": seconds}
    facts |= {"tokens_per_second": 30 / seconds, "peak_gb_above_start": peak}
    return facts | {"loss": loss, "loss_after_update": after} | more


def test_a_contender_whose_loss_differs_is_marked():
    rows = [
        row(TRL_GKD, 8.0, loss=0.50009, peak=12.0),
        row(PLAIN, 4.0),
        row(ONLINE, 2.0, loss=0.50011),
        row(CACHED, 1.0, after=0.39, peak=0.5),
        {"case": "tiny", "contender": "llm-distil", "reason": "failed: x", "repeats": 0},
    ]
    table = side_by_side.table(rows).set_index("contender")
    assert table["same_loss"].tolist() == [True, True, False, False, None]
    assert table.loc[CACHED, "times_faster"] == 8 and table.loc[CACHED, "of_its_memory"] == 0.5 / 12
    assert table.loc["llm-distil", ["times_faster", "loss_apart"]].isna().all()


def test_the_comparison_is_shown_in_words_and_says_how_kdutils_does_without_cached_states():
    table = side_by_side.table([row(PLAIN, 2.0), row(ONLINE, 3.0), row(CACHED, 1.0)])
    shown = performance.shown(table)
    assert list(shown["formats"]) == list(shown["frame"]) and not any("_" in name for name in shown["frame"])
    (said,) = performance.sentences(table)
    assert "(plain loop) 2 s, 2.00 times that; kdutils without cached states 3 s, 1.50 times" in said


def test_performance_csv_has_the_columns_of_the_contract(tmp_path):
    measured = performance.Performance(tmp_path)
    measured.rows = [row(PLAIN), {"case": "tiny", "contender": "x", "reason": "no", "repeats": 0}]
    table = pd.read_csv(measured.write())
    assert list(table.columns) == [
        *("case", "contender", "seconds_per_step", "tokens_per_second"),
        *("peak_gb_above_start", "loss", "repeats"),
    ]
    assert table["repeats"].tolist() == [5, 0]
    assert table["seconds_per_step"].isna().tolist() == [False, True]


# --- measurements that are kept ----------------------------------------------------------------------------


@pytest.fixture
def made():
    """Counts how often something was measured."""

    class Made:
        n = 0

        def __call__(self):
            self.n += 1
            return {"n": self.n}

    return Made()


def test_it_is_made_again_if_asked_for_or_if_its_settings_differ(tmp_path, made):
    path = tmp_path / "performance.json"
    for expected, (measure, repeats) in enumerate([("missing", 5), ("again", 5), ("missing", 6)], start=1):
        record = cache.Record(path, performance.__name__, measure)
        assert record.part("a", {"repeats": repeats}, made) == {"n": expected}
    with pytest.raises(ValueError, match="measure='never' is unknown: choose one of"):
        cache.Record(path, performance.__name__, "never")


@pytest.mark.parametrize("changed", ["processor", "cores", "python", "packages", "code"])
def test_it_does_not_count_on_another_machine_or_for_other_code(changed, tmp_path, made, monkeypatch):
    record = cache.Record(tmp_path / "performance.json", performance.__name__)
    record.part("a", {}, made)
    facts = cache.surroundings(performance.__name__, of_machine=True) | {changed: "another"}
    monkeypatch.setattr(cache, "surroundings", lambda *args, **named: facts)
    assert not record.has("a", {})
    assert record.part("a", {}, made) == {"n": 2}


def test_what_is_measured_depends_on_all_that_trains_and_generates():
    found = {path.stem for path in cache.code_files(performance.__name__)}
    assert {"losses", "training", "generation", "models", "teacher", "noise", "experiment"} <= found


def test_a_damaged_record_is_measured_anew_and_parts_do_not_touch_each_other(tmp_path, made):
    path = tmp_path / "performance.json"
    path.write_text("{")
    record = cache.Record(path, performance.__name__)
    assert record.part("a", {}, made) == {"n": 1}
    assert record.part("b", {}, made) == {"n": 2}
    assert record.part("a", {}, made) == {"n": 1}


def test_cases_that_are_kept_are_shown_and_never_measured_unasked(tmp_path, monkeypatch):
    asked = []

    def measure(cases, names, **options):
        asked.extend(case.name for case in cases)
        return [row(PLAIN) | {"case": case.name} for case in cases]

    monkeypatch.setattr(side_by_side, "measure", measure)
    how = {"repeats": 5, "names": None}
    performance.Performance(tmp_path).comparison(["smollm"], **how)
    table = performance.Performance(tmp_path, measure="again").comparison(["mini"], **how)
    assert asked == ["smollm", "mini"]
    assert table["case"].tolist() == ["mini", "smollm"]
    measured = performance.Performance(tmp_path)
    measured.comparison(["mini"], **how)
    assert asked == ["smollm", "mini"]
    assert measured.measured()["now"].tolist() == ["kept", "kept"]


# --- the bound ---------------------------------------------------------------------------------------------

SMALL = Architecture(layers=2, hidden=8, heads=2, key_heads=1, intermediate=16, rows=100, is_tied=True)
# A block: q and o 8 x 8, k and v 8 x 4, three of 8 x 16: 576 weights. Norms: 2 x 2 x 8 + 8.
BODY, HEAD, PARAMETERS = 1_152, 800, 1_992


def test_phases_are_those_counted_by_hand():
    assert (SMALL.body, SMALL.head, SMALL.parameters) == (BODY, HEAD, PARAMETERS)
    found = roofline.phases(SMALL, SMALL, padded_tokens=20, length=10, scored=6, is_cached=False)
    attention = 4 * 10 * 8 * 2  # of a token: scores and values, 2 FLOPs each, in 2 layers
    forward = 20 * (2 * BODY + attention)
    assert found == [
        ("student's body", 3 * forward, 4 * 3 * BODY),
        ("teacher's body", forward, 4 * BODY),
        ("products of the heads", 2 * 6 * 4 * HEAD, 4 * 4 * HEAD),
        ("divergence of logits", 0, 7 * 4 * 6 * 100),
        ("optimiser", 0, 7 * 4 * PARAMETERS),
    ]
    cached = roofline.phases(SMALL, SMALL, padded_tokens=20, length=10, scored=6, is_cached=True)
    assert cached[1] == ("teacher's states", 0, 4 * 6 * 8)
    assert [p for i, p in enumerate(cached) if i != 1] == [p for i, p in enumerate(found) if i != 1]


MACHINE = Machine(name="x", flops=400.0, flops_float32=100.0, bytes_per_second=10.0, memory_gb=1)


def test_the_bound_is_the_slower_of_products_and_memory_in_each_phase():
    work_ = [("a", 500, 20), ("b", 500, 80), ("c", 0, 5)]
    table = roofline.bound(work_, MACHINE)
    assert table["seconds"].tolist() == [5, 8, 0.5]
    assert table["limited_by"].tolist() == ["products", "memory", "memory"]
    assert roofline.bound(work_, MACHINE, product_bytes=2)["seconds"].tolist() == [2, 8, 0.5]


def test_distances_are_of_what_ran():
    sizes = {"tokens": 640, "padded_tokens": 640, "length": 160, "scored": 320}
    case = {"case": "smollm"} | sizes
    rows = [row(PLAIN) | case, row(CACHED) | case, {"case": "smollm", "contender": "x", "repeats": 0}]
    found = roofline.distances(rows, MACHINE).set_index("contender")
    assert list(found.index) == [PLAIN, CACHED]
    teacher, states = (roofline.bound_of(each, MACHINE)["seconds"].iloc[1] for each in rows[:2])
    apart = found.loc[PLAIN, "bound_seconds"] - found.loc[CACHED, "bound_seconds"]
    assert apart == pytest.approx(teacher - states)
    assert (found["times_the_bound"] * found["bound_seconds"]).tolist() == pytest.approx([1.0, 1.0])
    assert roofline.table(rows, MACHINE)["seconds"].iloc[-1] == found.loc[CACHED, "bound_seconds"]


# --- grids -------------------------------------------------------------------------------------------------


def test_the_grid_is_four_students_three_methods_and_three_temperatures():
    specs = [planned.spec for planned in whole_runs.grid_runs("mini-qwen-14B", whole_runs.STUDENTS["mini"])]
    assert len({spec.run_id for spec in specs}) == 36
    assert {spec.on_policy_share for spec in specs if spec.method == "gkd"} == {0.5}  # the default


def test_the_deep_teacher_is_as_much_larger_as_a_real_one():
    table = performance.regimes()
    ratios = {grid: part["ratio"].tolist() for grid, part in table.groupby("grid")}
    real = ratios["Qwen2.5-14B, not made here"][0]  # of the smallest student
    assert 8 < real < 12
    assert 0.4 < min(ratios["deep teacher"]) / real < max(ratios["deep teacher"]) / real < 1.5


def test_ratios_of_grids_are_those_of_their_seconds():
    common = {"family": "mini", "students": 4, "runs": 36, "steps": 1, "peak_gb": 1.0}
    kept = common | {"mode": "always", "seconds": 10.0, "training_seconds": {"fkl": 2.0, "gkd": 5.0}}
    never = common | {"mode": "never", "seconds": 25.0, "training_seconds": {"fkl": 8.0, "gkd": 10.0}}
    (found,) = performance.grid_ratios(pd.DataFrame([kept, never])).to_dict("records")
    assert (found["ratio"], found["ratio, fkl"], found["ratio, gkd"]) == (2.5, 4.0, 2.0)


def test_a_small_grid_is_made_in_both_modes():
    how = {"train_items": 16, "epochs": 1, "batch_size": 8, "max_new_tokens": 4}
    rows = whole_runs.compare_grids("deep teacher", [1], **how)
    assert [row["mode"] for row in rows] == ["always", "never"]
    for found in rows:
        assert found["runs"] == 9 and found["steps"] == 18
        assert found["seconds_per_step"] * 18 == pytest.approx(found["seconds"])
        assert set(found["training_seconds"]) == set(whole_runs.METHODS)
    with pytest.raises(ValueError, match="unknown family 'deep'; choose one of"):
        whole_runs.grid_seconds("deep", 1, "never", {})


def test_the_roofline_of_all_contenders_is_within_its_figure():
    names = list(speed_figures.CONTENDER_STYLE)
    seconds = [20.0 / 2**place for place in range(len(names))]
    rows = {"case": "a-case-with-a-name", "contender": names, "seconds_per_step": seconds}
    with plt.rc_context():
        plots.set_theme()
        fig = speed_figures.roofline(pd.DataFrame(rows).assign(bound_seconds=[1.2] * 4 + [0.9] * 4))
        fig.canvas.draw()
        legend, (ax,) = fig.legends[0].get_window_extent(), fig.axes
        (name,) = (text for text in ax.texts if text.get_text() == "a-case-with-a-name")
        box = name.get_window_extent()
        assert 0 <= legend.x0 < legend.x1 <= fig.bbox.width
        assert ax.bbox.y0 < box.y0 < box.y1 < ax.bbox.y1
        plt.close(fig)


def test_the_ladder_is_every_mini_model_as_it_is_and_after_sft_sampled_and_greedy():
    found = mini_ladder.planned(200)
    assert len(found) == len({(run.spec.run_id, run.evaluation) for run in found}) == 9 * 2 * 2 * 2
    assert {run.spec.method for run in found} == {"base", "sft"}  # nothing distils
    assert {run.evaluation.temperature for run in found} == {0.0, 1.0}


def _ladder_cells(value):
    """Accuracies of all models, `value(model, domain, method)` in every task and on average."""
    return pd.DataFrame(
        {
            "domain": domain,
            "student": model.name,
            "method": method,
            "decoding": decoding,
            "task": task,
            "n": 200,
            "accuracy": value(model, domain, method),
        }
        for model in FAMILY
        for domain, method in mini_ladder.COLUMNS
        for decoding in mini_ladder.DECODINGS
        for task in (*DOMAIN_TASKS[domain], AVERAGE)
    )


@pytest.mark.parametrize(("shift", "n_met"), [(0.0, 32), (7.9, 32), (8.1, 4)])
def test_the_ladder_is_met_within_eight_points_and_by_unreleased_ones_if_monotone(shift, n_met):
    def value(model, domain, method):
        released = mini_ladder.RELEASED[model.stands_for][mini_ladder.COLUMNS.index((domain, method))]
        return (75.0 if released is None else released) + shift

    assert mini_ladder.ladder(_ladder_cells(value))["met"].sum() == n_met


@pytest.mark.parametrize(
    ("smallest", "others", "is_met"), [(60, 95, True), (95, 95, False), (60, 20, False), (60, 60, False)]
)
def test_a_task_carries_signal_where_the_largest_is_high_and_the_smallest_not_at_the_top(
    smallest, others, is_met
):
    def value(model, domain, method):
        return smallest if model.name in ("mini-qwen-0.5B", "mini-llama-1B") else others

    met = mini_ladder.signal(_ladder_cells(value)).set_index("task")["met"]
    assert bool(met["boolq"]) == is_met and len(met) == 14


# --- the notebook ----------------------------------------------------------------------------------------


@pytest.mark.notebook
def test_the_notebook_is_executed_and_what_it_measured_is_kept(tmp_path):
    root = cache.environment.REPOSITORY
    command = [sys.executable, "-P", "-m", "kdutils", "performance", "--out", str(tmp_path)]
    wanted = {"contenders": json.dumps([PLAIN, CACHED]), "repeats": "2", "grids": "null"}
    for name, value in wanted.items():
        command += ["-p", name, value]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    plain |= {"PYTHONPATH": str(root), "KDUTILS_DATA": str(tmp_path / "none"), "HF_HUB_OFFLINE": "1"}
    folder, tables = tmp_path / "performance", []
    for _ in range(2):
        run = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        tables.append(pd.read_csv(folder / "performance.csv"))
    assert tables[0]["contender"].tolist() == [PLAIN, CACHED]
    assert tables[0]["repeats"].tolist() == [2, 2]
    pd.testing.assert_frame_equal(*tables)  # seconds are never the same twice: they were kept
    stems = {path.stem for path in (folder / "figures").glob("*.png")}
    assert stems == {"09_seconds", "09_memory", "09_roofline"}


def test_three_ways_of_evaluating_write_the_same_texts():
    rows = whole_runs.evaluation_rates("mini-qwen-0.5B", 6, 1)
    assert [row["contender"] for row in rows] == [whole_runs.AUTHORS, whole_runs.BATCHED, whole_runs.OURS]
    assert [row["same_texts"] for row in rows] == [6, 6, 6]
    assert rows[0]["times_faster"] == 1
    assert {row["case"] for row in rows} == {"evaluation of 6 items"}
    for row in rows:
        assert row["times_faster"] * row["seconds_per_step"] == pytest.approx(rows[0]["seconds_per_step"])


def test_an_evaluation_that_cannot_be_measured_says_why():
    with pytest.raises(RuntimeError, match=r"ended with code 1; .*no-such-model"):
        whole_runs.compare_evaluation(2, repeats=1, model="no-such-model")
