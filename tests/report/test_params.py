"""What a parameters cell may declare, and what may be given for it."""

from __future__ import annotations

import json
import math

import nbformat
import papermill
import pytest
from samples import write_notebook

from kdutils.report import notebook_parameters
from kdutils.report.notebook_parameters import Parameter, ParameterError


def parameter(kind: str, name: str = "x") -> Parameter:
    return Parameter(name=name, type=kind, default=None)


def declared_by(tmp_path, source: str) -> dict[str, Parameter]:
    return notebook_parameters.declared(write_notebook(tmp_path, "01_effectiveness", parameters=source))


def test_declaration_gives_name_type_default_and_help(tmp_path):
    source = (
        "# what is asked\n"
        'teacher: str | None = None  # hub id; "#" may stand here\n'
        "rate: float = 1\n"
        "seeds: list[int] = [  # training seeds\n    0,\n    1,\n]\n"
        'note: str = "a # b"\n'
        "offset: int = -3\n"
    )
    found = declared_by(tmp_path, source)
    assert [(p.name, p.type, p.default, p.help) for p in found.values()] == [
        ("teacher", "str | None", None, 'hub id; "#" may stand here'),
        ("rate", "float", 1.0, ""),
        ("seeds", "list[int]", [0, 1], "training seeds"),
        ("note", "str", "a # b", ""),
        ("offset", "int", -3, ""),
    ]
    assert type(found["rate"].default) is float


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("seed = 0", "use `name: type = literal`"),
        ("seed: int", "use `name: type = literal`"),
        ("import os", "use `name: type = literal`"),
        ("seed: int = 2 + 3", "derived value"),
        ("seed: int = other", "derived value"),
        ("seed: int = max(1, 2)", "derived value"),
        ("seed: dict[str, int] = {}", "dict[str, int]"),
        ("seed: None | int = 3", "None | int"),
        ('seed: int = "3"', "is not int"),
        ("seed: int = 3.0", "is not int"),
        ("seed: int = True", "is not int"),
        ("seeds: list[int] = []", "is not list[int]"),
        ("_seed: int = 0", "underscore"),
        ('selection: str = "best_on_tset"', "did you mean 'best_on_test'?"),
        ("first: int = 1", "declared twice"),
        ("%matplotlib inline", "not Python"),
        ('text: str = """', "not Python"),
    ],
)
def test_bad_declaration_is_refused_with_file_and_line(tmp_path, line, complaint):
    with pytest.raises(ParameterError) as caught:
        declared_by(tmp_path, f"first: int = 0\n{line}\n")
    message = str(caught.value)
    assert complaint in message
    assert "01_effectiveness.ipynb" in message
    assert "line 2" in message
    assert "\n" not in message


