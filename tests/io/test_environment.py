"""The lock, the check of it, and the record of what a run ran in."""

from __future__ import annotations

import ast
import getpass
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from kdutils.io import environment

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "kdutils" / "io" / "environment.py"
LOCK = REPOSITORY / "requirements.lock"
HERE = f"pytest=={metadata.version('pytest')}"  # a pin that whoever runs these tests satisfies


@pytest.fixture
def lock(tmp_path):
    def write(*lines: str) -> Path:
        path = tmp_path / "requirements.lock"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def installed(monkeypatch):
    """Replaces what this interpreter has by the given names and versions."""

    def pretend(**versions: str) -> None:
        def version(name: str) -> str:
            try:
                return versions[name.replace("-", "_")]
            except KeyError:
                raise metadata.PackageNotFoundError(name) from None

        monkeypatch.setattr(environment.metadata, "version", version)

    return pretend


# --- pins and unsatisfied -----------------------------------------------------------------------


def test_unsatisfied_names_what_is_missing_and_what_differs(lock, installed):
    installed(one="1.0", two="2.1")
    path = lock("# made by hand", "", "one==1.0", "two==2.0", "three==3.0")
    assert environment.unsatisfied(path) == ["two==2.0 (has 2.1)", "three==3.0 (not installed)"]


@pytest.mark.parametrize(
    ("pinned", "found", "satisfied"),
    [
        ("2.13.0", "2.13.0", True),
        ("2.13.0", "2.13.0+cpu", True),
        ("2.13.0", "2.13.0+cu130", True),
        ("2.13.0+cpu", "2.13.0+cpu", True),
        ("2.13.0+cpu", "2.13.0", False),
        ("2.13.0", "2.13.00", False),
        ("2.13", "2.13.0", False),
        ("2.13.0", "2.13.0rc1", False),
    ],
)
def test_a_local_version_label_counts_only_if_it_is_pinned(lock, installed, pinned, found, satisfied):
    installed(torch=found)
    assert (environment.unsatisfied(lock(f"torch=={pinned}")) == []) is satisfied


def test_names_are_compared_in_their_normal_form(lock, installed):
    installed(jupyter_builder="1.0", zope_interface="2.0")
    assert environment.unsatisfied(lock("Jupyter_Builder==1.0", "zope.interface==2.0")) == []


def test_a_package_with_damaged_metadata_is_not_installed(lock, monkeypatch):
    monkeypatch.setattr(environment.metadata, "version", lambda name: None)
    assert environment.unsatisfied(lock("one==1.0")) == ["one==1.0 (not installed)"]


def test_hashes_are_pips_to_check_and_a_marked_pin_is_for_some_platforms(lock):
    a_hash = f"    --hash=sha256:{'0' * 64}"
    two = "two==2 ; sys_platform == 'darwin' \\"
    assert environment.pins(lock("one==1 \\", f"{a_hash} \\", a_hash, two, a_hash)) == {"one": "1"}


@pytest.mark.parametrize(
    "line",
    [
        "one",
        "one>=1",
        "one==1.*",
        "one==",
        "one @ file:///tmp/one.whl",
        "-e .",
        "-r other.txt",
        "one==1; python",
        "--hash=sha256:0",
    ],
)
def test_a_line_that_pins_nothing_is_refused(lock, line):
    with pytest.raises(ValueError, match="line 2: .* is not `name==version`"):
        environment.pins(lock("zero==0", line))


def test_a_package_pinned_twice_is_refused(lock):
    with pytest.raises(ValueError, match="line 2: one-two is pinned twice"):
        environment.pins(lock("one_two==1", "One.Two==1"))


def test_an_empty_lock_is_refused(lock):
    with pytest.raises(ValueError, match="pins nothing"):
        environment.pins(lock("# all gone"))


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), st.integers(0, 99), min_size=1))
def test_pins_reads_back_what_a_lock_says(tmp_path_factory, versions):
    path = tmp_path_factory.mktemp("lock") / "lock"
    path.write_text("".join(f"{name}==1.{minor}\n" for name, minor in versions.items()))
    assert environment.pins(path) == {name: f"1.{minor}" for name, minor in versions.items()}


