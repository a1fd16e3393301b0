"""Notebooks call, show and explain: they define nothing, are thin, and carry no outputs."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from kdutils.grid import study
from kdutils.grid.profile import PARAMETER_CHOICES, load_profile
from kdutils.grid.study import SECTIONS
from kdutils.report import notebook_parameters

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_every_section_and_no_other():
    assert [path.stem for path in NOTEBOOKS] == list(study.NOTEBOOKS)
    paper = sorted([*SECTIONS.values(), *study.BEYOND.values()])
    assert list(load_profile("published").notebooks) == [*paper, "10_calibration"]


def test_title_is_a_question(notebook):
    title = notebook.cells[0].source.split("\n")[0]
    assert title.startswith("# ")
    assert title.endswith("?")
    assert "*Reads*" in notebook.cells[0].source
    assert "*Writes*" in notebook.cells[0].source


def test_cells_are_thin_and_define_nothing(notebook):
    for cell in code_cells(notebook):
        lines = 20 if "parameters" in cell.metadata.get("tags", []) else 12  # those only declare
        assert cell.source.count("\n") < lines, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def test_committed_without_outputs(notebook):
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_kernel_is_python3(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in json.dumps(notebook.metadata)


def test_check_comes_right_after_the_parameters_and_finish_last(notebook):
    cells = code_cells(notebook)
    tagged = [index for index, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [0]
    assert "notebook_api.begin(" in cells[1].source
    assert cells[-1].source == "run.finish()"


def test_what_a_notebook_says_comes_last(notebook):
    closing = code_cells(notebook)[-2].source
    assert closing.startswith(("section.says(", "run.conclusion("))
    assert not re.search(r"\d", closing)  # its numbers are computed


def test_no_long_paragraph_stands_in_two_notebooks():
    places: dict[str, set[str]] = {}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            for paragraph in cell.source.split("\n\n") if cell.cell_type == "markdown" else ():
                if len(paragraph.split()) > 60:
                    places.setdefault(paragraph, set()).add(path.stem)
    assert {text: names for text, names in places.items() if len(names) > 1} == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_declared_and_their_defaults_allowed(path):
    declared = notebook_parameters.declared(path)
    assert {"profile", "out"} <= set(declared)
    for name, parameter in declared.items():
        values = parameter.default if isinstance(parameter.default, list) else [parameter.default]
        values = [value for value in values if value is not None or not parameter.optional]
        assert set(values) <= set(PARAMETER_CHOICES.get(name, values))
        assert parameter.help
