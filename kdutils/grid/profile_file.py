"""A profile's TOML file, read and checked key by key, before anything is made of what it says."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdutils.io.text_safety import shown


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_integer(value: Any) -> bool:
    return type(value) is int  # exact: true is an int to isinstance


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _all(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a list of at least one, none of them twice."""
    return lambda value: (
        isinstance(value, list) and bool(value) and all(map(is_one, value)) and len(set(value)) == len(value)
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_table, value.values()))


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_table, value))


def _is_list_of_pairs(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair)) for pair in value)
    )


def _holds_pair_sets(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_list_of_pairs, value.values()))


TEXT = ("text on one line, not empty", _is_text)
TRUTH = ("true or false", lambda value: isinstance(value, bool))
INTEGER = ("a whole number", _is_integer)
NAMES = ("a list of names, at least one and none twice", _all(_is_text))
INTEGERS = ("a list of whole numbers, at least one and none twice", _all(_is_integer))
NUMBERS = ("a list of numbers, at least one and none twice", _all(_is_number))
TABLE = ("a table", _is_table)
TABLES = ("a table of tables", _holds_tables)
NEEDS = ("an array of tables, [[live.needs]], at least one", _is_list_of_tables)
PAIR_SETS = ("a table of lists of [teacher, student]", _holds_pair_sets)
Kind = tuple[str, Callable[[Any], bool]]

PROFILE_KEYS = {"title": TEXT, "summary": TEXT, "sources": NAMES, "notebooks": NAMES, "live": TABLE}
LIVE_KEYS = {
    "data": TEXT,
    "models": NAMES,
    "sft_seeds": INTEGERS,
    "items_per_task": INTEGER,
    "needs": NEEDS,
    "protocols": NAMES,
    "ranks": TRUTH,
    "pair_sets": PAIR_SETS,
    "by_domain": TABLES,
    "by_protocol": TABLES,
    "by_method": TABLES,
    "evaluation": TABLE,
    "evaluation_by_protocol": TABLES,
}
NEED_KEYS = {
    "sections": NAMES,
    "methods": NAMES,
    "domains": NAMES,
    "pairs": TEXT,
    "temperatures": NUMBERS,
    "noise_sigmas": NUMBERS,
    "teacher_tuned": TRUTH,
    "seeds": INTEGERS,
    "factors": NAMES,
}
OPTIONAL = ("live", *list(LIVE_KEYS)[5:], *list(NEED_KEYS)[3:])


def read(path: Path) -> dict[str, Any]:
    """What the file says: every key known and of its kind, but for settings of runs, which RunSpec checks.

    Raises:
        ValueError: on one line: the key, its value, and what it must be.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error.reason}); use that encoding") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name} is not TOML ({reason}); use KEY = VALUE lines and [tables]") from None
    _check(entries, PROFILE_KEYS, within="")
    live = entries.get("live", {})
    if live:
        _check(live, LIVE_KEYS, within="live.", has_settings=True)
    for need in live.get("needs", []):
        _check(need, NEED_KEYS, within="live.needs.")
    return entries


def _check(
    entries: Mapping[str, Any], keys: Mapping[str, Kind], *, within: str, has_settings: bool = False
) -> None:
    for key, (words, is_so) in keys.items():
        if key not in entries:
            if key not in OPTIONAL:
                raise ValueError(f"{within}{key} is missing; give {words}")
        elif not is_so(entries[key]):
            raise ValueError(f"{within}{key}={shown(entries[key])} must be {words}")
    if not has_settings and (unknown := [key for key in entries if key not in keys]):
        raise ValueError(f"{within}{shown(unknown[0])[1:-1]} is unknown; use one of {list(keys)}")
