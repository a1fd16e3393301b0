"""Data flows one way: a module imports only from its left. Importing does nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdutils"
LEFT_TO_RIGHT = [
    "environment",
    "plaintext",
    "profilefile",
    "spec",
    "usercache",
    "store",
    "lease",
    "engine",
    "pool",
    "shares",
    "cluster",
    "items",
    "mini",
    "runspec",
    "factors",
    "gguf_header",
    "contamination",
    "evaluate",
    "gold",
    "release",
    "benchmark",
    "packaged",
    "material",
    "hub",
    "architecture",
    "machines",
    "lengths",
    "formulas",
    "estimate",
    "data",
    "noise",
    "losses",
    "models",
    "runs",
    "world",
    "states",
    "teacher",
    "generate",
    "sharded",
    "train",
    "ranks",
    "cells",
    "plan",
    "weights",
    "handover",
    "prospect",
    "dryrun",
    "texts",
    "livecells",
    "checks",
    "answers",
    "harness",
    "running",
    "rank",
    "schedule",
    "shards",
    "filling",
    "grid",
    "work",
    "gridcost",
    "peers",
    "contenders",
    "roofline",
    "sidebyside",
    "growth",
    "decoding",
    "measurements",
    "keeping",
    "performance",
    "ladder",
    "resampling",
    "adjustment",
    "inference",
    "published",
    "study",
    "likeness",
    "sweeps",
    "examples",
    "stats",
    "crossed",
    "closeness",
    "solutions",
    "capa",
    "paradox",
    "itempairs",
    "itemwise",
    "halves",
    "heldout",
    "batches",
    "nulls",
    "simulations",
    "itemsimulations",
    "calibration",
    "beside",
    "arms",
    "protocols",
    "scoring",
    "evidence",
    "verdicts",
    "itemverdicts",
    "declared",
    "students",
    "optimism",
    "strictgains",
    "strictlinks",
    "strictsweeps",
    "strict",
    "claims",
    "sensitivity",
    "answersheet",
    "studentgains",
    "plots",
    "figures",
    "strictfigures",
    "speedfigures",
    "calibrationfigures",
    "live",
    "params",
    "ledger",
    "tables",
    "report",
    "render",
    "index",
    "kernels",
    "worker",
    "executor",
    "runner",
    "__main__",
    "preloaded",
]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__") + ["mini"]
MINI_LEFT_TO_RIGHT = [
    *("world", "problem", "templates", "arithmetic", "commonsense", "instructions", "items", "texts"),
    *("tokenizer", "family", "network", "pretrain"),
]


def imported(module: str) -> set[str]:
    """Modules of kdutils that a module names in an import statement, wherever it stands."""
    names = set()
    folder = PACKAGE / module
    for path in sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{module}.py"]:
        names |= {name.split(".")[0] for name in names_imported(path, "kdutils")}
    return names - {module}


def names_imported(path: Path, package: str) -> set[str]:
    """Modules of a package that a file imports, without the package's name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            names.add(node.module.removeprefix(f"{package}."))
        elif isinstance(node, ast.Import):
            names |= {
                a.name.removeprefix(f"{package}.") for a in node.names if a.name.startswith(f"{package}.")
            }
    return names


def test_every_module_has_its_place():
    assert sorted(LEFT_TO_RIGHT) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_the_left(module):
    place = LEFT_TO_RIGHT.index(module)
    assert imported(module) <= set(LEFT_TO_RIGHT[:place])


@pytest.mark.parametrize("module", MINI_LEFT_TO_RIGHT)
def test_imports_within_the_mini_world_point_to_the_left(module):
    place = MINI_LEFT_TO_RIGHT.index(module)
    inner = names_imported(PACKAGE / "mini" / f"{module}.py", "kdutils.mini")
    assert inner <= set(MINI_LEFT_TO_RIGHT[:place])


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


def test_what_is_finished_is_found_without_torch():
    """Its import takes six seconds, in the driver and in every notebook."""
    modules = "grid, likeness, examples, study, live, claims, stats"
    code = f"import sys; from kdutils import {modules}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_what_notebooks_import_is_loaded_before_they_are_forked():
    sources = []
    for path in sorted((PACKAGE.parent / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    trees = [node for source in sources for node in ast.walk(ast.parse(source))]
    wanted = {alias.name for node in trees if isinstance(node, ast.Import) for alias in node.names}
    for node in trees:
        if isinstance(node, ast.ImportFrom):
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "kdutils"}
            wanted |= {node.module}
    code = "import sys, threading, kdutils.preloaded; print(threading.active_count(), *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_threads, *loaded = run.stdout.split()
    assert {"kdutils.report", "pandas"} <= wanted <= set(loaded)
    assert n_threads == "1"
    assert "torch" not in loaded
