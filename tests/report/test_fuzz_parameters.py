"""Bad parameters cells, values of -p, item files and released tables: refused before anything starts."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from fuzzing import FUZZED
from hypothesis import given, settings
from hypothesis import strategies as st

from kdutils.constants import ALL_TASKS
from kdutils.data import model_files, sources
from kdutils.grid.profile import PARAMETER_CHOICES
from kdutils.io.text_safety import shown
from kdutils.report import cli, notebook_parameters
from kdutils.report.notebook_parameters import Parameter, ParameterError
from kdutils.results import authors_tables

pytestmark = pytest.mark.inputs
NAME = st.from_regex(r"[a-z]{3,8}", fullmatch=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("inputs")


# --- the parameters cell -----------------------------------------------------------------------------------

DERIVED = [
    "1 + 1",
    "len([1])",
    "other",
    "[x for x in (1,)]",
    "__import__('os')",
    "lambda: 1",
    "f'{1}'",
    "open('x')",
]
WRONG = {
    "int": ["1.5", "'1'", "True", "[1]", "{}", "b'x'", "1e3"],
    "float": ["'1'", "True", "1e999", "-1e999", "[1.0]", "10**2", "1j"],
    "bool": ["1", "0", "'true'", "[]"],
    "str": ["1", "True", "b'x'", "['a']", "'a\\nb'", "'\\x00'", "'\\ud800'", "'\\x1b[31m'"],
    "list[int]": ["[]", "[1, 1]", "[1.5]", "(1, 2)", "1", "[True]", "[[1]]", "{1}"],
    "list[float]": ["[]", "[1.0, 1]", "['1']", "[1e999]"],
    "list[str]": ["[]", "['a', 'a']", "[1]", "'a'", "['a\\n']", "[None]"],
}
NO_TYPE = [
    "dict",
    "list",
    "set[int]",
    "int | str",
    "Any",
    "list[bool]",
    "tuple[int, ...]",
    "Optional[int]",
    "'int'",
]
NO_DECLARATION = [
    "{n} = 1",
    "import {n}",
    "{n}: int",
    "print('{n}')",
    "def {n}(): pass",
    "%{n}",
    "!{n}",
    "{n} :=",
    "{n}[",
]


@st.composite
def bad_cell(draw: st.DrawFn) -> tuple[str, str]:
    """A declaration that is none, and its name."""
    name = draw(NAME)
    kind = draw(st.sampled_from(sorted(WRONG)))
    line = draw(
        st.one_of(
            st.sampled_from(WRONG[kind]).map(lambda value: f"{name}: {kind} = {value}"),
            st.sampled_from(DERIVED).map(lambda value: f"{name}: {kind} = {value}"),
            st.sampled_from(NO_TYPE).map(lambda written: f"{name}: {written} = 1"),
            st.sampled_from(NO_DECLARATION).map(lambda form: form.replace("{n}", name)),
            st.just(f"_{name}: {kind} = 1"),
            st.just(f"{name}: int = 1\n{name}: int = 2"),
        )
    )
    return line, name


@settings(max_examples=250, **FUZZED)
@given(bad_cell())
def test_parameters_cells(inputs, folder, bad):
    line, name = bad
    inputs.tried("cells")
    path = folder / "01_effectiveness.ipynb"
    cell = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": f'first: str = "a"\n{line}\n',
    }
    path.write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(ParameterError) as caught:
        notebook_parameters.declared(path)
    message = str(caught.value)
    assert path.name in message
    assert "line 2" in message or "line 3" in message, message
    inputs.refused(caught.value, "cells")


@settings(max_examples=60, **FUZZED)
@given(st.one_of(st.binary(max_size=30), st.text(max_size=30).map(str.encode), st.just(b"[" * 100_000)))
def test_files_that_are_no_notebooks(inputs, folder, content):
    inputs.tried("cells")
    path = folder / "02_size_correlation.ipynb"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=path.name) as caught:
        notebook_parameters.declared(path)
    inputs.refused(caught.value, "cells")


# --- values of -p ------------------------------------------------------------------------------------------

NO_NUMBER = st.text(string.ascii_letters + " _#", max_size=8).filter(
    lambda text: text.strip().lower() not in ("nan", "inf", "infinity", "none", "null", "true", "false")
)
TOO_MUCH = st.sampled_from(["nan", "inf", "-inf", "1e999", "-1e999"])
TEXTS = {
    "int": st.one_of(
        NO_NUMBER, TOO_MUCH, st.sampled_from(["1.0", "1e3", "0x10", "1,2", "", "--1", "9" * 5_000])
    ),
    "float": st.one_of(NO_NUMBER, TOO_MUCH, st.sampled_from(["", "1,5", "0x1p3", "1 2", "true"])),
    "bool": st.one_of(NO_NUMBER, st.sampled_from(["1", "0", "yes", "no", "", "nan"])),
    "str": st.sampled_from(["a\nb", "\x00", "\x1b[1m", "\ud800", "a\tb", "\u2028"]),
    "list[int]": st.one_of(
        NO_NUMBER, st.sampled_from(["", "1,,2", "1,1", "[]", "[1", "[[1]]", "[1, 1.5]", "1.0,2"])
    ),
    "list[float]": st.one_of(
        NO_NUMBER, st.sampled_from(["", "1,1.0", "nan,1", "[NaN]", "[Infinity]", "[1e999]"])
    ),
    "list[str]": st.sampled_from(
        ["", "a,a", "a,,b", "[]", "[1]", '["a"', '["a", "a"]', '["\\ud800"]', "[" * 100_000]
    ),
}
OBJECTS = st.sampled_from([object, b"x", {}, {1}, (1,), 1j, [None], [[1]], {"a": 1}])


@st.composite
def bad_value(draw: st.DrawFn) -> tuple[Parameter, Any]:
    kind = draw(st.sampled_from(sorted(TEXTS)))
    parameter = Parameter(name=draw(NAME), type=kind, default=None)
    return parameter, draw(st.one_of(TEXTS[kind], OBJECTS))


@settings(max_examples=250, **FUZZED)
@given(bad_value())
def test_values(inputs, bad):
    parameter, value = bad
    inputs.tried("values")
    with pytest.raises(ParameterError) as caught:
        notebook_parameters.coerce(parameter, value)
    assert str(caught.value).startswith(f"{parameter.name}="), str(caught.value)
    inputs.refused(caught.value, "values")


def test_values_of_too_many_digits(inputs):
    for kind in ("str", "bool", "float", "list[int]", "list[str]"):
        inputs.tried("values")
        with pytest.raises(ParameterError, match="^x=.*too many digits|^x=.* is not") as caught:
            notebook_parameters.coerce(Parameter(name="x", type=kind, default=None), 10**5_000)
        inputs.refused(caught.value, "values")


@settings(max_examples=100, **FUZZED)
@given(st.sampled_from(sorted(PARAMETER_CHOICES)), st.text(string.ascii_lowercase, min_size=1, max_size=8))
def test_names_that_nothing_has(inputs, name, value):
    if value in PARAMETER_CHOICES[name]:
        return
    for kind in ("str", "list[str]"):
        inputs.tried("values")
        with pytest.raises(ParameterError) as caught:
            notebook_parameters.coerce(Parameter(name=name, type=kind, default=None), value)
        assert shown(value) in str(caught.value)
        inputs.refused(caught.value, "values")


COMMANDS = [
    *(
        ["smoke", "-p", name, "1"]
        for name in ("", "x y", "1st", "class", "seedz", "os.system", "out", "profile", "é=1")
    ),
    *(
        ["smoke", "-p", "seeds", value]
        for value in ("-1", "1,1", "x", "", "[]", "2147483648", "1.5", "9" * 30)
    ),
    *(["smoke", "-p", "items_per_task", value] for value in ("0", "-3", "1e3", "many", "", "99999999")),
    *(["smoke", "-p", "train_items", value] for value in ("0", "-1", "x", "99999999")),
    *(["smoke", "-p", "devices", value] for value in ("0", "-1", "1.5", "33", "99999")),
    *(
        ["smoke", "-p", "students", value]
        for value in ("nobody-1B", "", "../x", "mini-qwen-1.5B,mini-qwen-1.5B")
    ),
    *(["smoke", "-p", "teachers", value] for value in ("mini-qwen-1.5B", "~nobody/x-1B", "\x1b[31m")),
    *(
        ["smoke", "-p", "model_files", value]
        for value in ("x", "=", "a=", "=b", "mini-qwen-1.5B=/not/there", "zz=/tmp")
    ),
    ["smoke", "-p", "model_files", "mini-qwen-1.5B=~nobody-at-all/model"],
    *(
        ["qwen-small", "-p", "model_files", f"Qwen/Qwen2.5-0.5B={path}"]
        for path in ("/not/there", "~nobody/x", "../x")
    ),
    *(
        ["qwen-small", "-p", "model_files", f"Qwen/Qwen2.5-0.5B={path}"]
        for path in ("x/..", "x.gguf", "a/b/c", ".")
    ),
    ["smoke", "-p", "methods", "sft"],
    ["smoke", "-p", "domains", "maths"],
    ["smoke", "-p", "tasks", "gsm8"],
    ["smoke", "-p", "protocol", "strict"],
    ["smoke", "-p", "seeds", "0", "-p", "seeds", "1"],
    ["smoke", "-p", "seeds"],
    *(["smoke", "--only", value] for value in ("42", "../01", "01_effectiveness.ipynb", "x,y")),
    *(["smoke", "--jobs", value] for value in ("0", "-1", "x", "1.5")),
    *(["smoke", "--workers", value] for value in ("0", "-1", "x")),
    *(["smoke", "--silence", value] for value in ("0", "0.5", "-1", "nan", "inf", "3000000", "x")),
    *(["smoke", "--limit", value] for value in ("0", "-1", "nan", "inf", "1e300", "3000000", "x")),
    *(
        ["smoke", "--gpu", "H100"],
        ["smoke", "--dry-run", "--gpu", "abacus"],
        ["published", "--dry-run"],
        ["--nonsense"],
    ),
    *([name] for name in ("smok", "../smoke", "smoke.toml", "/etc/passwd", "", "smoke\n", "\x1b[2J")),
    ["mini", "-p", "noise_sigmas", "-1"],
    ["mini", "-p", "temperatures", "0"],
    ["mini", "-p", "temperatures", "-1", "-p", "methods", "seqkd"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:40])
def test_commands(inputs, tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr(cli.fill, "fill", lambda *given, **options: pytest.fail("work has begun"))
    monkeypatch.setattr(cli.runner, "Executor", lambda *given, **options: pytest.fail("work has begun"))
    inputs.tried("commands")
    monkeypatch.setenv(model_files.MODEL_FILES, "")  # so that what a command leaves there goes with the test
    assert cli.main([*command, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kdutils: error: ")
    assert said.count("\n") == 1
    inputs.refused(said.strip(), "commands")


# --- item files --------------------------------------------------------------------------------------------

GOOD = {"id": "a", "task": "svamp", "question": "How many?", "answer": "3", "response": "3", "rationale": "r"}
NO_TEXT = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.lists(st.text(), max_size=1)
)
HALF = st.sampled_from(["\\ud800", "\\udfff", "\\udc00\\ud800"])


@st.composite
def bad_line(draw: st.DrawFn) -> tuple[bytes, str]:
    """A line that describes no item, and what a message about it names."""
    key = draw(st.sampled_from(["id", "task", "question", "answer"]))
    any_key = draw(st.sampled_from(sorted(GOOD)))
    written = json.dumps(GOOD)
    return draw(
        st.one_of(
            st.just((json.dumps({k: v for k, v in GOOD.items() if k != key}).encode(), key)),
            st.sampled_from(["", " ", "\t\n"]).map(
                lambda blank: (json.dumps(GOOD | {key: blank}).encode(), key)
            ),
            NO_TEXT.map(lambda value: (json.dumps(GOOD | {any_key: value}).encode(), any_key)),
            st.text(max_size=8)
            .filter(lambda task: task not in ALL_TASKS)
            .map(lambda task: (json.dumps(GOOD | {"task": task}).encode(), "task")),
            HALF.map(lambda half: (json.dumps(GOOD | {any_key: "@"}).replace("@", half).encode(), any_key)),
            st.integers(1, len(written) - 1).map(lambda n: (written[:n].encode(), "not JSON")),
            st.sampled_from([b"\xff", b"\xc3(", b"\xed\xa0\x80"]).map(
                lambda raw: (written.encode() + raw, "not UTF-8")
            ),
            st.sampled_from(["[]", "3", '"a"', "null", "[{}]", "NaN"]).map(
                lambda text: (text.encode(), "not a JSON object")
            ),
            st.just((written[:-1].encode() + b', "answer": "4"}', "'answer' stands there twice")),
            st.just((b"[" * 100_000, "not JSON")),
            st.just((b'{"id": ' + b"9" * 5_000 + b"}", "not JSON")),
            st.sampled_from(["a\n", "\x00", "a\x1b[31m", "\u202ea"]).map(
                lambda name: (json.dumps(GOOD | {"id": name}).encode(), "id")
            ),
        )
    )


@settings(max_examples=400, **FUZZED)
@given(bad_line(), st.integers(0, 2))
def test_item_files(inputs, folder, bad, n_before):
    line, named = bad
    inputs.tried("items")
    good = [json.dumps(GOOD | {"id": f"good-{n}"}).encode() for n in range(n_before)]
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join([*good, line]))
    with pytest.raises(sources.DataError) as caught:
        sources.read_items(path)
    message = str(caught.value)
    assert f"train.jsonl, line {n_before + 1}" in message
    assert named in message, message
    assert len(message) < 900
    inputs.refused(caught.value, "items")


def test_item_files_that_hold_nothing_or_an_id_twice(inputs, folder):
    path = folder / "test.jsonl"
    line = json.dumps(GOOD).encode()
    for content in (b"", b"\n\n", b"   \n", line + b"\n" + line, line + b"\n\n\n" + line):
        inputs.tried("items")
        path.write_bytes(content)
        with pytest.raises(sources.DataError, match=r"test\.jsonl") as caught:
            sources.read_items(path)
        inputs.refused(caught.value, "items")


# --- released tables ---------------------------------------------------------------------------------------


@settings(max_examples=250, **FUZZED)
@given(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["flip", "cut", "insert", "empty", "header", "row", "number", "crlf"]),
    st.binary(min_size=1, max_size=4),
)
def test_released_tables(inputs, tmp_path_factory, share, how, more):
    whole = authors_tables.TABLE.read_bytes()
    place = int(share * len(whole))
    first, _, rest = whole.partition(b"\n")
    changed = {
        "flip": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        "cut": whole[:place],
        "insert": whole[:place] + more + whole[place:],
        "empty": b"",
        "header": first.replace(b" ", more + b",", 1) + b"\n" + rest,
        "row": whole + whole.split(b"\n")[-2] + b"\n",
        "number": whole[:place] + b"99.9" + whole[place:],
        "crlf": b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"),
    }[how]
    inputs.tried("tables")
    path = tmp_path_factory.getbasetemp() / "authors_tables.csv"
    path.write_bytes(changed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(authors_tables, "TABLE", path)
        with pytest.raises(ValueError, match="is damaged: SHA-256") as caught:
            authors_tables.cells()
    assert str(path) in str(caught.value)
    inputs.refused(caught.value, "tables")
