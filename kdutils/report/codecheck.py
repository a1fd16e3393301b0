"""`./run_all.sh --check`: regenerates the numbers that codecheck.yml lists, and says which of them hold."""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaml import SafeLoader, YAMLError

from kdutils.io import disk
from kdutils.io.environment import REPOSITORY

LIST = REPOSITORY / "codecheck.yml"
MINUTES = 5.0
HOLDS, FAILS, NOT_MADE = "holds", "does not hold", "not regenerated here"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A number of the study, and where a command writes it."""

    claim: str
    command: str = ""  # a key of `commands`; empty: the file is part of the repository
    file: str  # under the folder of outputs, or of the repository
    row: dict[str, Any] = field(default_factory=dict)  # column -> what it holds in the rows meant
    column: str = ""  # of the one row meant; empty: the number of such rows, or without `row` the SHA-256
    value: int | float | str
    tolerance: float = 0.0


def read(path: Path = LIST) -> tuple[dict[str, float], list[Entry]]:
    """Minutes of each command, in order, and the entries."""
    content = SafeLoader(path.read_text(encoding="utf-8")).get_single_data()
    return content["commands"], [Entry(**raw) for raw in content["checks"]]


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
    return FAILS, f"{listed} is listed, {value} is what {entry.file} holds"


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
    try:
        read(asked.list)
    except (OSError, KeyError, TypeError, ValueError, YAMLError) as error:
        parser.error(f"--list {asked.list}: {error!r}; it needs what codecheck.yml of the repository has")
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        for entry, verdict, reason in check(asked.list, asked.out or Path(scratch), asked.minutes):
            verdicts.append(verdict)
            print(f"{verdict}: {entry.claim} ({reason})", flush=True)
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, NOT_MADE)))
    return 1 if FAILS in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
