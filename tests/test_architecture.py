"""Data flows one way: a module imports only from its left. Importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdutils"
LEFT_TO_RIGHT = [
    "environment",
    "spec",
    "store",
    "runspec",
    "data",
    "models",
    "noise",
    "losses",
    "teacher",
    "generate",
    "train",
    "evaluate",
    "cells",
    "runs",
    "running",
    "published",
    "study",
    "stats",
    "evidence",
    "verdicts",
    "claims",
    "plots",
    "figures",
    "params",
    "ledger",
    "tables",
    "report",
    "render",
    "index",
    "worker",
    "executor",
    "runner",
    "__main__",
]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module: str) -> set[str]:
    """Modules of kdutils that a module names in an import statement, wherever it stands."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "kdutils":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdutils."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kdutils.")}
    return names


def test_every_module_has_its_place():
    assert sorted(LEFT_TO_RIGHT) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_the_left(module):
    place = LEFT_TO_RIGHT.index(module)
    assert imported(module) <= set(LEFT_TO_RIGHT[:place])


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, typing; before = set(sys.modules); import kdutils; print(*(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["kdutils"]


def test_what_the_package_offers_is_imported_when_asked_for():
    import kdutils
    from kdutils import running, runspec

    assert kdutils.run is running.run
    assert kdutils.RunSpec is runspec.RunSpec
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = kdutils.rum
