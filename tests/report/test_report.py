"""What a notebook may call, and what is left behind when it does."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from samples import PARAMETERS, write_notebook

import kdutils
from kdutils.io import environment
from kdutils.report import html_tables, ledger, notebook_api, plots
from kdutils.report.notebook_parameters import ParameterError

NAME = "02_size_correlation"
DATA = pd.DataFrame({"size": [0.5, 7.0], "gain": [0.1 + 0.2, 1.3]})
STATISTIC = {
    "section": "02",
    "test": "spearman_gain_size",
    "source": "published",
    "selection": "best_on_test",
    "domain": "math",
    "task": "aqua",
    "group": "all",
    "statistic": -0.1,
    "p_value": 0.1 + 0.2,
    "n": 33,
}
CLAIM = {
    "id": "S1",
    "section": "02",
    "statement": "gain falls with student size",
    "source": "published",
    "protocol": "paper",
    "analysis": "authors",
    "estimate": np.float64(-0.66),
    "ci_low": math.nan,
    "ci_high": None,
    "p_value": pd.NA,
    "n": np.int64(33),
    "paper_value": -0.66,
    "verdict": "reproduced",
    "reason": "the digits agree",
}


@pytest.fixture
def namespace(tmp_path) -> dict:
    """The globals of a kernel that has run the parameters cell of a notebook in tmp_path."""
    write_notebook(tmp_path, NAME)
    values: dict = {"In": ["", "..."], "Out": {}, "_": 3, "__name__": "__main__"}
    exec(PARAMETERS, values)
    return values | {"out": str(tmp_path / "out")}


@pytest.fixture
def run(tmp_path, namespace) -> notebook_api.Report:
    return notebook_api.begin(NAME, namespace, notebooks=tmp_path)


def draw(run: notebook_api.Report, name: str = "gain", **changes) -> None:
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot(DATA["size"], DATA["gain"], marker="o", clip_on=True)
    run.figure(fig, name, **{"alt": "Gain falls to 1.3.", "data": DATA, "caption": "Gain by size."} | changes)


# --- begin ---------------------------------------------------------------------------------------


def test_begin_gives_the_declared_parameters_and_the_folder(run, tmp_path):
    assert vars(run.parameters) == {
        "profile": "published",
        "out": str(tmp_path / "out"),
        "selection": "best_on_test",
    }
    assert run.folder == tmp_path / "out" / "published"
    assert run.name == NAME


def test_begin_takes_an_int_where_a_float_is_declared(tmp_path, namespace):
    write_notebook(tmp_path, NAME, parameters=PARAMETERS + "rate: float = 0.5\n")
    run = notebook_api.begin(NAME, namespace | {"rate": 2}, notebooks=tmp_path)
    assert repr(run.parameters.rate) == "2.0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("gsm8k", ["gsm8k"]), ("gsm8k,aqua", ["gsm8k", "aqua"]), ('["aqua"]', ["aqua"]), (["aqua"], ["aqua"])],
)
def test_begin_reads_a_list_that_papermill_gives_as_text(tmp_path, namespace, given, expected):
    write_notebook(tmp_path, NAME, parameters=PARAMETERS + 'tasks: list[str] = ["svamp"]\n')
    values = namespace | {"tasks": given}
    run = notebook_api.begin(NAME, values, notebooks=tmp_path)
    assert run.parameters.tasks == values["tasks"] == expected


def test_begin_reads_a_list_of_one_number_and_refuses_text_that_is_no_list(tmp_path, namespace):
    write_notebook(tmp_path, NAME, parameters=PARAMETERS + "seeds: list[int] = [0]\n")
    assert notebook_api.begin(NAME, namespace | {"seeds": 3}, notebooks=tmp_path).parameters.seeds == [3]
    with pytest.raises(ParameterError, match=r"seeds='a,1' is not list\[int\]"):
        notebook_api.begin(NAME, namespace | {"seeds": "a,1"}, notebooks=tmp_path)


@pytest.mark.parametrize("value", ["x", 3, 2.5, True, None, [1], {"a": 1}])
def test_begin_refuses_what_was_not_declared(tmp_path, namespace, value):
    with pytest.raises(
        ParameterError, match=r"'selction' \(did you mean 'selection'\?\); declared are profile: str"
    ):
        notebook_api.begin(NAME, namespace | {"selction": value}, notebooks=tmp_path)


def test_begin_overlooks_what_the_imports_of_its_own_cell_bind(tmp_path, namespace):
    exec("import math, os.path\nfrom pathlib import Path\nfrom math import sqrt as root", namespace)
    notebook_api.begin(NAME, namespace, notebooks=tmp_path)


def test_begin_may_run_again_when_the_notebook_has_variables_of_its_own(tmp_path, namespace):
    notebook_api.begin(NAME, namespace, notebooks=tmp_path)
    namespace.update(n_pairs=33, rows=[1, 2], selection="temperature_1")
    assert notebook_api.begin(NAME, namespace, notebooks=tmp_path).parameters.selection == "temperature_1"


def test_begin_that_failed_does_not_count_as_begun(tmp_path, namespace):
    for _ in range(2):
        with pytest.raises(ParameterError, match="restart the kernel"):
            notebook_api.begin(NAME, namespace | {"selction": "x"}, notebooks=tmp_path)
    with pytest.raises(ParameterError, match="selection"):
        notebook_api.begin(NAME, namespace | {"selection": "x"}, notebooks=tmp_path)
    with pytest.raises(ParameterError, match="n_pairs"):
        notebook_api.begin(NAME, namespace | {"n_pairs": 3}, notebooks=tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"selection": "best"}, "choose from best_on_test, temperature_1"),
        ({"selection": 3}, "selection=3 is not str"),
        ({"selection": None}, "selection=None is not str"),
        ({"profile": "papers"}, "choose from"),
        ({"out": ""}, "out is empty"),
    ],
)
def test_begin_refuses_wrong_values(tmp_path, namespace, changes, complaint):
    with pytest.raises(ParameterError, match=complaint):
        notebook_api.begin(NAME, namespace | changes, notebooks=tmp_path)


def test_begin_does_not_read_text_as_a_number(tmp_path, namespace):
    write_notebook(tmp_path, NAME, parameters=PARAMETERS + "seed: int = 0\n")
    with pytest.raises(ParameterError, match="seed='3' is not int"):
        notebook_api.begin(NAME, namespace | {"seed": "3"}, notebooks=tmp_path)


def test_begin_needs_the_parameters_cell_to_have_run(tmp_path, namespace):
    del namespace["selection"]
    with pytest.raises(ParameterError, match="run the parameters cell first"):
        notebook_api.begin(NAME, namespace, notebooks=tmp_path)


def test_begin_needs_the_notebook_file(tmp_path, namespace):
    with pytest.raises(ParameterError, match=r"03_teacher_quality.ipynb: cannot be read"):
        notebook_api.begin("03_teacher_quality", namespace, notebooks=tmp_path)


def test_begin_needs_profile_and_out(tmp_path):
    write_notebook(tmp_path, NAME, parameters="seed: int = 0\n")
    with pytest.raises(ParameterError, match=r"does not declare \['out', 'profile'\]"):
        notebook_api.begin(NAME, {"seed": 0}, notebooks=tmp_path)


def test_begin_refuses_a_folder_that_cannot_be_written(tmp_path, namespace):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ParameterError, match=r"cannot be written \(Not a directory\); choose another out"):
        notebook_api.begin(NAME, namespace | {"out": str(tmp_path / "file" / "out")}, notebooks=tmp_path)


@pytest.mark.parametrize("inner", ["", "figures", "ledger", "reports"])
def test_begin_refuses_a_link_that_leads_out_of_the_folder(tmp_path, namespace, inner):
    link = tmp_path / "out" / "published" / inner
    link.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ParameterError, match="leads out of"):
        notebook_api.begin(NAME, namespace, notebooks=tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


# --- figures and tables --------------------------------------------------------------------------


def test_figure_appears_under_its_name_only_with_finish(run):
    draw(run)
    assert not list((run.folder / "figures").iterdir())
    run.finish()
    assert sorted(path.name for path in (run.folder / "figures").iterdir()) == [
        f"02_gain.{suffix}" for suffix in ("csv", "json", "png", "svg")
    ]
    assert not (run.folder / ".partial" / NAME).exists()
    [found] = notebook_api.published_figures(run.folder)[0]
    assert found == {
        "notebook": NAME,
        "place": 0,
        "alt": "Gain falls to 1.3.",
        "caption": "Gain by size.",
        "png": run.folder / "figures" / "02_gain.png",
    }
    read = pd.read_csv(run.folder / "figures" / "02_gain.csv")
    pd.testing.assert_frame_equal(read, DATA, check_exact=True)


def made_by(run: notebook_api.Report) -> dict:
    draw(run)
    run.finish()
    return json.loads((run.folder / "figures" / "02_gain.json").read_text())["made_by"]


def test_a_figure_says_by_which_command_and_code_and_from_what_it_was_made(tmp_path, namespace):
    write_notebook(tmp_path, NAME, parameters=PARAMETERS + 'tasks: list[str] = ["svamp"]\n')
    given = namespace | {"tasks": ["aqua", "gsm8k"], "selection": "temperature_1"}
    run = notebook_api.begin(NAME, given, notebooks=tmp_path)
    run.inputs["a.csv"] = "abc"
    command = """./run_all.sh published --only 02 -p selection temperature_1 -p tasks '["aqua", "gsm8k"]'"""
    known = {"command": command, "kdutils": kdutils.__version__, "inputs": {"a.csv": "abc"}}
    assert made_by(run) == known | environment.git_state()
    path = run.folder / "figures" / "02_gain.json"
    before = path.read_bytes()
    assert made_by(run) == known | environment.git_state() and path.read_bytes() == before
    run.inputs["a.csv"] = "abd"
    made_by(run)
    assert path.read_bytes() != before


def test_a_figure_of_the_default_parameters_has_a_command_without_any(run):
    assert made_by(run)["command"] == "./run_all.sh published --only 02"


def test_figure_is_closed(run):
    before = plt.get_fignums()
    draw(run)
    assert plt.get_fignums() == before


@pytest.fixture
def theme():
    with plt.rc_context():
        plots.set_theme()
        yield


def test_a_figure_is_laid_out_once_drawn_once_a_file_and_looks_as_it_would(run, monkeypatch, theme):
    n_layouts, execute = [], ConstrainedLayoutEngine.execute
    n_drawn, draw_figure = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *given: (n_drawn.append(1), draw_figure(*given)))
    monkeypatch.setattr(
        ConstrainedLayoutEngine, "execute", lambda *given: (n_layouts.append(1), execute(*given))
    )

    def drawn():
        fig, (left, right) = plt.subplots(1, 2)
        left.plot([0, 1], [0, 1000])
        left.set_ylabel("a label that takes room")
        right.set_title("gain")
        return fig

    run.figure(drawn(), "gain", alt="Gain falls to 1.3.", data=DATA, caption="Gain by size.")
    assert (len(n_layouts), len(n_drawn)) == (1, 2)
    run.finish()
    plain = io.BytesIO()
    drawn().savefig(plain, format="png", dpi=notebook_api.PNG_DPI)
    plt.close()
    assert len(n_layouts) > 1
    plain.seek(0)
    np.testing.assert_array_equal(plt.imread(run.folder / "figures" / "02_gain.png"), plt.imread(plain))


def test_csv_of_a_figure_keeps_the_index(run):
    draw(run, data=DATA.assign(task=["aqua", "svamp"]).set_index("task"))
    run.finish()
    assert (run.folder / "figures" / "02_gain.csv").read_text().startswith("task,size,gain\naqua,0.5,")


@pytest.mark.parametrize(
    "changes",
    [
        {"alt": ""},
        {"alt": "Gain falls."},
        {"caption": " "},
        {"data": DATA.iloc[:0]},
        {"name": "Gain"},
        {"name": "../gain"},
        {"name": ""},
    ],
)
def test_figure_that_lacks_a_part_is_refused(run, changes):
    with pytest.raises(ValueError, match="figure"):
        draw(run, **{"name": "gain"} | changes)
    plt.close("all")


def test_figures_of_an_earlier_execution_go_unless_drawn_again(tmp_path, namespace, run):
    for name in ("gain", "old"):
        draw(run, name)
    run.finish()
    other = run.folder / "figures" / "03_old.png"
    other.touch()
    again = notebook_api.begin(NAME, namespace, notebooks=tmp_path)
    draw(again)
    again.finish()
    assert {path.stem for path in (run.folder / "figures").iterdir()} == {"02_gain", "03_old"}


def test_finish_may_be_called_again(run):
    draw(run)
    run.finish()
    run.finish()
    assert [figure["png"].name for figure in notebook_api.published_figures(run.folder)[0]] == ["02_gain.png"]


DRAW_IN_A_PROCESS_OF_ITS_OWN = """\
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_report import NAME, draw
from kdutils.report import notebook_api
write = {{"profile": "published", "out": {out!r}, "selection": "best_on_test"}}
run = notebook_api.begin(NAME, write, notebooks={notebooks!r})
draw(run)
run.finish()
"""


def test_figures_are_the_same_to_the_byte_in_two_processes(tmp_path, run):
    draw(run)
    run.finish()
    code = DRAW_IN_A_PROCESS_OF_ITS_OWN.format(
        tests=[str(place) for place in Path(__file__).parents[:2]],
        out=str(tmp_path / "second"),
        notebooks=str(tmp_path),
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    first, second = (
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "figures").iterdir()}
        for folder in (run.folder, tmp_path / "second" / "published")
    )
    assert first == second
    assert len(first) == 4


def test_table_escapes_text_and_marks_headers(run):
    frame = pd.DataFrame({"task": ["<script>alert(1)</script>", "b & c"], "gain": [-1.5, math.nan]})
    markup = html_tables.to_html(frame, caption="Gains <by> task", formats={"gain": ".2f"})
    assert "<script>" not in markup
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in markup
    assert "<caption" in markup
    assert "Gains &lt;by&gt; task" in markup
    assert '<th scope="col" style="text-align:right;white-space:nowrap">gain</th>' in markup
    assert markup.count('scope="row"') == 2
    assert re.findall(r'<td style="text-align:right;.*?">(.*?)</td>', markup) == ["−1.50", "—"]


def test_a_column_of_reasons_is_shown_where_there_is_one():
    frame = pd.DataFrame({"task": ["a", "b"], "gain": [1.0, math.nan], "reason": ["", ""]})
    assert "reason" not in html_tables.to_html(frame, caption="Gains", formats={"reason": str, "gain": ".1f"})
    assert "one run" in html_tables.to_html(frame.assign(reason=["", "one run"]), caption="Gains")


def test_a_table_without_rows_is_not_shown(run, monkeypatch):
    monkeypatch.setattr(notebook_api, "display", lambda *given, **named: pytest.fail("something is shown"))
    run.table(DATA.iloc[:0], caption="Gains.")
    run.finish()
    assert notebook_api.published_figures(run.folder)[0] == []


def test_conclusions_are_shown_at_once_and_kept_for_the_index_when_all_is_finished(run, monkeypatch):
    shown = []
    monkeypatch.setattr(notebook_api, "display", shown.append)
    run.conclusion("Gain is **1.3** points.", "", "It falls\nwith size.")
    run.conclusion("")
    run.conclusion("It falls with size.", "n is 33.")
    assert [remark.data for remark in shown] == [
        "### What this says\n\n- Gain is **1.3** points.\n- It falls with size.",
        "### What this says\n\n- It falls with size.\n- n is 33.",
    ]
    assert ledger.conclusions(run.folder, NAME) == []
    run.finish()
    said = ["Gain is **1.3** points.", "It falls with size.", "n is 33."]
    assert ledger.conclusions(run.folder, NAME) == said
    ledger.sentinel(run.folder, NAME).write_text("[{")
    assert ledger.conclusions(run.folder, NAME) == []


def test_a_remark_is_shown_and_none_is_not(run, monkeypatch):
    shown = []
    monkeypatch.setattr(notebook_api, "display", shown.append)
    run.remark("")
    run.remark("**one** pair")
    assert [remark.data for remark in shown] == ["**one** pair"]


def test_table_shows_a_meaningful_index_as_row_headers():
    frame = pd.DataFrame({"n": [3, 12345]}, index=pd.Index(["aqua", "svamp"], name="task"))
    markup = html_tables.to_html(frame, caption="Items")
    assert '<th scope="row" style="text-align:left;white-space:nowrap">aqua</th>' in markup
    assert "12,345" in markup


@pytest.mark.parametrize(
    ("index", "columns"),
    [
        (pd.RangeIndex(2), ["n"]),
        ([7, 3], ["n"]),  # what a selection of rows leaves
        (["a", "b"], ["index", "n"]),
        (pd.Index([7, 3], name="size"), ["size", "n"]),
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["task", "size"]), ["task", "size", "n"]),
    ],
)
def test_index_becomes_columns_if_it_says_something(index, columns):
    assert list(html_tables.with_index(pd.DataFrame({"n": [1, 2]}, index=index)).columns) == columns


def test_table_shows_lists_as_text():
    frame = pd.DataFrame({"task": ["a"], "flags": [["x", "y"]], "top_p": [1.0], "same_loss": [True]})
    markup = html_tables.to_html(frame, caption="Flags")
    assert ">top_p<" in markup and ">same loss<" in markup  # a name, and words
    assert "[&#x27;x&#x27;, &#x27;y&#x27;]" in markup


def test_table_without_rows_and_with_equal_column_names():
    frame = pd.DataFrame([[1, 2]], columns=["n", "n"])
    assert html_tables.to_html(frame, caption="Twice").count("<td") == 1
    assert "<tbody>" in html_tables.to_html(frame.iloc[:0], caption="None")


def test_table_refuses_a_format_for_no_column_and_an_empty_caption(run):
    with pytest.raises(ValueError, match="gian"):
        run.table(DATA, caption="Gains", formats={"gian": ".2f"})
    with pytest.raises(ValueError, match="caption"):
        run.table(DATA, caption="")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (1e-5, "1e−05"),
        (12345.6, "12,346"),
        (None, "—"),
    ],
)
def test_number_for_reading(value, text):
    assert html_tables.number(value) == text


# --- ledgers -------------------------------------------------------------------------------------


def test_statistics_keep_full_precision(run):
    run.statistics(
        pd.DataFrame([STATISTIC | {"n": 33.0}, STATISTIC | {"task": "svamp", "p_value": None, "n": None}])
    )
    run.finish()
    assert (run.folder / "statistics.csv").read_text() == (
        "section,test,source,selection,domain,task,group,statistic,p_value,n\n"
        "02,spearman_gain_size,published,best_on_test,math,aqua,all,-0.1,0.30000000000000004,33\n"
        "02,spearman_gain_size,published,best_on_test,math,svamp,all,-0.1,,\n"
    )


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{key: STATISTIC[key] for key in STATISTIC if key != "n"}], "'p_value'.$"),
        ([STATISTIC | {"note": ""}], "'note'"),
        ([STATISTIC, STATISTIC], "^ +section +test"),
        ([STATISTIC | {"group": None}], "^ +section +test"),
        ([STATISTIC | {"p_value": 1.5}], "1.5"),
        ([STATISTIC | {"statistic": "high"}], "high"),
        ([STATISTIC | {"n": 32.5}], "cast"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(run, rows, complaint):
    with pytest.raises((AssertionError, TypeError, ValueError), match=complaint):
        run.statistics(pd.DataFrame(rows))


def test_statistics_collected_again_are_replaced(run):
    run.statistics(pd.DataFrame([STATISTIC]))
    run.statistics(pd.DataFrame([STATISTIC | {"statistic": 0.5}]))
    run.finish()
    assert list(pd.read_csv(run.folder / "statistics.csv")["statistic"]) == [0.5]


def test_claims_are_plain_json(run):
    run.claims([CLAIM])
    run.finish()
    [row] = ledger.claims(run.folder)
    assert list(row) == list(ledger.CLAIM_FIELDS)
    assert row == CLAIM | {"estimate": -0.66, "ci_low": None, "ci_high": None, "p_value": None, "n": 33}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([CLAIM | {"note": ""}], "'note'"),
        ([{key: CLAIM[key] for key in CLAIM if key != "reason"}], "'S1'"),
        ([CLAIM | {"verdict": "true"}], "'S1', 'verdict', 'true'"),
        ([CLAIM | {"source": "paper"}], "'S1', 'source', 'paper'"),
        ([CLAIM | {"protocol": "authors"}], "'S1', 'protocol', 'authors'"),
        ([CLAIM | {"analysis": "paper"}], "'S1', 'analysis', 'paper'"),
        ([CLAIM | {"estimate": math.inf}], "JSON"),
        ([CLAIM | {"reason": object()}], "JSON"),
        ([CLAIM, CLAIM], r"^\('S1', 'published'"),
    ],
)
def test_claims_that_do_not_fit_are_refused(run, rows, complaint):
    with pytest.raises((AssertionError, TypeError, ValueError), match=complaint):
        run.claims(rows)


def part(folder: Path, notebook: str, statistics: list[dict], claims: list[dict]) -> None:
    with ledger.locked(folder):
        ledger.write_parts(folder, notebook, pd.DataFrame(statistics), ledger.checked_claims(claims).values())


def test_ledgers_merge_in_stable_order_and_the_later_notebook_wins(tmp_path):
    part(tmp_path, "05_fidelity", [STATISTIC | {"section": "05"}], [CLAIM | {"id": "F1", "section": "05"}])
    early = [STATISTIC | {"statistic": 9.0}, STATISTIC | {"task": "svamp"}, STATISTIC | {"section": "01"}]
    part(
        tmp_path,
        "01_effectiveness",
        early,
        [CLAIM | {"reason": "early"}, CLAIM | {"id": "E1", "section": "01"}],
    )
    late = [STATISTIC | {"group": "gkd"}, STATISTIC]
    part(tmp_path, "02_size_correlation", late, [CLAIM | {"id": "S2"}, CLAIM])
    merged = pd.read_csv(tmp_path / "statistics.csv", dtype={"section": str})
    assert merged[["section", "task", "group", "statistic"]].values.tolist() == [
        ["01", "aqua", "all", -0.1],
        ["02", "aqua", "all", -0.1],
        ["02", "aqua", "gkd", -0.1],
        ["02", "svamp", "all", -0.1],
        ["05", "aqua", "all", -0.1],
    ]
    assert [(row["id"], row["reason"]) for row in ledger.claims(tmp_path)] == [
        ("E1", "the digits agree"),
        ("S1", "the digits agree"),
        ("S2", "the digits agree"),
        ("F1", "the digits agree"),
    ]


def test_removing_the_parts_of_a_notebook_takes_it_out_of_the_ledgers(tmp_path):
    part(tmp_path, "01_effectiveness", [STATISTIC], [CLAIM])
    part(tmp_path, "02_size_correlation", [STATISTIC | {"group": "gkd"}], [CLAIM | {"id": "S2"}])
    with ledger.locked(tmp_path):
        ledger.remove_parts(tmp_path, "01_effectiveness")
    assert list(pd.read_csv(tmp_path / "statistics.csv")["group"]) == ["gkd"]
    assert [row["id"] for row in ledger.claims(tmp_path)] == ["S2"]


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped(path: Path) -> None:
    """A digit changed, so that it can still be read."""
    content = path.read_bytes()
    place = content.index(b"0.1")
    path.write_bytes(content[:place] + b"0.9" + content[place + 3 :])


@pytest.mark.faults
@pytest.mark.parametrize("damage", [torn, flipped])
@pytest.mark.parametrize("suffix", ledger.SUFFIXES)
def test_damaged_part_is_set_aside_and_other_notebooks_go_on(run, suffix, damage, fault, capsys):
    run.statistics(pd.DataFrame([STATISTIC]))
    run.claims([CLAIM | {"estimate": 0.1}])
    run.finish()
    folder = run.folder
    written = [(folder / name).read_bytes() for name in ledger.SUFFIXES]
    damage(folder / "ledger" / f"{NAME}.{suffix}")
    fault(f"{suffix} of a notebook {damage.__name__}")
    with ledger.locked(folder):
        said = ledger.write_parts(folder, "09_performance", pd.DataFrame([STATISTIC | {"section": "09"}]), [])
    assert len(said) == 1
    assert f"{NAME}.{suffix} was damaged and is set aside as {NAME}.{suffix}.aside-1; run notebook" in said[0]
    assert not ledger.sentinel(folder, NAME).exists()
    run.finish()
    with ledger.locked(folder):
        assert ledger.remove_parts(folder, "09_performance") == []
    assert [(folder / name).read_bytes() for name in ledger.SUFFIXES] == written


@pytest.mark.faults
@pytest.mark.parametrize("damage", [torn, flipped])
@pytest.mark.parametrize("name", ledger.SUFFIXES)
def test_damaged_ledger_is_made_anew_of_its_parts(run, name, damage, fault):
    run.statistics(pd.DataFrame([STATISTIC]))
    run.claims([CLAIM | {"estimate": 0.1}])
    run.finish()
    before = [(run.folder / each).read_bytes() for each in ledger.SUFFIXES]
    damage(run.folder / name)
    fault(f"{name} {damage.__name__}")
    if damage is torn:  # as a notebook reads those of another profile
        assert [row["estimate"] for row in ledger.claims(run.folder)] == [0.1]
    with ledger.locked(run.folder):
        assert ledger.rebuild(run.folder) == []
    assert [(run.folder / each).read_bytes() for each in ledger.SUFFIXES] == before


def test_a_ledger_without_parts_stays_as_it_is(tmp_path):
    (tmp_path / "claims.json").write_text("[1]\n")
    assert ledger.rebuild(tmp_path) == []
    assert ledger.claims(tmp_path) == [1]
    (tmp_path / "claims.json").write_text("[1")
    assert ledger.claims(tmp_path) == []


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.faults
@pytest.mark.parametrize("damage", [torn, one_bit, Path.unlink])
@pytest.mark.parametrize("suffix", ["png", "svg", "csv", "json"])
def test_a_damaged_figure_is_left_out_and_named(run, suffix, damage, fault):
    draw(run)
    draw(run, name="other")
    run.finish()
    assert (
        len(notebook_api.published_figures(run.folder)[0]),
        notebook_api.published_figures(run.folder)[1],
    ) == (2, [])
    damage(run.folder / "figures" / f"02_gain.{suffix}")
    fault(f"figures/*.{suffix} {damage.__name__}")
    assert [figure["png"].stem for figure in notebook_api.published_figures(run.folder)[0]] == ["02_other"]
    said = "figure 02_gain is damaged and left out of the index; run notebook 02 again"
    assert notebook_api.published_figures(run.folder)[1] == (
        [] if (suffix, damage) == ("json", Path.unlink) else [said]
    )


def test_a_figure_of_before_there_were_digests_is_shown(run):
    draw(run)
    run.finish()
    path = run.folder / "figures" / "02_gain.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({name: facts[name] for name in ("notebook", "place", "alt", "caption")}))
    assert [figure["alt"] for figure in notebook_api.published_figures(run.folder)[0]] == [
        "Gain falls to 1.3."
    ]


def test_lock_keeps_others_out(tmp_path):
    path = tmp_path / "ledger" / ".lock"
    with ledger.locked(tmp_path), path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_many(folder: Path, number: int) -> None:
    for repeat in range(10):
        part(folder, f"{number:02}_notebook", [STATISTIC | {"section": f"{number:02}", "n": repeat}], [])


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_write_many, [tmp_path] * 4, range(4)))
    merged = pd.read_csv(tmp_path / "statistics.csv")
    assert merged[["section", "n"]].values.tolist() == [[number, 9] for number in range(4)]


def test_sentinel_says_what_ran(run, monkeypatch, capsys):
    monkeypatch.setenv(notebook_api.RUN_TOKEN, "abc")
    draw(run)
    run.finish()
    written = json.loads(ledger.sentinel(run.folder, NAME).read_text())
    assert written["run_token"] == "abc"
    assert written["parameters"]["selection"] == "best_on_test"
    assert sorted(written) == sorted(
        ("notebook", "parameters", "kdutils", "finished", "conclusions", "run_token", "sha256")
    )
    assert "figures/02_gain.png .svg .csv" in capsys.readouterr().out


def test_sentinel_is_gone_if_finish_breaks_off(run):
    run.finish()
    (run.folder / "statistics.csv").unlink()
    (run.folder / "statistics.csv").mkdir()  # the merged ledger cannot be written
    with pytest.raises(OSError):
        run.finish()
    assert not ledger.sentinel(run.folder, NAME).exists()


def test_which_figures_changed_is_said():
    before = {"a.png": "1", "b.png": "2", "c.png": "3"}
    after = {"a.png": "1", "b.png": "9", "d.png": "4"}
    said = notebook_api.figure_changes(before, after)
    assert said == "1 of 3 figure files are as they were; changed: b.png; new: d.png; gone: c.png"
    assert notebook_api.figure_changes(before, before) == "3 of 3 figure files are as they were"
    assert notebook_api.figure_changes({}, after) == "3 figure files, all new"
    many = before | {f"{number}.png": "x" for number in range(11)}
    assert notebook_api.figure_changes(before, many) == "3 of 14 figure files are as they were; 11 new"
