"""`./run_all.sh --check`: what holds, what does not, and what is not made."""

import os
import subprocess

import pytest

from kdutils.report import codecheck

LIST = """---
commands:
  published: 1
  mini: 45
checks:
  - claim: mean gain
    command: published
    file: table.csv
    row: {id: E1, "null": yes sir}
    column: gain
    value: 4.8
    tolerance: 0.05
  - claim: two claims of E1
    command: published
    file: claims.json
    row: {id: E1}
    value: 2
  - claim: loss
    command: published
    file: curve.jsonl
    row: {epoch: 3}
    column: loss
    value: 0.45
    tolerance: 0.01
  - claim: text
    command: published
    file: claims.json
    row: {id: E2}
    column: verdict
    value: reproduced
  - claim: live
    command: mini
    file: claims.json
    row: {id: E9}
    column: estimate
    value: 1
"""


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Exit code and lines of a check of a list whose commands are not run: their files lie in `out`."""
    commands = []

    def called(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, "--fails" in text_of.read_text())

    text_of = tmp_path / "list.yml"
    monkeypatch.setattr(codecheck.subprocess, "run", called)
    (tmp_path / "table.csv").write_text("id,null,gain\nE1,yes sir,4.775\nE1,no,0\n")
    rows = '[{"id": "E1"}, {"id": "E1"}, {"id": "E2", "verdict": "reproduced"}]'
    (tmp_path / "claims.json").write_text(rows)
    (tmp_path / "curve.jsonl").write_text('{"step": 1}\n{"epoch": 3, "loss": 0.4512}\n')

    def run(text, *arguments):
        text_of.write_text(text)
        code = codecheck.main(["--list", str(text_of), "--out", str(tmp_path), *arguments])
        told = capsys.readouterr()
        return code, (told.out + told.err).splitlines(), commands

    return run


def test_of_a_command_that_failed_only_what_it_wrote_counts(checked, tmp_path):
    for name in ("table.csv", "claims.json"):
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "curve.jsonl", (2**32, 2**32))
    assert checked(LIST)[0] == 0
    code, lines, _ = checked(LIST.replace("published", "published --fails"))
    assert code == 1 and lines[-1] == "1 holds, 3 does not hold, 1 not regenerated here"
    assert "./run_all.sh published --fails failed, and " in lines[1]


def test_no_rows_are_not_those_without_such_a_column(checked):
    code, lines, _ = checked(LIST.replace("row: {id: E1}\n    value: 2", "row: {ids: E1}\n    value: 0"))
    assert code == 1 and "does not hold: two claims of E1 (there is no column ids in" in lines[2]


def test_all_holds_and_what_takes_long_is_not_made(checked):
    code, lines, commands = checked(LIST)
    assert code == 0
    assert lines[1] == "holds: mean gain (4.8 ± 0.05)"
    assert lines[5] == (
        "not regenerated here: live (./run_all.sh mini takes 45 min: --check --minutes 46 includes it)"
    )
    assert lines[-1] == "4 holds, 0 does not hold, 1 not regenerated here"
    assert [command[3:5] for command in commands] == [["kdutils", "published"]]


@pytest.mark.parametrize(
    ("true", "false", "said"),
    [
        ("value: 4.8", "value: 4.9", "mean gain (4.9 ± 0.05 is listed, 4.775 is what"),
        ("value: 2", "value: 3", "two claims of E1 (3 is listed, 2 is what claims.json holds)"),
        ("value: reproduced", "value: inconclusive", "text (inconclusive is listed"),
        ("tolerance: 0.01", "tolerance: 0.001", "loss (0.45 ± 0.001 is listed, 0.4512 is what"),
        ("id: E2", "id: E3", "text (0 rows of"),
        ("column: verdict", "column: verdikt", "text (there is no column verdikt in"),
        ("file: curve.jsonl", "file: gone.jsonl", "loss (there is no "),
    ],
)
def test_one_falsified_value_is_named(checked, true, false, said):
    code, lines, _ = checked(LIST.replace(true, false, 1))
    failing = [line for line in lines if line.startswith("does not hold: ")]
    assert code == 1 and len(failing) == 1
    assert failing[0].startswith(f"does not hold: {said}")


def test_files_of_the_repository_are_those_of_the_list():
    commands, entries = codecheck.read()
    assert len([entry for entry in entries if entry.command in commands]) >= 15
    assert {entry.command for entry in entries} <= {"", *commands}
    for entry in entries:
        assert entry.row or not entry.column, entry
        assert entry.tolerance >= 0 and not (entry.tolerance and isinstance(entry.value, str)), entry
    shipped = [entry for entry in entries if not entry.command]
    assert {codecheck.judged(entry, codecheck.REPOSITORY, "")[0] for entry in shipped} == {"holds"}


def test_no_time_is_refused():
    with pytest.raises(SystemExit, match="2"):
        codecheck.main(["--minutes", "0"])


@pytest.mark.parametrize("text", ["checks: [", "commands: {}", "commands: {}\nchecks: [{claimed: 1}]", None])
def test_a_list_that_cannot_be_read_is_refused_with_its_name(tmp_path, capsys, text):
    path = tmp_path / "list.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        codecheck.main(["--list", str(path)])
    assert stopped.value.code == 2 and f"--list {path}: " in capsys.readouterr().err
