"""What the stricter analysis of each claim is, as declared before its results were computed.

`declared.toml` is the declaration, this module its reader. A claim takes what its test declares, and may say
margin and verdicts in its own words.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.constants import TASK_LABELS

PATH = Path(__file__).parent / "declared.toml"


class DeclarationError(ValueError):
    """A declaration that cannot be used. The message names claim or test and what to mend."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The stricter analysis of one claim."""

    question: str
    unit: str  # what is counted as one observation
    test: str  # a key of strict.JUDGES
    procedure: str  # the test in words
    scale: str
    margin: str  # what is near enough to be no difference, or how far is far
    family: str  # the section within which p values are corrected by Holm
    reproduced: str  # what makes the verdict
    not_reproduced: str
    inconclusive: str
    not_testable: str
    arguments: Mapping[str, Any]  # of the judge: margins and numbers printed in the paper


def read(sections: Mapping[str, str], path: Path = PATH) -> dict[str, Declared]:
    """The declaration of every claim, in the order of `sections`: claim id -> section.

    Raises:
        DeclarationError: names a claim or test that is unknown, missing or not whole.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    tests, claims = entries.get("tests", {}), entries.get("claims", {})
    if unknown := [claim for claim in claims if claim not in sections]:
        raise DeclarationError(f"{path.name} declares unknown claim {unknown[0]!r}; take it out")
    if missing := [claim for claim in sections if claim not in claims]:
        raise DeclarationError(
            f"{path.name} declares nothing for claim {missing[0]!r}; add [claims.{missing[0]}]"
        )
    return {claim: _declared(claim, claims[claim], tests, sections[claim]) for claim in sections}


def _declared(claim: str, own: Mapping[str, Any], tests: Mapping[str, Any], section: str) -> Declared:
    test = own.get("test")
    if test not in tests:
        raise DeclarationError(f"claim {claim!r} has unknown test {test!r}; there are {sorted(tests)}")
    found = {"arguments": {}} | tests[test] | own
    names = [entry.name for entry in fields(Declared)]
    if missing := [name for name in names if found.get(name) in (None, "")]:
        raise DeclarationError(f"claim {claim!r} lacks {missing[0]!r}; say it there or in [tests.{test}]")
    if unknown := sorted(set(found) - set(names)):
        raise DeclarationError(f"claim {claim!r} has unknown field {unknown[0]!r}; there are {names}")
    if found["family"] != section:
        raise DeclarationError(
            f"claim {claim!r} has family {found['family']!r}, but p is corrected within section {section!r}"
        )
    return Declared(**found)


def table(declarations: Mapping[str, Declared], section: str | None = None) -> pd.DataFrame:
    """Declarations for people to read, a row a claim of the section, or of all.

    Claims that ask the same of one task each (`S3.aqua`, `S3.addsub`, ...) are one row.
    """
    names = [entry.name for entry in fields(Declared) if entry.name not in ("arguments", "test", "family")]
    rows: dict[tuple, dict[str, Any]] = {}
    tasks: dict[tuple, list[str]] = {}
    for claim, one in declarations.items():
        if section not in (None, one.family):
            continue
        row, task = {_label(name): getattr(one, name) for name in names}, one.arguments.get("task")
        is_of_many = "." in claim and task in TASK_LABELS
        if is_of_many:
            row["question"] = one.question.replace(f"on {TASK_LABELS[task]} ", "on this task ")
        key = (claim.split(".")[0], *row.values())
        rows.setdefault(key, {"id": claim} | row)
        tasks.setdefault(key, []).append(claim)
    for key, claims in tasks.items():
        if len(claims) > 1:
            rows[key]["id"] = f"{key[0]}: {', '.join(claim.split('.', 1)[1] for claim in claims)}"
    return pd.DataFrame(list(rows.values()), columns=["id", *map(_label, names)])


def _label(name: str) -> str:
    return {"procedure": "test"}.get(name, name.replace("_", " "))
