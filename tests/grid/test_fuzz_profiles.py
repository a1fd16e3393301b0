"""Bad profile files: each is refused when it is read or planned, before anything starts."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from fuzzing import FUZZED
from hypothesis import given, settings
from hypothesis import strategies as st

from kdutils.data import sources
from kdutils.grid import profile
from kdutils.grid.plan import plan
from kdutils.grid.profile import load_profile, profile_names
from kdutils.io.text_safety import shown

pytestmark = pytest.mark.inputs
GOOD: dict[str, Any] = {
    "title": "A sample",
    "summary": "Made for tests.",
    "sources": ["published", "live"],
    "notebooks": ["01_effectiveness"],
    "live": {
        "data": "mini",
        "models": ["mini-qwen-0.5B", "mini-qwen-1.5B"],
        "sft_seeds": [0],
        "items_per_task": 3,
        "train_items": 6,
        "by_domain": {"math": {"epochs": 1}},
        "evaluation": {"max_new_tokens": 8},
        "pair_sets": {"one": [["mini-qwen-1.5B", "mini-qwen-0.5B"]]},
        "needs": [
            {
                "sections": ["01"],
                "methods": ["fkl"],
                "domains": ["math"],
                "pairs": "one",
                "temperatures": [1.0, 2.0],
                "noise_sigmas": [0.0],
                "teacher_tuned": True,
                "seeds": [0],
                "factors": ["prompt"],
                "evaluations": [{"temperature": [0.0, 1.0], "samples": 2}],
            }
        ],
    },
}
Path = tuple[str | int, ...]
TEXT, NAMES, INTEGERS, NUMBERS = "text", "names", "integers", "numbers"
KINDS: dict[Path, str] = {
    ("title",): TEXT,
    ("summary",): TEXT,
    ("sources",): NAMES,
    ("notebooks",): NAMES,
    ("live",): "table",
    ("live", "data"): TEXT,
    ("live", "models"): NAMES,
    ("live", "sft_seeds"): INTEGERS,
    ("live", "items_per_task"): "integer",
    ("live", "train_items"): "integer",
    ("live", "by_domain"): "table",
    ("live", "by_domain", "math"): "table",
    ("live", "by_domain", "math", "epochs"): "integer",
    ("live", "evaluation"): "table",
    ("live", "evaluation", "max_new_tokens"): "integer",
    ("live", "pair_sets"): "table",
    ("live", "pair_sets", "one"): "pairs",
    ("live", "needs"): "tables",
    **{
        ("live", "needs", 0, key): kind
        for key, kind in {
            "sections": NAMES,
            "methods": NAMES,
            "domains": NAMES,
            "pairs": TEXT,
            "temperatures": NUMBERS,
            "noise_sigmas": NUMBERS,
            "teacher_tuned": "truth",
            "seeds": INTEGERS,
            "factors": NAMES,
            "evaluations": "tables",
        }.items()
    },
}
NEEDED = [
    path
    for path in KINDS
    if path[-1]
    in (
        "title",
        "summary",
        "sources",
        "notebooks",
        "data",
        "models",
        "sft_seeds",
        "items_per_task",
        "needs",
        "sections",
        "methods",
        "domains",
    )
]
VALUES = {
    TEXT: st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6),
    "integer": st.integers(-5, 5),
    "number": st.floats(allow_nan=False, allow_infinity=False, width=16),
    "truth": st.booleans(),
    NAMES: st.lists(st.sampled_from(["xa", "yb", "zc"]), min_size=1, max_size=3),
    INTEGERS: st.lists(st.integers(-5, 5), min_size=1, max_size=3),
    NUMBERS: st.lists(st.floats(0.5, 3.0), min_size=1, max_size=2),
    "table": st.dictionaries(st.sampled_from(["xa", "yb"]), st.integers(), max_size=2),
}
# Which kinds of a value are right, if only for some values, where another is asked for.
ALIKE = {NUMBERS: (NUMBERS, INTEGERS), "pairs": (), "tables": ()}


def toml(value: Any) -> str:
    """The value as TOML writes it, tables inline."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case bool():
            return str(value).lower()
        case float() if math.isnan(value) or math.isinf(value):
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def text_of(entries: dict[str, Any]) -> str:
    return "".join(
        f"{json.dumps(key, ensure_ascii=False)} = {toml(value)}\n" for key, value in entries.items()
    )


