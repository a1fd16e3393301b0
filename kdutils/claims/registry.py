"""The claims of the paper and the rules that judge them: claims.toml, read and checked, and as tables.

To add a claim, write an entry in claims.toml; of a new kind also its functions in a theme file, and name them
in the RULES of that file.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.claims import gains, likeness, noise_temperature, sizes, teachers
from kdutils.claims.evidence import Rules
from kdutils.constants import TASK_LABELS

PATH = Path(__file__).parent / "claims.toml"
RULES: Mapping[str, Rules] = (
    gains.RULES | sizes.RULES | teachers.RULES | likeness.RULES | noise_temperature.RULES
)
SHOWN = ("question", "unit", "procedure", "scale", "margin")  # of the stricter analysis, in this order
SHOWN += ("reproduced", "not_reproduced", "inconclusive", "not_testable")


class DeclarationError(ValueError):
    """A declaration that cannot be used. The message names claim or rule and what to mend."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of the paper, how it is judged, and the stricter analysis in words."""

    id: str
    section: str  # "01" to "07"; p values of the stricter analysis are corrected within it
    statement: str
    rule: str  # a key of RULES
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the rules: margins and printed numbers
    paper_value: float | str | None = None  # what abstract or poster print
    is_magnitude: bool = False  # how large an effect is on Qwen and Llama: a model world cannot bear on it
    absent: str = ""  # why the authors' results have nothing on it
    question: str
    unit: str  # what is counted as one observation
    procedure: str  # the test in words
    scale: str
    margin: str  # what is near enough to be no difference, or how far is far
    reproduced: str  # what makes the verdict
    not_reproduced: str
    inconclusive: str
    not_testable: str

    @property
    def rules(self) -> Rules:
        """The functions that judge it."""
        return RULES[self.rule]

    def arguments_of(self, rule: Callable) -> dict[str, Any]:
        """Those arguments that a function of its rules takes."""
        return {name: self.arguments[name] for name in _parameters(rule) if name in self.arguments}

    def text_of(self, rule: Callable | None) -> str:
        """Docstring of a function of its rules, with its thresholds."""
        if rule is None:
            return "not_testable: the claim is about several pairs"
        shown = ", ".join(f"{name} = {value}" for name, value in self.arguments_of(rule).items())
        text = " ".join(inspect.getdoc(rule).split())
        return f"{text} [{shown}]" if shown else text


def _parameters(rule: Callable) -> list[str]:
    return [name for name in inspect.signature(rule).parameters if name not in ("evidence", "rng")]


def read(path: Path = PATH) -> tuple[Claim, ...]:
    """All claims, in the order of the file.

    Raises:
        DeclarationError: names a claim that has an unknown rule, field or argument, or lacks one.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    words, found = entries["rules"], []
    for section, claims in entries["claims"].items():
        for claim, own in claims.items():
            found += [_claim(section, *one, words) for one in _each(claim, own)]
    return tuple(found)


def _each(claim: str, own: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and entry of a claim, or of one claim for each of its tasks."""
    tasks = own.pop("each_task", None)
    if tasks is None:
        yield claim, own
        return
    for task, arguments in tasks.items():
        texts = {name: text.replace("{task}", TASK_LABELS[task]) for name, text in own.items()}
        yield f"{claim}.{task}", texts | {"arguments": {"task": task} | arguments}


