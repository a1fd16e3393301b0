"""`./run_all.sh --check`: regenerates the numbers that codecheck.yml lists, and says which of them hold."""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml import MappingNode, SafeLoader, YAMLError

from kdutils.io import disk
from kdutils.io.environment import REPOSITORY

LIST = REPOSITORY / "codecheck.yml"
MINUTES = 5.0
HOLDS, FAILS, NOT_MADE = "holds", "does not hold", "not regenerated here"


class ListError(ValueError):
    """The list cannot be read. The message names the line and the remedy."""


class Entry(BaseModel):
    """A number of the study, and where a command writes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    line: int  # of the list
    claim: str = Field(min_length=1)
    command: str = ""  # a key of `commands`; empty: the file is part of the repository
    file: str  # under the folder of outputs, or of the repository
    row: dict[str, str | int | float | bool] = {}  # column -> what it holds in the rows meant
    column: str = ""  # of the one row meant; empty: the number of such rows, or without `row` the SHA-256
    value: int | float | str
    tolerance: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class _Loader(SafeLoader):
    """Every mapping of the file also has its `line`."""


def _with_line(loader: SafeLoader, node: MappingNode) -> dict[Any, Any]:
    return {**loader.construct_mapping(node, deep=True), "line": node.start_mark.line + 1}


_Loader.add_constructor("tag:yaml.org,2002:map", _with_line)


def read(path: Path = LIST) -> tuple[dict[str, float], list[Entry]]:
    """Minutes of each command, in order, and the entries.

    Raises:
        ListError: if the file is not such a list.
    """
    try:
        content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
        commands, checks = dict(content["commands"]), list(content["checks"])
        if not checks:
            raise ValueError("there are no checks")
    except YAMLError as error:
        raise ListError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        text = f"{path} needs `commands` and `checks` ({error!r}): see the one of the repository"
        raise ListError(text) from error
    commands.pop("line", None)
    for name, minutes in commands.items():
        if not isinstance(minutes, int | float) or not minutes > 0:
            raise ListError(f"{path}: command {name} takes {minutes!r} minutes: give a number above 0")
    return commands, [_entry(path, raw, commands) for raw in checks]


def _entry(path: Path, raw: Any, commands: dict[str, float]) -> Entry:
    if not isinstance(raw, dict):
        raise ListError(f"{path}: {raw!r} is no entry: give it claim, file and value")
    if isinstance(raw.get("row"), dict):
        raw["row"].pop("line")
    where = f"{path}, line {raw['line']}"
    try:
        entry = Entry(**raw)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ListError(f"{where}: {'; '.join(problems)}: mend the entry") from error
    if entry.command and entry.command not in commands:
        known = ", ".join(commands)
        raise ListError(f"{where}: command {entry.command!r} is none of {known}: add its minutes")
    if entry.tolerance and isinstance(entry.value, str):
        raise ListError(f"{where}: a tolerance needs a number, not {entry.value!r}: leave it out")
    if entry.column and not entry.row:
        raise ListError(f"{where}: column {entry.column!r} of which row? Add `row`")
    return entry


def found(entry: Entry, folder: Path, since: float = 0.0) -> Any:
    """What stands in the file under `folder`: a cell of a table, a number of rows, or a digest.

    Raises:
        LookupError: if there is no such file, written `since` then (seconds of time.time), row or column.
    """
    path = folder / entry.file
    if not path.is_file():
        raise LookupError(f"there is no {path}")
    if path.stat().st_mtime < since:
        raise LookupError(f"./run_all.sh {entry.command} failed, and {path} is from before")
    if not entry.row:
        return disk.sha256(path)
    wanted = {name: str(value) for name, value in entry.row.items()}
    rows = _rows(path)
    if unknown := sorted(wanted.keys() - set().union(*rows)):
        raise LookupError(f"there is no column {unknown[0]} in {path}")
    rows = [row for row in rows if all(str(row.get(name)) == value for name, value in wanted.items())]
    if not entry.column:
        return len(rows)
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} rows of {path} have {wanted}")
    if entry.column not in rows[0]:
        raise LookupError(f"there is no column {entry.column} in {path}")
    return rows[0][entry.column]


def _rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(text.splitlines(keepends=True)))


def holds(entry: Entry, value: Any) -> bool:
    """Whether a value is the one of the entry, within its tolerance."""
    if isinstance(entry.value, str):
        return str(value) == entry.value
    try:
        return abs(float(value) - entry.value) <= entry.tolerance + 1e-12
    except (TypeError, ValueError):
        return False


def judged(entry: Entry, out: Path, not_made: str, since: float = 0.0) -> tuple[str, str]:
    """Verdict on an entry and its reason; `not_made` says why its command was not run, if so."""
    if not_made:
        return NOT_MADE, not_made
    listed = f"{entry.value} ± {entry.tolerance:g}" if entry.tolerance else str(entry.value)
    try:
        value = found(entry, out if entry.command else REPOSITORY, since)
    except LookupError as error:
        return FAILS, str(error)
    if holds(entry, value):
        return HOLDS, listed
    return FAILS, f"{listed} is listed (line {entry.line}), {value} is what {entry.file} holds"


def check(path: Path, out: Path, minutes: float) -> Iterator[tuple[Entry, str, str]]:
    """Entry, verdict and reason, for each of the list, once its command was run.

    Args:
        out: folder of outputs; finished runs in it are read, not trained.
        minutes: commands that together take longer, by the list, are not run.
    """
    commands, entries = read(path)
    not_made, since, total = {"": ""}, {}, 0.0
    for name, needed in commands.items():
        total += needed
        if total > minutes:
            remedy = f"--check --minutes {total:g} includes it"
            not_made[name] = f"./run_all.sh {name} takes {needed:g} min: {remedy}"
        elif any(entry.command == name for entry in entries):
            print(f"./run_all.sh {name}", flush=True)
            command = [sys.executable, "-P", "-m", "kdutils", *name.split(), "--out", str(out)]
            not_made[name] = ""  # what it wrote is looked at also where it failed in part
            started = time.time()
            if subprocess.run(command, check=False).returncode:
                since[name] = started
    for entry in entries:
        yield entry, *judged(entry, out, not_made[entry.command], since.get(entry.command, 0.0))


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 if nothing fails, 1 if an entry does not hold, 2 if the list cannot be read."""
    parser = argparse.ArgumentParser(prog="./run_all.sh --check", description=__doc__)
    parser.add_argument("--list", type=Path, default=LIST, metavar="FILE", help="default: codecheck.yml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the outputs here (default: nowhere)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES:g}")
    asked = parser.parse_args(arguments)
    if not asked.minutes > 0:
        parser.error(f"--minutes {asked.minutes:g} must be above 0: nothing can be made in no time")
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for entry, verdict, reason in check(asked.list, asked.out or Path(scratch), asked.minutes):
                verdicts.append(verdict)
                print(f"{verdict}: {entry.claim} ({reason})", flush=True)
        except ListError as error:
            print(f"kdutils: error: {error}", file=sys.stderr)
            return 2
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, NOT_MADE)))
    return 1 if FAILS in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
