"""The released tables: shipped as they are printed, read whole or not at all, odd values flagged."""

import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import released

from kdutils.constants import AVERAGE, DOMAIN_TASKS, DOMAINS, TEST_ITEMS
from kdutils.grid import cell_table as cell_rows
from kdutils.io import disk
from kdutils.results import authors_tables, import_authors_tables


@pytest.fixture(scope="module")
def shipped():
    return released.rows_of_table()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return released.released_files(tmp_path_factory.mktemp("originals"))


def test_the_ten_released_files_can_be_rebuilt_to_the_byte(originals):
    found = {path.name: disk.sha256(path) for path in originals.iterdir()}
    assert found == import_authors_tables.SHA256


@pytest.mark.parametrize("is_downloaded", [False, True])
def test_the_file_is_what_the_script_makes_of_the_originals(originals, monkeypatch, is_downloaded):
    served = {import_authors_tables.URL + path.name: path for path in originals.glob("*.csv")}
    monkeypatch.setattr(import_authors_tables, "urlopen", lambda url, timeout: served[url].open("rb"))
    made = import_authors_tables.table_text(None if is_downloaded else originals)
    assert made.encode() == authors_tables.TABLE.read_bytes()


def test_every_value_stands_in_the_file_and_line_that_are_named(shipped, originals):
    spelling = {task: released for released, task in import_authors_tables.TASK_COLUMNS.items()}
    lines = {path.name: path.read_text().splitlines() for path in originals.glob("*.csv")}

    def printed(row, file, line):
        found = dict(zip(lines[file][0].split(","), lines[file][int(line) - 1].split(","), strict=True))
        assert found["Student"] == row["student"] and found["Teacher"].startswith(row["teacher"] or "-")
        seen.add((file, line, row["task"]))
        return found[spelling[row["task"]]]

    seen = set()
    for row in shipped:
        assert row["accuracy"] == printed(row, row["accuracy_file"], row["accuracy_line"])
        for column, file in import_authors_tables.PAIR_FILES[row["domain"]].items():
            for suffix in ("", "_sft"):
                if value := row[column + suffix]:
                    assert value == printed(row, file, row[f"likeness{suffix}_line"])
    n_likeness = 22 * (4 * 6 + 2 * 8)
    assert len(seen) == len(shipped) + n_likeness == 1184 + 880


def test_columns_are_those_of_a_cell_and_of_the_provenance(shipped, cells):
    own = [name for name in cell_rows.SCHEMA if name in shipped[0]]
    assert list(shipped[0]) == [*own, *authors_tables.PROVENANCE]
    assert len(cells) == len(shipped)
    assert cells.drop(columns=own).replace("", None).isna().all(axis=None)
    for name in ("accuracy", "accuracy_se"):
        assert cells[name].tolist() == [float(row[name]) for row in shipped]


def test_the_notice_of_the_licence_is_in_the_file_and_the_file_in_the_package():
    notice = authors_tables.TABLE.read_text().split("\nsource,")[0]
    assert notice + "\n" == import_authors_tables.NOTICE
    assert "Apache License 2.0" in notice and "Changed: " in notice and authors_tables.COMMIT in notice
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "results/*.csv" in project["tool"]["setuptools"]["package-data"]["kdutils"]


def test_pairs_are_the_eleven_of_the_release(cells):
    kd = cells[cells["teacher"] != ""]
    assert kd.groupby(["teacher", "student"]).ngroups == 11
    assert set(kd["method"]) == {"fkl", "revkd", "gkd"}
    assert set(kd.loc[kd["method"] == "gkd", "temperature"]) == {1.0}


def test_a_known_value_stands_where_it_belongs(cells):
    row = cells.query(
        "teacher == 'Llama-3.1-8B' and student == 'Llama-3.2-1B' and method == 'gkd' and task == 'multiarith'"
    ).iloc[0]
    assert (row["accuracy"], row["n"], row["student_parameters"]) == (86.33, 600, 10**9)
    assert row["agreement"] == 75.0
    assert row["agreement_sft"] == 62.5
    assert row["fidelity_bleu2"] == pytest.approx(54.63638998431938, abs=0)