@pytest.mark.parametrize("n_tagged", [0, 2])
def test_exactly_one_cell_is_tagged(tmp_path, n_tagged):
    path = write_notebook(tmp_path, "01_effectiveness", "a = 1", "b = 2")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for place, cell in enumerate(code):
        cell.metadata["tags"] = ["parameters"] if place < n_tagged else []
    nbformat.write(notebook, path)
    with pytest.raises(ParameterError, match=f"{n_tagged} cells are tagged 'parameters'; tag exactly one"):
        notebook_parameters.declared(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": [1]}', json.dumps({"cells": None})])
def test_file_that_is_no_notebook_is_refused(tmp_path, content):
    path = tmp_path / "01_effectiveness.ipynb"
    path.write_text(content)
    with pytest.raises(ParameterError, match="not a Jupyter notebook"):
        notebook_parameters.declared(path)


def test_missing_notebook_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="cannot be read"):
        notebook_parameters.declared(tmp_path / "01_effectiveness.ipynb")


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("str", "3", "3"),
        ("str", "none", "none"),  # text like any other where None is not allowed
        ("int", "3", 3),
        ("int", " -3 ", -3),
        ("float", "1e-4", 1e-4),
        ("float", "3", 3.0),
        ("float", 3, 3.0),
        ("bool", "True", True),
        ("bool", "false", False),
        ("str | None", "None", None),
        ("int | None", "null", None),
        ("float | None", None, None),
        ("list[str]", "a, b", ["a", "b"]),
        ("list[str]", '["a", "b,c"]', ["a", "b,c"]),
        ("list[int]", "7", [7]),
        ("list[float]", "[1, 2.5]", [1.0, 2.5]),
        ("list[float]", [1, 2], [1.0, 2.0]),
        ("list[int] | None", "none", None),
    ],
)
def test_value_is_read_as_the_declared_type(kind, given, expected):
    found = notebook_parameters.coerce(parameter(kind), given)
    assert found == expected
    assert repr(found) == repr(expected)  # 3.0 is not 3


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("int", "3.0"),
        ("int", "three"),
        ("int", ""),
        ("int", "none"),
        ("int", True),
        ("int", 3.0),
        ("int", None),
        ("float", "nan"),
        ("float", "-inf"),
        ("float", "1e999"),
        ("float", math.nan),
        ("float", math.inf),
        ("float", True),
        ("float", 10**400),
        ("bool", "1"),
        ("bool", 1),
        ("str", 3),
        ("str", "two\nlines"),
        ("str", "\udcff"),
        ("list[int]", "[]"),
        ("list[int]", ""),
        ("list[int]", []),
        ("list[int]", "1,1"),
        ("list[int]", "[1, true]"),
        ("list[int]", "[1,"),
        ("list[int]", "[" * 100_000),
        ("list[int]", (1, 2)),
        ("list[int]", ["1"]),
        ("list[float]", "[NaN]"),
        ("list[float]", "1,1.0"),
        ("list[str]", "a,,b"),
        ("list[str]", "[[1]]"),
    ],
)
def test_wrong_value_is_refused_in_one_line_with_the_remedy(kind, given):
    with pytest.raises(ParameterError) as caught:
        notebook_parameters.coerce(parameter(kind), given)
    message = str(caught.value)
    assert message.startswith("x=")
    assert f"is not {kind}; give " in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    ("name", "kind", "given", "hint"),
    [
        ("selection", "str", "best_on_tset", "did you mean 'best_on_test'?"),
        ("profile", "str", "publised", "did you mean 'published'?"),
        ("methods", "list[str]", "fkl,revk", "did you mean 'revkd'?"),
        ("methods", "list[str]", "sft", "choose from fkl, seqkd, revkd, gkd"),
    ],
)
def test_choices_hold_for_text_and_for_each_element(name, kind, given, hint):
    with pytest.raises(ParameterError, match="choose from") as caught:
        notebook_parameters.coerce(parameter(kind, name), given)
    assert hint in str(caught.value)


def test_choices_do_not_concern_numbers():
    assert notebook_parameters.coerce(parameter("int", "tasks"), "3") == 3


def test_check_reads_every_value(tmp_path):
    found = declared_by(tmp_path, "seed: int = 0\nrate: float = 1e-3\n")
    assert notebook_parameters.check(found, {"rate": "1", "seed": "2"}) == {"rate": 1.0, "seed": 2}
    assert notebook_parameters.check(found, {}) == {}


def test_check_lists_what_is_declared_and_guesses_what_was_meant(tmp_path):
    found = declared_by(tmp_path, 'selection: str = "best_on_test"\nseeds: list[int] = [0]\n')
    with pytest.raises(ParameterError) as caught:
        notebook_parameters.check(found, {"selction": "x"})
    assert "'selction' (did you mean 'selection'?)" in str(caught.value)
    assert "selection: str, seeds: list[int]" in str(caught.value)


@pytest.mark.parametrize("name", ["x=0;import os", "x y", "", "1st", "class", "None", "x\n", 3])
def test_names_that_would_be_run_as_code_are_refused_before_any_value(tmp_path, name):
    found = declared_by(tmp_path, "seed: int = 0\n")
    with pytest.raises(ParameterError, match="not a Python identifier") as caught:
        notebook_parameters.check(found, {name: "1", "seed": "wrong"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", sorted(notebook_parameters.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_papermill_finds_what_a_notebook_declares(path, caplog):
    """Its own reading of the cell, which warns of given parameters that it has not found."""
    found = papermill.inspect_notebook(path)
    declared = notebook_parameters.declared(path)
    assert list(found) == list(declared)
    for name, parameter in declared.items():
        assert found[name]["inferred_type_name"] == parameter.base
        assert found[name]["help"] == parameter.help != ""
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_default_of_none_makes_none_a_value(tmp_path):
    found = declared_by(tmp_path, "seeds: list[int] = None\nother: list[int] = [1]\n")
    assert found["seeds"].type == "list[int] | None"
    assert notebook_parameters.coerce(found["seeds"], "none") is None
    with pytest.raises(ParameterError):
        notebook_parameters.coerce(found["other"], "none")