def changed(path: Path, value: Any) -> dict[str, Any]:
    entries = copy.deepcopy(GOOD)
    inner: Any = entries
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return entries


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Writes a profile's file and goes as far as a run goes before it looks for models."""
    folder = tmp_path_factory.mktemp("profiles")

    def run(text: str | bytes) -> None:
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (folder / "own.toml").write_bytes(content)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(profile, "PROFILE_FOLDER", folder)
            load_profile("own")
            for run in plan("00", {"profile": "own"}).to_make:
                sources.resolved(run.spec)

    return run


def refused(inputs, prepared, text: str | bytes, *named: str) -> None:
    inputs.tried("profiles")
    with pytest.raises((ValueError, TypeError)) as caught:  # what the runner makes one line of
        prepared(text)
    assert "kdutils" in caught.traceback[-1].path.parts, caught.traceback[-1]
    message = str(caught.value)
    assert any(name in message for name in named), (named, message)
    inputs.refused(caught.value, "profiles")


def test_the_good_one_is_good(prepared):
    prepared(text_of(GOOD))


@st.composite
def wrong_kind(draw: st.DrawFn) -> tuple[Path, Any]:
    path = draw(st.sampled_from(list(KINDS)))
    right = ALIKE.get(KINDS[path], (KINDS[path],))
    kind = draw(st.sampled_from([kind for kind in VALUES if kind not in right]))
    return path, draw(VALUES[kind])


@settings(max_examples=200, **FUZZED)
@given(wrong_kind())
def test_values_of_the_wrong_kind(inputs, prepared, bad):
    path, value = bad
    if path[-1] == "live" and value == {}:
        return  # right
    refused(inputs, prepared, text_of(changed(path, value)), str(path[-1]), "live")


@pytest.mark.parametrize("path", NEEDED, ids=lambda path: ".".join(map(str, path)))
def test_missing_keys(inputs, prepared, path):
    entries = copy.deepcopy(GOOD)
    inner: Any = entries
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    refused(inputs, prepared, text_of(entries), str(path[-1]))


PLACES = [(), ("live",), ("live", "needs", 0), ("live", "evaluation"), ("live", "by_domain", "math")]


@settings(max_examples=80, **FUZZED)
@given(st.sampled_from(PLACES), st.from_regex(r"[a-z_]{3,9}x", fullmatch=True), st.integers(-3, 3))
def test_unknown_keys(inputs, prepared, place, key, value):
    refused(inputs, prepared, text_of(changed((*place, key), value)), key)


NAMED = [path for path in KINDS if KINDS[path] == NAMES]


@settings(max_examples=100, **FUZZED)
@given(st.sampled_from(NAMED), st.from_regex(r"[a-z]{2,6}-q", fullmatch=True), st.booleans())
def test_unknown_names(inputs, prepared, path, name, beside):
    inner: Any = GOOD
    for key in path:
        inner = inner[key]
    refused(inputs, prepared, text_of(changed(path, [*inner, name] if beside else [name])), name)