def test_checkpoint_suffix_is_no_other_teacher(cells):
    named = cells[cell_rows.has_flag(cells, "teacher_checkpoint_named")]
    assert set(named["teacher"]) == {"Qwen2.5-3B"}
    assert len(named) == 2 * 7


def test_untuned_teacher_rows_have_no_agreement(cells):
    untuned = cells[cells["teacher_tuned"].eq(False).fillna(False)]
    assert len(untuned) == 5 * (7 + 9)
    assert untuned["agreement"].isna().all()


def test_values_no_single_pass_can_give_are_flagged(cells):
    flagged = cells[cell_rows.has_flag(cells, "not_a_single_pass")]
    runs = flagged.groupby(["teacher", "student", "method", "temperature"]).ngroups
    assert (len(flagged), runs, set(flagged["temperature"])) == (15, 8, {5.0})
    assert ((flagged["task"] == "svamp") & (flagged["accuracy"] == 6.66)).any()  # 66.6 of 1000 items


def test_collapsed_runs_are_flagged_by_the_stated_rule(cells):
    kd = cells[(cells["teacher"] != "")]
    sft = cells[cells["method"] == "sft"].set_index(["student", "domain", "task"])["accuracy"]
    below_half = [row.accuracy < sft[row.student, row.domain, row.task] / 2 for row in kd.itertuples()]
    assert cell_rows.has_flag(kd, "collapsed").tolist() == below_half
    at_1 = kd[cell_rows.has_flag(kd, "collapsed") & (kd["temperature"] == 1) & kd["teacher_tuned"]]
    averages = at_1[at_1["task"] == AVERAGE]
    assert set(zip(averages["teacher"], averages["student"], strict=True)) == {
        ("Qwen2.5-3B", "Qwen2.5-1.5B"),
        ("Qwen2.5-7B", "Qwen2.5-1.5B"),
        ("Qwen2.5-7B", "Qwen2.5-3B"),
    }
    assert set(averages["method"]) == {"revkd"}


def test_poster_values_belong_to_larger_students(cells):
    flagged = cells[cell_rows.has_flag(cells, "poster_misattributed")]
    assert set(zip(flagged["task"], flagged["student"], strict=True)) == {
        ("addsub", "Qwen2.5-3B"),
        ("multiarith", "Qwen2.5-3B"),
        ("multiarith", "Qwen2.5-7B"),
    }


def test_fidelity_file_is_float32_and_the_other_is_not(cells):
    assert authors_tables.float32_share(cells["fidelity"].dropna()) == 1.0
    assert authors_tables.float32_share(cells["fidelity_bleu2"].dropna()) == 0.0


def test_released_averages_are_means_of_the_tasks(cells):
    assert not cell_rows.has_flag(cells, "average_differs").any()
    averages = cells[cells["task"] == AVERAGE]
    assert set(averages["n"]) == {
        sum(TEST_ITEMS[task] for task in DOMAIN_TASKS[domain]) for domain in DOMAINS
    }


@pytest.mark.parametrize("is_downloaded", [False, True])
def test_another_file_than_the_released_one_is_refused(tmp_path, monkeypatch, is_downloaded):
    name = "math_results_main.csv"
    if is_downloaded:
        monkeypatch.setattr(import_authors_tables, "urlopen", lambda url, timeout: io.BytesIO(b"404"))
    else:
        (tmp_path / name).write_bytes(b"404")
    refusal = rf"{name} is not the released file: SHA-256 .* instead of 375c370b3729…; get it from https"
    with pytest.raises(ValueError, match=refusal):
        list(import_authors_tables._records(None if is_downloaded else tmp_path, name))


def test_reading_the_released_results_imports_no_torch():
    code = (
        "import sys; from kdutils.claims import claims; from kdutils.results import gain_tables\n"
        "from kdutils.report import figures, notebook_api, runner\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("COV")
    }  # only slows down
    assert subprocess.run([sys.executable, "-c", code], env=plain, check=False).returncode == 0
