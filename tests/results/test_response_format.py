"""Students that have not learned the response format: the flag, the marks and what is left without them."""

from dataclasses import replace

import itemrows
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from kdutils.grid import cell_table as cell_rows
from kdutils.grid import fill
from kdutils.grid.study import UNFORMATTED, PlannedRun
from kdutils.report import plots
from kdutils.results import gain_tables, response_format
from kdutils.runs import comparison
from kdutils.spec import EvalSpec, RunSpec

TEACHER, STUDENT = "mini-qwen-1.5B", "mini-qwen-0.5B"
GREEDY = EvalSpec(tasks=("svamp",), items_per_task=10)
SAMPLED = replace(GREEDY, temperature=1.0)


def rows(n_in_format, n=10, task="svamp"):
    """Item rows, of which so many end with an announced answer, right each time."""
    table = [
        {"task": task, "item_id": str(i), "sample": 0, "text": f"{i}", "answer": "1", "parsed": "1"}
        | {
            "parsed_strict": "1" if i < n_in_format else None,
            "correct": True,
            "correct_strict": i < n_in_format,
        }
        | {"unparsed": False, "truncated": False, "rouge_l": 0.5}
        for i in range(n)
    ]
    return pd.DataFrame(table)


@pytest.fixture
def runs():
    spec = {"domain": "math", "data": "mini", "train_items": 20}
    sft = RunSpec(student=STUDENT, method="sft", **spec)
    kd = [RunSpec(student=STUDENT, teacher=TEACHER, method=name, **spec) for name in ("fkl", "revkd")]
    return {"base": RunSpec(student=STUDENT, method="base", domain="math", data="mini"), "sft": sft} | {
        run.method: run for run in kd
    }


@pytest.fixture
def cells(runs, tmp_path):
    """Sampled and greedy cells; of 10 greedy texts so many are in the format, of the others the sampled."""
    for method, n in {"sft": 10, "fkl": 9, "revkd": 8, "base": 0}.items():
        itemrows.evaluated(tmp_path, runs[method], GREEDY, rows(n))
        itemrows.evaluated(tmp_path, runs[method], SAMPLED, rows(10 - n))
    planned = [PlannedRun(run, each) for run in runs.values() for each in (GREEDY, SAMPLED)]
    return fill.live_cells(planned, tmp_path)


def test_below_nine_in_ten_greedy_texts_a_trained_student_has_the_flag_under_both_decodings(cells):
    flagged = cells[cell_rows.has_flag(cells, "format_not_learned")]
    assert set(flagged["method"]) == {"revkd"}
    assert set(zip(flagged["decoding"], flagged["task"], strict=True)) == {
        (decoding, task) for decoding in ("greedy", "sampled") for task in ("svamp", "average")
    }
    known = cells.set_index(["method", "decoding", "task"])
    assert known.loc[
        ("revkd", "greedy", "average"), ["accuracy", "accuracy_strict", "in_format"]
    ].tolist() == [100.0, 80.0, 80.0]
    assert known.loc[("revkd", "sampled", "svamp"), "in_format"] == 20.0


def test_without_greedy_texts_there_is_no_flag(runs, tmp_path):
    itemrows.evaluated(tmp_path, runs["revkd"], SAMPLED, rows(0))
    assert set(fill.live_cells([PlannedRun(runs["revkd"], SAMPLED)], tmp_path)["flags"]) == {""}


def test_instructions_have_no_format_to_keep():
    assert pd.isna(comparison.in_format(rows(0, task="dolly")))


def test_gains_of_such_students_are_marked_and_hollow_and_left_out(cells):
    greedy = cells[cells["decoding"] == "greedy"]
    gains = gain_tables.gains(greedy, selection="temperature_1")
    assert gains.set_index("method")[UNFORMATTED].groupby("method").first().to_dict() == {
        "fkl": False,
        "revkd": True,
    }
    of_texts = pd.DataFrame(
        {"domain": "math", "pair": gain_tables.pair_label(gains), "method": gains["method"]}
    )
    marked = response_format.marked(of_texts.assign(method=["SeqKD†", "RevKD"] * 2), greedy)
    assert marked[UNFORMATTED].tolist() == [False, True] * 2
    fig, (ax,) = plots.panels(height=2)
    plots.scatter(ax, gains, x="accuracy", y="gain")
    faces = [each.get_facecolor() for each in ax.collections if len(each.get_offsets())]
    assert [len(face) for face in faces] == [1, 0]
    assert tuple(faces[0][0][:3]) == to_rgba(plots.METHOD_STYLE["fkl"].colour)[:3]
    left, _ = response_format.without(greedy, None)
    assert set(left["method"]) == {"base", "sft", "fkl"}
    assert UNFORMATTED not in gain_tables.gains(left, selection="temperature_1")


def test_a_gain_over_an_sft_student_without_the_format_is_marked_too(cells):
    flags = cells["flags"].mask(cells["method"] == "sft", "format_not_learned")
    greedy = cells.assign(flags=flags)[cells["decoding"] == "greedy"]
    assert gain_tables.gains(greedy, selection="temperature_1")[UNFORMATTED].all()


def test_directions_count_intervals_by_method():
    table = pd.DataFrame({"domain": "math", "method": "fkl", "low": [1, -1, -3], "high": [2, 1, -2]})
    (row,) = response_format.gain_directions(table).to_dict("records")
    assert [row[name] for name in ("above", "around", "below", "gains")] == [1, 1, 1, 3]
