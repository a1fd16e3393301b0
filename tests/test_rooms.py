"""Rooms import only what their `__init__` allows, and importing the package does nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kdutils"
MODULE = ""  # the files at the top, the training module
MAY_IMPORT = {  # room -> rooms; also itself
    "io": (),
    "mini": ("io", MODULE),
    "data": ("io", "mini", MODULE),
    MODULE: ("io", "mini", "data"),
    "builds": ("io", "data", MODULE),
    "adapters": ("io", "data", "builds", MODULE),
    "penalties": ("io", "data", MODULE),
    "runs": ("io", "data", "builds", "adapters", "penalties", "devices", MODULE),
    "devices": ("io", "data", "runs", MODULE),
    "grid": ("io", "mini", "data", "devices", "runs", MODULE),
    "inference": ("io", "grid", MODULE),
    "results": ("io", "mini", "data", "grid", "runs", "inference", MODULE),
    "claims": ("io", "grid", "runs", "inference", "results", MODULE),
    "report": ("io", "mini", "data", "devices", "grid", "runs", "inference", "results", "claims", MODULE),
}
MAY_IMPORT["bench"] = (*MAY_IMPORT["report"], "report")
AT_ONE_DOOR = {
    "": {"mini": {"models.py", "spec.py"}},
    "runs": {"devices": {"experiment.py", "several_devices.py"}},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def room_of(path: Path) -> str:
    return "" if path.parent == PACKAGE else path.relative_to(PACKAGE).parts[0]


def imported(path: Path) -> set[str]:
    """Rooms of kdutils that a file imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == "kdutils"]
    rooms = set(MAY_IMPORT) - {MODULE}
    return {part[1] if len(part) > 1 and part[1] in rooms else MODULE for part in parts}


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(MAY_IMPORT) - {MODULE}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_stay_within_what_a_room_may_import(path):
    room = room_of(path)
    assert imported(path) - {room} <= set(MAY_IMPORT[room])


@pytest.mark.parametrize("room", AT_ONE_DOOR)
def test_some_rooms_are_reached_at_one_door(room):
    for other, door in AT_ONE_DOOR[room].items():
        assert {path.name for path in (PACKAGE / room).glob("*.py") if other in imported(path)} <= door


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) - {MODULE}))
def test_a_room_says_what_it_is_for_in_a_few_lines(room):
    text = (PACKAGE / room / "__init__.py").read_text()
    assert "Offers: " in text
    assert "May import: " in text
    assert len(text.splitlines()) < 9


def test_no_file_is_longer_than_a_reader_holds():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 350} == {}


def test_the_training_module_does_not_grow():
    assert sum(len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py")) <= 3_000


def test_the_reading_order_names_every_file_of_the_training_module():
    rows = [line for line in (PACKAGE / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+\.py)`", row.split("|")[1])]
    assert sorted(named) == sorted(path.name for path in PACKAGE.glob("[a-z]*.py"))


WRITES_ENVIRONMENT = {  # file -> why it must
    "io/child_processes.py": "a child's own, and what a fork server starts with, which takes it from ours",
    "report/runner.py": "the name of the run, for what is started from here on",
    "grid/ray_engine.py": "Ray reads its settings from there alone; a task's own",
    "grid/worker.py": "the GPUs of a worker, in that worker, before CUDA is loaded",
}


def writes_environment(path: Path) -> bool:
    def is_environment(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "environ"

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            if is_environment(node.value):
                return True
        elif isinstance(node, ast.AugAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
            if any(map(is_environment, targets)):
                return True
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            changes = ("update", "clear", "setdefault", "pop", "popitem", "putenv", "unsetenv")
            if node.func.attr in changes and (
                is_environment(node.func.value) or node.func.attr.endswith("env")
            ):
                return True
    return False


def test_the_environment_is_written_where_it_must_be_alone():
    found = {str(path.relative_to(PACKAGE)) for path in FILES if writes_environment(path)}
    assert found == set(WRITES_ENVIRONMENT)


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, typing; before = set(sys.modules); import kdutils; print(*(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["kdutils"]


def test_what_is_finished_is_found_without_torch():
    """Its import takes six seconds, in the driver and in every notebook."""
    code = (
        "import sys; from kdutils.grid import fill; from kdutils.report import live; "
        "from kdutils.claims import claims; "
        "from kdutils.results import agreement_fidelity, authors_tests, paradox; "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_links_of_the_readmes_lead_somewhere():
    """Every relative link of a README is to a file that is there, and its #part to a heading of that file."""
    root = PACKAGE.parent
    pages = [root / folder / "README.md" for folder in (".", "notebooks", "outputs/reference", "tests")]
    for page in [*pages, *PACKAGE.rglob("README.md")]:
        for target, part in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page}: {target}"
            if part:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                assert part in [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings]