NUMBER_PATHS = {
    ("live", "sft_seeds"): [[-1], [2**31], [0, 0]],
    ("live", "items_per_task"): [0, -1, 10**7],
    ("live", "train_items"): [0, -1, 10**8],
    ("live", "by_domain", "math", "epochs"): [0, -1, 10**6],
    ("live", "evaluation", "max_new_tokens"): [0, -7, 10**6],
    ("live", "needs", 0, "temperatures"): [[0.0], [-1.0], [math.nan], [math.inf], [1e9], [1.0, 1.0], []],
    ("live", "needs", 0, "noise_sigmas"): [[-1.0], [math.nan], [math.inf], [1e9], [0.0, -0.5], []],
    ("live", "needs", 0, "seeds"): [[-1], [2**31], [1, 1], []],
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in NUMBER_PATHS.items() for value in values]
)
def test_numbers_out_of_range(inputs, prepared, path, value):
    name = str(path[-1])
    refused(
        inputs, prepared, text_of(changed(path, value)), name, name.removesuffix("s"), "seed", "noise_sigma"
    )


FIXED = (
    "student",
    "teacher",
    "method",
    "domain",
    "seed",
    "temperature",
    "noise_sigma",
    "teacher_tuned",
    "protocol",
)
PLACES_OF_SETTINGS = [("live",), ("live", "by_domain", "math")]
NOT_SETTINGS = [(*place, name) for place in PLACES_OF_SETTINGS for name in FIXED]
NOT_SETTINGS += [("live", "evaluation", name) for name in ("tasks", "items_per_task", "scoring")]


@pytest.mark.parametrize("path", NOT_SETTINGS, ids=lambda path: ".".join(path))
def test_what_the_needs_decide_is_no_setting(inputs, prepared, path):
    """Before, a temperature among the settings was passed over, and a student among them a traceback."""
    refused(inputs, prepared, text_of(changed(path, 2)), str(path[-1]))


PAIRS = [
    [["a"]],
    [["a", "b", "c"]],
    [[1, 2]],
    [["mini-qwen-0.5B", "mini-qwen-0.5B"]],
    [["x-1k", "mini-qwen-0.5B"]],
    [],
]


@pytest.mark.parametrize("value", PAIRS, ids=str)
def test_pairs_that_are_none(inputs, prepared, value):
    refused(inputs, prepared, text_of(changed(("live", "pair_sets", "one"), value)), "pair")


@settings(max_examples=60, **FUZZED)
@given(st.sampled_from(["published", "live"]))
def test_sources_and_what_is_trained_go_together(inputs, prepared, source):
    entries = copy.deepcopy(GOOD) | {"sources": [source]}
    if source == "live":
        del entries["live"]
    else:
        entries["sources"] = ["published"]
    refused(inputs, prepared, text_of(entries), "sources")


WHOLE = text_of(GOOD)


@settings(max_examples=120, **FUZZED)
@given(st.integers(0, len(WHOLE) - 1), st.sampled_from(["\x00", "]", "\x7f", "\x01", "[[", "= ="]))
def test_files_that_are_not_toml(inputs, prepared, place, what):
    """A control character or an open bracket on a line of its own is TOML nowhere."""
    lines = WHOLE.split("\n")
    line = place % (len(lines) - 1)
    refused(inputs, prepared, "\n".join([*lines[:line], what, *lines[line:]]), "own.toml")


@settings(max_examples=40, **FUZZED)
@given(st.integers(0, len(WHOLE) - 1), st.sampled_from([b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\x80"]))
def test_files_that_are_not_utf_8(inputs, prepared, place, what):
    content = WHOLE.encode()
    refused(inputs, prepared, content[:place] + what + content[place:], "own.toml")


def test_files_of_too_many_levels_and_digits(inputs, prepared):
    for text in ("title = " + "[" * 100_000, "title = " + "9" * 10_000, "", "\ufeff\ufeff" + WHOLE):
        refused(inputs, prepared, text, "own.toml", "title")


@settings(max_examples=50, **FUZZED)
@given(st.text(max_size=12).filter(lambda name: name not in profile_names()))
def test_unknown_profiles(inputs, name):
    inputs.tried("profiles")
    with pytest.raises(ValueError, match="unknown profile") as caught:
        load_profile(name)
    assert shown(name) in str(caught.value)
    inputs.refused(caught.value, "profiles")
