"""Bad fields of a run or an evaluation: each is refused at construction, by our own words.

Every value is bad by construction, so one that is accepted is a bug of the spec or of this file.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fuzzing import FUZZED
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kdutils.constants import ALL_TASKS, KD_METHODS, METHODS, USED_BY
from kdutils.io.text_safety import shown
from kdutils.spec import EvalSpec, RunSpec

pytestmark = pytest.mark.inputs
GKD = {"student": "o/s-1B", "teacher": "o/t-7B", "method": "gkd", "domain": "math", "data": "items"}
LORA = GKD | {"adapter": "lora"}
EVALUATION = {"tasks": ("svamp",), "temperature": 1.0}
FIELDS = {entry.name: entry for entry in dataclasses.fields(RunSpec)}
TEXTS = ["student", "teacher", "data", "domain", "study_file"]
TEXTS += ["data_digest", "student_digest", "teacher_digest"]
UNPRINTABLE = st.sampled_from(["\x00", "\n", "\r\n", "\x1b[31m", "\ud800", "\u202e", "\u2028", "\x7f"])
OTHERS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.just([]),
    st.just({}),
    st.complex_numbers(),
    st.lists(st.none(), max_size=2),
    st.just(object),
    st.sets(st.integers(), max_size=2),
)
KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": (tuple, list)}


def schemas(cls: type) -> dict[str, dict[str, Any]]:
    """Field -> JSON schema of what it holds if it is not None: type, minimum, maximum, enum."""
    found = TypeAdapter(cls).json_schema()["properties"]
    return {name: schema | schema.get("anyOf", [{}])[0] for name, schema in found.items()}


SCHEMAS = {cls: schemas(cls) for cls in (RunSpec, EvalSpec)}
RANGES = {  # field -> least and greatest value that is legal
    cls: {name: (own["minimum"], own["maximum"]) for name, own in found.items() if "minimum" in own}
    for cls, found in SCHEMAS.items()
}
CHOICES = {
    cls: {name: own["enum"] for name, own in found.items() if "enum" in own} for cls, found in SCHEMAS.items()
}


def test_there_are_ranges_and_choices_to_leave():
    assert [len(RANGES[cls]) for cls in (RunSpec, EvalSpec)] == [39, 7]
    names = {"method", "protocol", "adapter", "prompt", "prefix", "divergence"}  # domain: test_runspec
    assert set(CHOICES[RunSpec]) == names | {"student_start", "frozen", "shadow_loss", "teacher_adapter"} | {
        "student_build",
        "penalty",
        "optimiser",
    }
    assert set(CHOICES[EvalSpec]) == {"split", "scoring"}


def is_of(declared: str, value: object) -> bool:
    """Whether a value has the declared type; an int is a float, but a bool is no int."""
    kind = KINDS[declared]
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def wrong_type(cls: type) -> st.SearchStrategy[tuple[str, Any]]:
    pairs = st.tuples(st.sampled_from(list(SCHEMAS[cls])), OTHERS)
    return pairs.filter(lambda pair: not is_of(SCHEMAS[cls][pair[0]]["type"], pair[1]))


@st.composite
def out_of_range(draw: st.DrawFn, cls: type) -> tuple[str, Any]:
    name = draw(st.sampled_from(sorted(RANGES[cls])))
    least, greatest = RANGES[cls][name]
    if SCHEMAS[cls][name]["type"] == "integer":
        below, above = st.integers(max_value=least - 1), st.integers(min_value=greatest + 1)
        huge = st.sampled_from([10**400, -(10**400), 10**5_000])
        return name, draw(st.one_of(below, above, huge))
    below = st.floats(max_value=least, exclude_max=True)
    above = st.floats(min_value=greatest, exclude_min=True)
    odd = st.sampled_from([float("nan"), float("inf"), float("-inf"), 10**400, -(10**5_000), 2**53])
    return name, draw(st.one_of(below, above, odd))


@st.composite
def unknown_choice(draw: st.DrawFn, cls: type) -> tuple[str, Any]:
    name = draw(st.sampled_from(sorted(CHOICES[cls])))
    return name, draw(st.text(max_size=12).filter(lambda text: text not in CHOICES[cls][name]))


@st.composite
def unprintable(draw: st.DrawFn) -> tuple[str, Any]:
    name = draw(st.sampled_from(TEXTS))
    before, after = draw(st.text(max_size=4)), draw(st.text(max_size=4))
    return name, before + draw(UNPRINTABLE) + after


def refused(inputs, cls: type, fields: dict[str, Any], name: str, value: Any) -> None:
    """The fields are refused by the spec itself, in a line that names the field or the value."""
    inputs.tried("fields")
    with pytest.raises(ValueError) as caught:
        cls(**fields | {name: value})
    last = caught.traceback[-1]
    assert last.path.name == "records.py", f"{name}={shown(value)} fails in {last.path}: {caught.value}"
    message = str(caught.value)
    assert name in message or shown(value) in message, message
    assert len(message) < 600
    inputs.refused(caught.value, "fields")


@settings(max_examples=250, **FUZZED)
@given(wrong_type(RunSpec))
def test_wrong_types_of_a_run(inputs, bad):
    refused(inputs, RunSpec, GKD, *bad)


@settings(max_examples=200, **FUZZED)
@given(out_of_range(RunSpec))
def test_numbers_out_of_range_of_a_run(inputs, bad):
    refused(inputs, RunSpec, LORA, *bad)


@settings(max_examples=60, **FUZZED)
@given(unknown_choice(RunSpec))
def test_unknown_names_of_a_run(inputs, bad):
    refused(inputs, RunSpec, GKD, *bad)


@settings(max_examples=80, **FUZZED)
@given(unprintable())
def test_texts_that_cannot_be_printed(inputs, bad):
    refused(inputs, RunSpec, GKD, *bad)


@pytest.mark.parametrize("name", ["student", "teacher", "data"])
@pytest.mark.parametrize("value", ["", " ", "   "])
def test_empty_names(inputs, name, value):
    if name == "teacher" and value:
        pytest.skip("a teacher of blanks is no model, which is found where models are")
    refused(inputs, RunSpec, GKD, name, value)


@st.composite
def without_effect(draw: st.DrawFn) -> tuple[dict[str, Any], str, Any]:
    """A field away from its default with a method that does not use it."""
    name = draw(st.sampled_from(sorted(USED_BY)))
    unused = [own for own in ("base", "sft", *KD_METHODS) if not USED_BY[name](METHODS[own])]
    method = draw(st.sampled_from(sorted(unused)))
    teacher = {} if method in ("base", "sft") else {"teacher": GKD["teacher"]}
    fields = {"student": GKD["student"], "domain": "math", "data": "items", "method": method} | teacher
    default, kind = FIELDS[name].default, SCHEMAS[RunSpec][name]["type"]
    if name == "protocol":
        return fields, name, "paper"
    others = {"adapter": "lora", "student_start": "sft", "frozen": "mlp", "shadow_loss": "teacher"}
    others |= {"teacher_adapter": "full", "student_build": "pruned", "penalty": "l2_sp", "optimiser": "muon"}
    others["first_domain"] = "commonsense"
    if name in others:
        return fields, name, others[name]
    if kind == "boolean":
        return fields, name, not default
    least, greatest = RANGES[RunSpec][name]
    numbers = st.integers(least, greatest) if kind == "integer" else st.floats(least, greatest)
    return fields, name, draw(numbers.filter(lambda value: value != default))


@settings(max_examples=120, **FUZZED)
@given(without_effect())
def test_fields_without_effect(inputs, bad):
    refused(inputs, RunSpec, *bad)


@settings(max_examples=100, **FUZZED)
@given(wrong_type(EvalSpec))
def test_wrong_types_of_an_evaluation(inputs, bad):
    refused(inputs, EvalSpec, EVALUATION, *bad)


@settings(max_examples=60, **FUZZED)
@given(st.one_of(out_of_range(EvalSpec), unknown_choice(EvalSpec)))
def test_values_of_an_evaluation(inputs, bad):
    refused(inputs, EvalSpec, EVALUATION, *bad)


BAD_TASKS = st.one_of(
    st.lists(st.text(max_size=8), min_size=1, max_size=3).filter(
        lambda tasks: not set(tasks) <= set(ALL_TASKS)
    ),
    st.lists(st.sampled_from(list(ALL_TASKS)), min_size=2, max_size=4).filter(
        lambda tasks: len(set(tasks)) < len(tasks)
    ),
    st.lists(st.one_of(st.integers(), st.none(), st.just([]), st.just({})), min_size=1, max_size=2),
    st.just(()),
)


@settings(max_examples=80, **FUZZED)
@given(BAD_TASKS)
def test_tasks_of_an_evaluation(inputs, tasks):
    refused(inputs, EvalSpec, EVALUATION, "tasks", tasks)


@settings(max_examples=60, **FUZZED)
@given(st.text(max_size=10).filter(lambda name: name not in FIELDS), st.integers())
def test_unknown_fields(inputs, name, value):
    inputs.tried("fields")
    with pytest.raises(ValueError, match="has no field ") as caught:
        RunSpec.from_dict(GKD | {name: value})
    assert shown(name)[1:-1] in str(caught.value)
    inputs.refused(caught.value, "fields")


def test_missing_fields(inputs):
    for name in ("student", "method", "domain"):
        inputs.tried("fields")
        with pytest.raises(ValueError, match=f"needs {name}") as caught:
            RunSpec.from_dict({key: value for key, value in GKD.items() if key != name})
        inputs.refused(caught.value, "fields")
