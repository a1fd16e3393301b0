"""The two ledgers of a profile: what each notebook found, and the whole of it.

Each notebook owns its parts, `ledger/<notebook>.statistics.csv` and `.claims.json`; the ledgers that people
read, `statistics.csv` and `claims.json`, are rebuilt from all parts by the holder of `locked(folder)`. A part
that is not what its notebook wrote is set aside, and that notebook has to run again.
"""

import contextlib
import csv
import fcntl
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils.grid.study import LABEL_WAYS
from kdutils.io import disk
from kdutils.io.environment import REPOSITORY

REFERENCE = REPOSITORY / "outputs" / "reference"  # of each profile: ledgers, and the figures of the README

STATISTICS_KEY = ("section", "test", "source", "selection", "domain", "task", "group")
STATISTICS_COLUMNS = (*STATISTICS_KEY, "statistic", "p_value", "n")
SUFFIXES = ("statistics.csv", "claims.json")  # of a notebook's parts
CLAIM_KEY = ("id", "source", "protocol", "decoding", "analysis")
CLAIM_FIELDS = (
    *("id", "section", "statement", "source", "protocol", "analysis"),
    *("estimate", "ci_low", "ci_high", "p_value", "n", "paper_value", "verdict", "reason"),
)
CLAIM_CHOICES = {
    "source": ("published", "live"),
    "protocol": ("paper", "careful"),
    "decoding": ("greedy", "sampled", *LABEL_WAYS, None),
    "analysis": ("authors", "strict"),
    "verdict": ("reproduced", "not_reproduced", "inconclusive", "not_testable"),
}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process and thread from writing the ledgers in `folder`. Not re-entrant."""
    path = folder / "ledger" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes, so also by a killed process
        yield


def checked_statistics(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as it goes into the ledger: one row a test, columns in their order, n whole."""
    assert sorted(frame.columns) == sorted(STATISTICS_COLUMNS), list(frame.columns)
    frame = frame[list(STATISTICS_COLUMNS)].copy()
    keys = frame[list(STATISTICS_KEY)]
    assert keys.notna().all(axis=None), keys[keys.isna().any(axis=1)]
    assert not keys.duplicated().any(), keys[keys.duplicated()]
    for column in ("statistic", "p_value"):
        frame[column] = pd.to_numeric(frame[column]).astype(float)
    assert frame["p_value"].dropna().between(0, 1).all(), frame
    frame["n"] = pd.to_numeric(frame["n"]).astype("Int64")
    return frame