# --- as a script --------------------------------------------------------------------------------


def check(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", SCRIPT, "check", *arguments], capture_output=True, text=True, check=False
    )


def test_script_is_silent_about_a_satisfied_lock(lock):
    done = check(lock(HERE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_script_shows_a_few_unsatisfied_pins(lock):
    done = check(lock(*(f"absent-{number}==1" for number in range(9)), HERE), "--show", "2")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "absent-0==1 (not installed)",
        "absent-1==1 (not installed)",
        "and 7 more",
    ]


@pytest.mark.parametrize("content", [None, "one\n"])
def test_script_refuses_a_lock_it_cannot_read(tmp_path, content):
    path = tmp_path / "requirements.lock"
    if content is not None:
        path.write_text(content)
    done = check(path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "requirements.lock" in done.stderr


def test_an_old_python_can_read_the_file_and_nothing_else_is_needed():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported <= set(sys.stdlib_module_names)


# --- provenance ---------------------------------------------------------------------------------


def test_provenance_is_strict_json_with_the_versions_that_matter():
    record = json.loads(json.dumps(environment.provenance(), allow_nan=False))
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["cpu_count"] == os.cpu_count()
    assert record["packages"]["numpy"] == metadata.version("numpy")
    assert set(record["git"]) == {"commit", "dirty"}
    assert len(record["lock_sha256"]) == 64


def test_provenance_tells_nothing_about_user_host_or_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdefghijklmnop")
    text = json.dumps(environment.provenance())
    assert "hf_0123456789" not in text
    assert str(Path.home()) not in text
    assert environment.platform.node() not in text
    words = text.replace('"', " ").replace("-", " ").split()
    assert getpass.getuser() not in words


def recorded(folder: Path) -> dict:
    """`provenance()` of the copy of kdutils in `folder`."""
    code = "import json; from kdutils.io import environment; print(json.dumps(environment.provenance()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of this module as its own package, and no lock."""
    package = tmp_path / "study" / "kdutils"
    (package / "io").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "io" / "environment.py").write_bytes(SCRIPT.read_bytes())
    (package.parent / ".gitignore").write_text("__pycache__/\n")
    return package.parent


def test_git_state_of_a_folder_without_git_is_unknown(copy):
    record = recorded(copy)
    assert record["git"] == {"commit": None, "dirty": None}
    assert record["lock_sha256"] is None


def test_git_state_follows_the_checkout(copy):
    git(copy, "init", "--quiet")
    assert recorded(copy)["git"] == {"commit": None, "dirty": True}  # nothing committed yet
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "--message", "one")
    commit = git(copy, "rev-parse", "HEAD")
    assert recorded(copy)["git"] == {"commit": commit, "dirty": False}
    (copy / "kdutils" / "extra.py").touch()
    assert recorded(copy)["git"] == {"commit": commit, "dirty": True}


def test_a_copy_installed_inside_somebody_elses_checkout_is_not_part_of_it(copy):
    git(copy.parent, "init", "--quiet")
    assert recorded(copy)["git"] == {"commit": None, "dirty": None}


def test_git_state_without_the_git_program_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert environment.git_state() == {"commit": None, "dirty": None}


# --- the lock and what surrounds it -------------------------------------------------------------


def test_the_lock_has_the_hash_of_every_file():
    text = LOCK.read_text(encoding="utf-8")
    assert "uv pip compile pyproject.toml" in text.splitlines()[1]  # how it is made
    entries = re.split(r"^(?=[^#\s])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 175
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    names = [entry.split("==")[0] for entry in entries]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert environment.pins(LOCK)["torch"] == "2.13.0"
    assert not any(name.startswith(("nvidia", "triton", "appnope")) for name in environment.pins(LOCK))


def test_every_declared_dependency_is_pinned_within_its_bounds():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = environment.pins(LOCK)
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert pinned[environment.normalised(requirement.name)] in requirement.specifier, text


def test_conda_takes_its_versions_from_the_lock():
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == "kdutils"
    assert conda["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.lock"]}]
