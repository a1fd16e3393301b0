"""The released tables: obtained whole or not at all, read without repair, odd values flagged."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from kdutils.constants import AVERAGE, DOMAIN_TASKS, DOMAINS, TEST_ITEMS
from kdutils.grid import cell_table as cell_rows
from kdutils.results import authors_tables


@pytest.fixture
def copied_tables(released_tables, tmp_path, monkeypatch):
    """A private copy of the released tables that KDUTILS_DATA points to."""
    folder = shutil.copytree(released_tables, tmp_path / "published")
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755)
    monkeypatch.setenv("KDUTILS_DATA", str(tmp_path))
    return folder


@pytest.fixture(scope="module")
def cells(released_tables):
    return authors_tables.cells()


def test_every_released_value_becomes_one_cell(cells, released_tables):
    n_values = sum(
        (len(table.columns) - 3) * len(table)
        for names in authors_tables.ACCURACY_FILES.values()
        for table in (pd.read_csv(released_tables / name) for name in names)
    )
    assert len(cells) == n_values == 1184
    assert list(cells.columns) == list(cell_rows.SCHEMA)


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


def test_missing_file_names_it_and_both_remedies(copied_tables):
    (copied_tables / "EM1.csv").unlink()
    with pytest.raises(
        authors_tables.ReleasedTablesError, match=r"EM1\.csv is missing.*unset KDUTILS_DATA"
    ) as caught:
        authors_tables.fetch()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("AQuA", "Aqua", 1),
        lambda text: text.replace("52.84", "53.84", 1),
        lambda text: "",
    ],
)
def test_changed_file_is_refused_with_its_checksum(copied_tables, damage):
    path = copied_tables / "math_results_main.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(
        authors_tables.ReleasedTablesError, match=r"SHA-256.*instead of 375c370b3729.*unset KDUTILS_DATA"
    ):
        authors_tables.cells()


def test_without_folder_the_download_is_whole_or_absent(released_tables, tmp_path, monkeypatch):
    import pooch

    monkeypatch.delenv("KDUTILS_DATA")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    served = []

    def serve(url, *, known_hash, fname, path):
        assert url == authors_tables.BASE_URL + fname
        assert known_hash == f"sha256:{authors_tables.SHA256[fname]}"
        if len(served) == fail_after:
            raise ConnectionError("name resolution failed\nlong trace")
        served.append(fname)
        shutil.copy(released_tables / fname, path / fname)

    monkeypatch.setattr(pooch, "retrieve", serve)
    fail_after = 4
    with pytest.raises(
        authors_tables.ReleasedTablesError, match="ConnectionError: name resolution failed.*KDUTILS_DATA"
    ):
        authors_tables.fetch()
    assert list((tmp_path / "kdutils").iterdir()) == []
    fail_after = -1
    folder = authors_tables.fetch()
    assert sorted(path.name for path in folder.iterdir()) == sorted(authors_tables.SHA256)
    n_served = len(served)
    assert authors_tables.fetch() == folder
    assert len(served) == n_served  # the second call downloads nothing


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