def merged_statistics(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of `frames` in one; of two with the same key, the one in the later frame."""
    merged = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*STATISTICS_COLUMNS])
    return merged.drop_duplicates([*STATISTICS_KEY], keep="last")


def checked_claims(rows: Iterable[Mapping[str, Any]]) -> dict[tuple, dict[str, Any]]:
    """`rows` by CLAIM_KEY as they go into the ledger: fields in order, plain Python values, NaN as None.

    CLAIM_FIELDS; those of live results have `decoding`, too.
    """
    claims: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        fields = (*CLAIM_FIELDS, "decoding") if row["source"] == "live" else CLAIM_FIELDS
        assert set(row) == set(fields), row
        claim = {field: _plain(row[field]) for field in fields}
        for field, choices in CLAIM_CHOICES.items():
            assert claim.get(field) in choices, (row["id"], field, claim.get(field))
        json.dumps(claim, allow_nan=False)  # refuses what the ledger could not hold, before it is written
        key = tuple(map(claim.get, CLAIM_KEY))
        assert key not in claims, key
        claims[key] = claim
    return claims


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    missing = value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def write_parts(
    folder: Path, notebook: str, statistics: pd.DataFrame, claims: Iterable[Mapping]
) -> list[str]:
    """Replace the parts of one notebook and rebuild both ledgers; the caller holds the lock.

    Returns a sentence for each damaged part of another notebook that was set aside.
    """
    disk.write_csv(_part(folder, notebook, "statistics.csv"), statistics)
    disk.write_json(_part(folder, notebook, "claims.json"), list(claims))
    return _rebuild(folder)


def remove_parts(folder: Path, notebook: str) -> list[str]:
    """Take one notebook out of both ledgers, its sentinel first; as `write_parts`."""
    for suffix in ("done.json", *SUFFIXES):
        _part(folder, notebook, suffix).unlink(missing_ok=True)
    return _rebuild(folder)


def digests(folder: Path, notebook: str) -> dict[str, str]:
    """SHA-256 of the parts of a notebook as they are now, for its sentinel."""
    return {suffix: disk.sha256(_part(folder, notebook, suffix)) for suffix in SUFFIXES}


def sentinel(folder: Path, notebook: str) -> Path:
    """The file that a notebook writes last: its results in `folder` are whole if it exists."""
    return _part(folder, notebook, "done.json")


def conclusions(folder: Path, notebook: str) -> list[str]:
    """The conclusions of a notebook in sentences; none if it has not finished."""
    return _sentinel_facts(folder, notebook).get("conclusions", [])


def claims(folder: Path) -> list[dict[str, Any]]:
    """The rows of `claims.json`, none if no notebook has finished yet; rebuilt if they cannot be read."""
    path = folder / "claims.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        path.unlink()
        with locked(folder):
            rebuild(folder)
        return claims(folder)


def rebuild(folder: Path) -> list[str]:
    """Write both ledgers from their parts; as `write_parts`. Nothing is done where there are none."""
    return _rebuild(folder) if list((folder / "ledger").glob("*.claims.json")) else []


def _rebuild(folder: Path) -> list[str]:
    problems: list[str] = []
    text = io.StringIO()
    writer = csv.DictWriter(text, STATISTICS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_in_order(_rows(folder, "statistics.csv", STATISTICS_KEY, problems)))
    disk.write_text(folder / "statistics.csv", text.getvalue())
    found = _rows(folder, "claims.json", CLAIM_KEY, problems).values()
    disk.write_json(folder / "claims.json", sorted(found, key=lambda row: str(row["section"])))
    return problems


def claims_of(profile: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The claims of another profile and where they are from, in words.

    Those next to `folder`, that of a profile, else those of the run that the repository keeps.
    """
    if found := claims(folder.parent / profile):
        return found, "the same folder of outputs"
    return claims(REFERENCE / profile), "the run whose results the repository keeps"


def _part(folder: Path, notebook: str, suffix: str) -> Path:
    return folder / "ledger" / f"{notebook}.{suffix}"


def _rows(folder: Path, suffix: str, key: Sequence[str], problems: list[str]) -> dict[tuple, dict[str, Any]]:
    """The rows of all parts by key; where two notebooks have the same, the later section wins.

    Statistics stay text, so that no number is read and written again.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    for part in sorted((folder / "ledger").glob(f"*.{suffix}")):
        notebook = part.name.removesuffix(f".{suffix}")
        try:
            written = _sentinel_facts(folder, notebook).get("sha256", {})  # {} in those of older versions
            if written.get(suffix) not in (None, disk.sha256(part)):
                raise ValueError("its SHA-256 is not the recorded one")
            text = part.read_text(encoding="utf-8")
            found = json.loads(text) if suffix == "claims.json" else csv.DictReader(text.splitlines())
            rows |= {tuple(map(row.get, key)): row for row in found}  # published claims have no decoding
        except (ValueError, KeyError, TypeError):
            sentinel(folder, notebook).unlink(missing_ok=True)  # its results are not whole any more
            aside = disk.set_aside(part)
            remedy = f"run notebook {notebook} again"
            problems.append(f"{part} was damaged and is set aside as {aside.name}; {remedy}")
    return rows


def _sentinel_facts(folder: Path, notebook: str) -> dict[str, Any]:
    """What the sentinel of a notebook holds; nothing if it is missing or unreadable."""
    try:
        facts = json.loads(sentinel(folder, notebook).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _in_order(rows: Mapping[tuple, dict]) -> list[dict]:
    """Rows sorted by section, then column by column in the order in which a value first appears."""
    values = dict.fromkeys(column_and_value for key in rows for column_and_value in enumerate(key))
    rank = {column_and_value: place for place, column_and_value in enumerate(values)}
    in_order = sorted(rows, key=lambda key: (key[0], *(rank[item] for item in enumerate(key))))
    return [rows[key] for key in in_order]