def _claim(section: str, claim: str, own: dict[str, Any], words: Mapping[str, Any]) -> Claim:
    rule = own.get("rule")
    if rule not in RULES or rule not in words:
        raise DeclarationError(
            f"claim {claim!r} has unknown rule {rule!r}; there are {sorted(set(RULES) & set(words))}"
        )
    found = words.get("default", {}) | words[rule] | own
    names = {entry.name: entry.default is entry.default_factory is MISSING for entry in fields(Claim)}
    if unknown := sorted(set(found) - set(names)):
        raise DeclarationError(f"claim {claim!r} has unknown field {unknown[0]!r}; there are {sorted(names)}")
    found |= {"id": claim, "section": section}
    if missing := [name for name, is_needed in names.items() if is_needed and not found.get(name)]:
        raise DeclarationError(f"claim {claim!r} lacks {missing[0]!r}; say it there or in [rules.{rule}]")
    arguments = found.get("arguments", {})
    taken = dict.fromkeys(name for function in filter(None, RULES[rule]) for name in _parameters(function))
    if unknown := sorted(set(arguments) - set(taken)):
        message = f"claim {claim!r} has unknown argument {unknown[0]!r}; there are {list(taken)}"
        raise DeclarationError(message)
    for function in filter(None, RULES[rule]):
        parameters = inspect.signature(function).parameters
        for name in _parameters(function):
            if name not in arguments and parameters[name].default is inspect.Parameter.empty:
                raise DeclarationError(f"claim {claim!r} lacks the argument {name!r} of {function.__name__}")
    return Claim(**{"paper_value": arguments.get("printed")} | found)


CLAIMS: tuple[Claim, ...] = read()


def claims_of(section: str | None = None, claims: Iterable[Claim] = CLAIMS) -> tuple[Claim, ...]:
    """The claims of a section ("01" to "07"), or all.

    Raises:
        ValueError: if the section has no claims.
    """
    chosen = tuple(claim for claim in claims if section in (None, claim.section))
    if not chosen:
        there_are = sorted({claim.section for claim in claims})
        raise ValueError(f"section {section!r} has no claims; those with some: {there_are}")
    return chosen


def by_id(claim_id: str) -> Claim:
    """The claim of that id."""
    return next(claim for claim in CLAIMS if claim.id == claim_id)


def rules(section: str | None = None, *, one_pair: bool = False) -> pd.DataFrame:
    """How each claim is judged: id, claim, rule with its thresholds, if asked for also that of one pair."""
    chosen = claims_of(section)
    columns = {
        "id": [claim.id for claim in chosen],
        "claim": [claim.statement for claim in chosen],
        "rule": [claim.text_of(claim.rules.authors) for claim in chosen],
    }
    if one_pair:
        columns["rule for one live pair"] = [claim.text_of(claim.rules.items) for claim in chosen]
    return pd.DataFrame(columns)


def declarations(section: str | None = None, claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """The stricter analysis as it was declared, a row a claim of the section, or of all.

    Claims that ask the same of one task each (`S3.aqua`, `S3.addsub`, ...) are one row.
    """
    labels = [{"procedure": "test"}.get(name, name.replace("_", " ")) for name in SHOWN]
    rows: dict[tuple, dict[str, Any]] = {}
    tasks: dict[tuple, list[str]] = {}
    for claim in claims_of(section, claims):
        row = dict(zip(labels, (getattr(claim, name) for name in SHOWN), strict=True))
        stem, _, task = claim.id.partition(".")
        if task:
            row["question"] = claim.question.replace(f"on {TASK_LABELS[task]} ", "on this task ")
        key = (stem, *row.values())
        rows.setdefault(key, {"id": claim.id} | row)
        tasks.setdefault(key, []).append(task)
    for (stem, *_), row, own in zip(rows, rows.values(), tasks.values(), strict=True):
        if len(own) > 1:
            row["id"] = f"{stem}: {', '.join(own)}"
    return pd.DataFrame(list(rows.values()), columns=["id", *labels])


FEEBLE = by_id("F3").arguments["margin"]  # |r| below it is feeble


def with_printed(correlations: pd.DataFrame) -> pd.DataFrame:
    """Correlations of gain and student size with a column `printed`: what the poster prints for the task."""
    printed = {
        (claim.arguments["domain"], claim.arguments["task"]): claim.paper_value for claim in claims_of("02")
    }
    where = zip(correlations["domain"], correlations["task"], strict=True)
    return correlations.assign(printed=[printed[place] for place in where])
