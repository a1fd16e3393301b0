"""run_all.sh: which environment it takes, how it makes one, and what it says when it cannot.

The script runs in a copy of its own with a PATH that holds the tools it needs and stubs in place of
Python, so that no test needs the network or the time of a real set-up, except the last two: they use
a real venv and a real pip, without an index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import slow_tests

from kdutils.io import disk, environment

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "requirements.lock"
TOOLS = [
    *("awk", "bash", "cat", "cmp", "cp", "cut", "date", "df", "dirname", "env", "flock", "grep", "mkdir"),
    *("mv", "paste", "readlink", "rm", "sed", "sleep", "tail", "touch"),
]
INGREDIENTS = ("requirements.lock", "requirements-cpu.lock", "pyproject.toml", "environment.yml")

# Stands for a Python. It writes down how it was called; as `-m venv` it copies itself; what it has
# installed is the file `installed` beside its folder, which `pip install -r` makes.
STUB = """#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
  *fcntl*) exec "$REAL_PYTHON" "$@" ;;
  "-c "*) echo VERSION ;;
  "-P "*) case VERSION in 3.[0-9].*|3.10.*) echo "Unknown option: -P" >&2; exit 2 ;; esac ;;&
  *"environment.py check"*)
    [ -e "$here/../installed" ] || { echo "torch==2.13.0 (not installed)"; exit 1; } ;;
  "-I -m venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-I -m pip "*" -r requirements-cpu.lock") [ -e "$CONTROL/torch_for_cpus" ] ;;
  "-I -m pip "*" --require-hashes -r "*requirements.lock)
    [ ! -e "$CONTROL/pip_hangs" ] || sleep 30
    [ ! -e "$CONTROL/pip_takes_a_second" ] || sleep 1
    if [ -e "$CONTROL/pip_fails" ]; then cat "$CONTROL/pip_fails"; exit 1; fi
    [ -e "$CONTROL/pip_does_nothing" ] || touch "$here/../installed"
    ;;
  "-I -m pip "*"pip>="*) exit 1 ;;
  "-I -m pip "*" check") ;;
  "-I -m pip "*"install --no-deps"*) [ ! -e "$CONTROL/editable_fails" ] ;;
  "-P -m "*)
    if { true >&9; } 2>/dev/null; then echo "the lock of the set-up is still held" >&2; exit 98; fi
    bytecode=${PYTHONDONTWRITEBYTECODE:-written}
    printf '%s\\0' "$PWD" "$PYTHONPATH" "$here" "$bytecode" "${@:3}"; exit "${STUDY_EXIT_CODE:-0}" ;;
  *) echo "the stub was asked: $*" >&2; exit 99 ;;
esac
"""


class Copy:
    """A copy of the script with all that it reads, in a folder whose name has spaces."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a copy of the study"
        self.bin = folder / "bin"
        self.control = folder / "control"
        self.calls_file = folder / "calls"
        for path in (self.root / "kdutils" / "io", self.bin, self.control):
            path.mkdir(parents=True)
        for name in ("run_all.sh", *INGREDIENTS):
            shutil.copy(REPOSITORY / name, self.root / name)
        shutil.copy(REPOSITORY / "kdutils" / "io" / "environment.py", self.root / "kdutils" / "io")
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "CALLS": str(self.calls_file),
            "CONTROL": str(self.control),
            "REAL_PYTHON": sys.executable,
            "KDUTILS_MIN_DISK_GB": "0",
        }

    def add_python(self, name: str = "python3", version: str = "3.12.1", satisfied: bool = False) -> Path:
        """A stub on PATH, in a folder of its own so that `installed` is not shared."""
        home = self.bin.parent / f"{name}-{version}"
        (home / "bin").mkdir(parents=True)
        program = home / "bin" / name
        program.write_text(STUB.replace("VERSION", version))
        program.chmod(0o755)
        if satisfied:
            (home / "installed").touch()
        self.environment["PATH"] = f"{home / 'bin'}:{self.environment['PATH']}"
        return program

    def add_command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)

    def control_file(self, name: str, text: str = "") -> Path:
        path = self.control / name
        path.write_text(text)
        return path

    def start(self, *arguments: str, cwd: Path | None = None, script: Path | None = None, **environment: str):
        return subprocess.Popen(
            [script or self.root / "run_all.sh", *arguments],
            cwd=cwd or self.root.parent,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **options)
        output, errors = process.communicate(timeout=140)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def calls(self) -> list[str]:
        """How the stubs were called since the last time this was asked."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return lines

    def venv_is_stamped(self) -> bool:
        return (self.root / ".venv" / "kdutils.stamp").exists()


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def installs(calls: list[str]) -> int:
    return sum(call.endswith("requirements.lock") and " -r " in call for call in calls)


def asked(done: subprocess.CompletedProcess) -> dict:
    """What the study was asked in the end, from the stub's own record."""
    assert done.returncode == 0, done.stderr
    cwd, pythonpath, python, bytecode, *arguments = done.stdout.removesuffix("\0").split("\0")
    found = {"cwd": cwd, "pythonpath": pythonpath, "python": python, "bytecode": bytecode}
    return found | {"arguments": arguments}


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one line on stderr that a failure consists of; set-up's own announcement may precede it."""
    assert done.returncode not in (0, 99), done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if " once, some minutes (log: " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("run_all.sh: ")
    return lines[0]


# --- which Python -------------------------------------------------------------------------------


def test_help_needs_no_python(copy):
    for flag in ("--help", "-h"):
        done = copy.run(flag)
        assert done.returncode == 0
        assert done.stdout.startswith("Usage:")
        assert "KDUTILS_ENV" in done.stdout
    assert copy.calls() == []


def test_an_active_python_that_satisfies_the_lock_is_used_as_it_is(copy):
    python = copy.add_python(satisfied=True)
    assert asked(copy.run("published"))["python"] == str(python.parent)
    assert not (copy.root / ".venv").exists()
    check, study = copy.calls()  # one look at the lock is all that it costs
    assert "environment.py check" in check
    assert study == "-P -m kdutils published"


def test_an_active_python_that_does_not_is_left_alone(copy):
    copy.add_python()
    assert asked(copy.run("published"))["python"] == str(copy.root / ".venv" / "bin")
    assert copy.venv_is_stamped()
    assert installs(copy.calls()) == 1


def test_in_an_active_venv_it_is_python_that_counts(copy):
    copy.add_python(satisfied=False)
    inside = copy.add_python("python", satisfied=True)
    assert asked(copy.run(VIRTUAL_ENV=str(inside.parent.parent)))["python"] == str(inside.parent)
    assert asked(copy.run())["python"] == str(copy.root / ".venv" / "bin")


def test_venv_is_made_even_if_the_active_python_would_do(copy):
    copy.add_python(satisfied=True)
    assert asked(copy.run(KDUTILS_ENV="venv"))["python"] == str(copy.root / ".venv" / "bin")


def test_bytecode_is_written_into_our_own_environment_only(copy):
    copy.add_python(satisfied=True)
    assert asked(copy.run(PYTHONDONTWRITEBYTECODE="1", KDUTILS_ENV="venv"))["bytecode"] == "written"
    assert asked(copy.run(PYTHONDONTWRITEBYTECODE="1", KDUTILS_ENV="active"))["bytecode"] == "1"


@pytest.mark.parametrize("choice", ["auto", "active", "venv"])
def test_too_old_a_python_is_named(copy, choice):
    python = copy.add_python(version="3.8.10", satisfied=True)
    line = refusal(copy.run("published", KDUTILS_ENV=choice))
    assert "Python 3.11 or newer is needed" in line
    assert f"found Python 3.8.10 ({python})" in line
    assert "install python3.11" in line
    assert not (copy.root / ".venv").exists()


@pytest.mark.parametrize("choice", ["auto", "active", "venv"])
def test_no_python_at_all(copy, choice):
    assert "no Python was found" in refusal(copy.run("published", KDUTILS_ENV=choice))


def test_a_newer_python_on_the_path_makes_the_venv(copy):
    copy.add_python(version="3.9.18")
    newer = copy.add_python("python3.11", version="3.11.7")
    copy.add_command("python3.12", "exit 127")  # what a shim of a version that is not selected does
    assert asked(copy.run())["python"] == str(copy.root / ".venv" / "bin")
    assert (copy.root / ".venv" / "bin" / "python").read_text() == newer.read_text()


@pytest.mark.parametrize(("version", "accepted"), [("3.10.14", False), ("3.11.0", True), ("4.0.0", True)])
def test_the_oldest_python_that_is_accepted(copy, version, accepted):
    copy.add_python(version=version, satisfied=True)
    done = copy.run(KDUTILS_ENV="active")
    if accepted:
        assert asked(done)
    else:
        assert f"found Python {version}" in refusal(done)


def test_active_with_an_unsatisfied_lock_lists_the_first_pins(copy):
    python = copy.add_python()
    line = refusal(copy.run(KDUTILS_ENV="active"))
    assert f"{python} does not satisfy requirements.lock: torch==2.13.0 (not installed)" in line
    assert "unset KDUTILS_ENV" in line
    assert not (copy.root / ".venv").exists()


def test_an_unknown_choice_is_refused(copy):
    copy.add_python(satisfied=True)
    line = refusal(copy.run(KDUTILS_ENV="docker"))
    assert "KDUTILS_ENV=docker is unknown: use auto, active, venv or conda" in line
    assert copy.calls() == []


# --- what is passed on --------------------------------------------------------------------------


def test_arguments_reach_the_study_unchanged(copy, tmp_path):
    copy.add_python(satisfied=True)
    arguments = [
        "published",
        "-p",
        "title",
        "two  words",
        "--out",
        "a dir/*",
        "",
        "$HOME `x` \"'",
        "-x",
        "--test",
    ]
    request = asked(copy.run(*arguments, cwd=tmp_path))
    assert request["arguments"] == ["kdutils", *arguments]
    assert request["cwd"] == str(tmp_path)  # so that a relative --out is the caller's
    assert request["pythonpath"] == str(copy.root)


def test_no_arguments_stay_none(copy):
    copy.add_python(satisfied=True)
    assert asked(copy.run())["arguments"] == ["kdutils"]


def test_the_callers_pythonpath_comes_second(copy):
    copy.add_python(satisfied=True)
    assert asked(copy.run(PYTHONPATH="/x:/y"))["pythonpath"] == f"{copy.root}:/x:/y"


def test_a_symlink_finds_the_study(copy, tmp_path):
    copy.add_python()
    link = tmp_path / "elsewhere" / "study link"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(copy.root / "run_all.sh", link.parent))
    request = asked(copy.run("published", script=link, cwd=tmp_path))
    assert request["pythonpath"] == str(copy.root)
    assert copy.venv_is_stamped()


@pytest.mark.parametrize(
    ("given", "expected", "covered"),
    [
        ([], ["-m", "not slow"], False),
        (["all", "-x"], ["--cov-report=term", "-x"], True),
        (["-k", "one or two"], ["-k", "one or two"], True),
        (["faults", "-x"], ["-m", "faults or inputs", "-x"], False),  # the report would come last
        (["gpu", "-x"], ["-m", "gpu", "-x", "tests/gpu"], False),
    ],
)
def test_tests_run_from_the_root(copy, tmp_path, given, expected, covered):
    copy.add_python(satisfied=True)
    request = asked(copy.run("--test", *given, cwd=tmp_path))
    assert request["cwd"] == str(copy.root)
    assert request["arguments"][0] == "pytest"
    assert request["arguments"][-len(expected) :] == expected
    assert ("--cov=kdutils" in request["arguments"]) is covered
    assert "all" not in request["arguments"]


def test_the_list_of_slow_tests_names_tests_that_are_there():
    for name in slow_tests():
        path, _, function = name.partition("::")
        assert (REPOSITORY / "tests" / path).exists(), name
        assert not function or f"def {function}" in (REPOSITORY / "tests" / path).read_text(), name


def test_the_numbers_are_checked(copy):
    copy.add_python(satisfied=True)
    assert asked(copy.run("--check", "--minutes", "1"))["arguments"] == [
        "kdutils.report.codecheck",
        "--minutes",
        "1",
    ]


@pytest.mark.parametrize("mode", [[], ["--test"]])
def test_the_exit_code_is_that_of_the_study(copy, mode):
    copy.add_python(satisfied=True)
    assert copy.run(*mode, STUDY_EXIT_CODE="7").returncode == 7


# --- set-up -------------------------------------------------------------------------------------


def test_a_stamp_makes_the_second_call_skip_the_set_up(copy):
    copy.add_python()
    first = copy.run("published", KDUTILS_ENV="venv")
    assert ".venv is ready after" in first.stderr
    assert installs(copy.calls()) == 1
    second = copy.run("published", KDUTILS_ENV="venv")
    assert second.stderr == ""
    assert copy.calls() == ["-P -m kdutils published"]


@pytest.mark.parametrize("name", INGREDIENTS)
def test_a_changed_lock_or_project_renews_the_venv(copy, name):
    copy.add_python()
    copy.run()
    leftover = copy.root / ".venv" / "leftover"
    leftover.touch()
    copy.calls()
    with (copy.root / name).open("a") as file:
        file.write("# changed\n")
    assert copy.run().returncode == 0
    assert installs(copy.calls()) == 1
    assert not leftover.exists()


def test_a_moved_folder_renews_the_venv(copy):
    copy.add_python()
    copy.run()
    copy.calls()
    moved = copy.root.with_name("moved")
    copy.root.rename(moved)
    copy.root = moved
    assert asked(copy.run())["python"] == str(moved / ".venv" / "bin")
    assert installs(copy.calls()) == 1


def test_a_venv_that_lost_its_python_is_renewed(copy):
    copy.add_python()
    copy.run()
    (copy.root / ".venv" / "bin" / "python").unlink()
    copy.calls()
    assert copy.run().returncode == 0
    assert installs(copy.calls()) == 1


@pytest.mark.parametrize("for_cpus", [True, False])
def test_cudas_libraries_come_with_the_torch_that_needs_them(copy, for_cpus):
    copy.add_python()
    if for_cpus:
        copy.control_file("torch_for_cpus")
    assert copy.run().returncode == 0
    (call,) = [call for call in copy.calls() if installs([call])]
    without = copy.root / ".venv" / "requirements.lock"
    assert call.endswith(f" --require-hashes -r {without if for_cpus else 'requirements.lock'}")
    cuda = re.compile("^(cuda|nvidia|triton)", re.MULTILINE)
    assert cuda.search(LOCK.read_text())
    if for_cpus:
        assert environment.pins(without) == environment.pins(LOCK)
        assert not cuda.search(without.read_text())


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No match",
            "no network: ",
        ),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk (or TMPDIR) is full"),
        (
            "ERROR: No matching distribution found for torch==2.13.0\n",
            "No matching distribution found for torch",
        ),
        ("created because ensurepip is not\navailable.", "Debian: python3-venv"),
        ("Segmentation fault\n", "Segmentation fault"),
    ],
)
def test_a_failed_install_says_why_and_the_next_call_repairs_it(copy, log, said):
    copy.add_python()
    failing = copy.control_file("pip_fails", log)
    line = refusal(copy.run("published"))
    assert said in line
    assert "call again" in line
    assert f"(log: {copy.root / '.venv-setup.log'})" in line
    assert log.strip() in (copy.root / ".venv-setup.log").read_text()
    assert not copy.venv_is_stamped()

    failing.unlink()
    half_installed = copy.root / ".venv" / "half"
    half_installed.touch()
    assert asked(copy.run("published"))["arguments"] == ["kdutils", "published"]
    assert copy.venv_is_stamped()
    assert not half_installed.exists()
    assert not (copy.root / ".venv-setup.log").exists()
    assert (copy.root / ".venv" / "setup.log").exists()


def test_a_failed_install_of_kdutils_itself_leaves_no_stamp(copy):
    copy.add_python()
    copy.control_file("editable_fails")
    refusal(copy.run())
    assert not copy.venv_is_stamped()


def test_a_set_up_that_does_not_satisfy_the_lock_leaves_no_stamp(copy):
    copy.add_python()
    copy.control_file("pip_does_nothing")
    assert "torch==2.13.0 (not installed)" in refusal(copy.run())
    assert not copy.venv_is_stamped()


def test_too_little_disk(copy):
    copy.add_python()
    line = refusal(copy.run(KDUTILS_MIN_DISK_GB="999999999"))
    assert "needs about 999999999 GB" in line
    assert "make room" in line
    assert not (copy.root / ".venv").exists()
    assert not [call for call in copy.calls() if "pip" in call]


def test_the_default_disk_limit_is_read_from_df(copy):
    copy.add_python()
    del copy.environment["KDUTILS_MIN_DISK_GB"]
    (copy.bin / "df").unlink()
    copy.add_command(
        "df", "echo Filesystem 1024-blocks Used Available; echo /dev/x 9 9 6291455 9% /"
    )  # 6 GB less 1 KB
    assert "needs about 6 GB" in refusal(copy.run())
    copy.add_command("df", "echo Filesystem 1024-blocks Used Available; echo /dev/x 9 9 6291456 9% /")
    assert copy.run().returncode == 0


def test_a_disk_limit_that_is_no_number_is_refused(copy):
    copy.add_python()
    assert "KDUTILS_MIN_DISK_GB=much is not a whole number" in refusal(copy.run(KDUTILS_MIN_DISK_GB="much"))


def test_a_folder_that_cannot_be_written(copy):
    copy.add_python()
    (copy.root / ".venv.lock").mkdir()  # refused to root too, which a read-only mode is not
    line = refusal(copy.run())
    assert f"{copy.root} cannot be written" in line
    assert "KDUTILS_ENV=active" in line


def test_a_venv_of_somebody_elses_is_not_touched(copy):
    copy.add_python()
    precious = copy.root / ".venv" / "precious"
    precious.parent.mkdir()
    precious.touch()
    assert "was not made by run_all.sh: delete it, or activate it" in refusal(copy.run())
    assert precious.exists()


def wait_for(condition, *, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def pip_has_started(copy: Copy) -> bool:
    return copy.calls_file.exists() and installs(copy.calls_file.read_text().splitlines()) > 0


def test_a_killed_set_up_is_made_anew(copy):
    copy.add_python()
    hanging = copy.control_file("pip_hangs")
    process = copy.start()
    wait_for(lambda: pip_has_started(copy))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not copy.venv_is_stamped()
    hanging.unlink()
    copy.calls()
    assert copy.run().returncode == 0
    assert installs(copy.calls()) == 1
    assert copy.venv_is_stamped()


def test_two_set_ups_at_once_are_one(copy):
    copy.add_python()
    copy.control_file("pip_takes_a_second")
    first = copy.start("first")
    wait_for(lambda: pip_has_started(copy))
    second = copy.run("second")
    assert asked(second)["arguments"] == ["kdutils", "second"]
    assert "another run_all.sh is setting up .venv; waiting for it" in second.stderr
    assert first.wait(timeout=60) == 0
    first.communicate()
    assert installs(copy.calls()) == 1


def test_without_flock_python_takes_the_lock(copy):
    (copy.bin / "flock").unlink(missing_ok=True)
    copy.add_python()
    copy.control_file("pip_takes_a_second")
    first = copy.start("first")
    wait_for(lambda: pip_has_started(copy))
    second = copy.run("second")
    assert "waiting for it" in second.stderr
    assert second.returncode == 0
    assert first.wait(timeout=60) == 0
    first.communicate()
    assert installs(copy.calls()) == 1


# --- conda --------------------------------------------------------------------------------------


def test_conda_without_conda(copy):
    copy.add_python(satisfied=True)
    line = refusal(copy.run(KDUTILS_ENV="conda"))
    assert "none of conda, mamba, micromamba is on PATH" in line
    assert "unset KDUTILS_ENV" in line
    assert copy.calls() == []


@pytest.mark.parametrize("tool", ["conda", "mamba", "micromamba"])
def test_conda_makes_an_environment_in_the_folder(copy, tool):
    python = copy.add_python("python3.11", version="3.11.7")
    copy.add_command(
        tool,
        f"""printf 'CONDA %s\\n' "$*" >>"$CALLS"
        while [ "$1" != --prefix ]; do shift; done
        mkdir -p "$2/bin" && cp "{python}" "$2/bin/python" && touch "$2/installed"
        [ -f environment.yml ]""",
    )
    prefix = copy.root / ".conda"
    assert asked(copy.run("published", KDUTILS_ENV="conda"))["python"] == str(prefix / "bin")
    calls = copy.calls()
    create = "create --yes" if tool == "micromamba" else "env create"
    assert calls[0] == f"CONDA {create} --prefix {prefix} --file environment.yml"
    assert any("install --no-deps --no-build-isolation --editable ." in call for call in calls)
    copy.run("published", KDUTILS_ENV="conda")
    assert copy.calls() == ["-P -m kdutils published"]


def test_a_failing_conda_leaves_no_stamp(copy):
    copy.add_command("conda", "echo 'CondaHTTPError: HTTP 000 CONNECTION FAILED'; exit 1")
    line = refusal(copy.run(KDUTILS_ENV="conda"))
    assert "no network" in line
    assert str(copy.root / ".conda-setup.log") in line
    assert not (copy.root / ".conda").exists()


# --- with a real Python -------------------------------------------------------------------------

BACKEND = '''
"""A build backend for the copy, so that the test needs no setuptools."""
import zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "kdutils-0.1.0-py3-none-any.whl"
    info = "kdutils-0.1.0.dist-info"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("kdutils.pth", str(Path.cwd()))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: kdutils\\nVersion: 0.1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
'''


@pytest.fixture
def real(copy):
    """The copy with the Python that runs these tests, and a kdutils that says how it was called."""
    copy.add_command("python3", f'exec "{sys.executable}" "$@"')
    (copy.root / "kdutils" / "__init__.py").touch()
    (copy.root / "kdutils" / "__main__.py").write_text(
        "import json, sys; print(json.dumps([sys.executable, __file__, *sys.argv[1:]]))"
    )
    return copy


def test_the_study_beside_the_script_runs_and_not_the_one_the_caller_stands_in(real, tmp_path):
    (real.root / "requirements.lock").write_text(f"pytest=={metadata.version('pytest')}\n")
    decoy = tmp_path / "kdutils"
    decoy.mkdir()
    (decoy / "__init__.py").touch()
    (decoy / "__main__.py").write_text("print('decoy')")
    done = real.run("published", "two words", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, module, *arguments = json.loads(done.stdout)
    assert Path(module) == real.root / "kdutils" / "__main__.py"
    assert arguments == ["published", "two words"]


def test_a_real_venv_has_the_lock_and_kdutils_and_no_other_file(real, tmp_path):
    (real.root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (real.root / "backend.py").write_text(BACKEND)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}

    with zipfile.ZipFile(wheels / "tiny_pin-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny_pin-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-pin\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    lock = real.root / "requirements.lock"
    lock.write_text(f"tiny-pin==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    refused = refusal(real.run("published", **pip))
    assert "the file of tiny-pin==1.0 is not that of requirements.lock" in refused
    assert not real.venv_is_stamped()
    lock.write_text(lock.read_text().replace("0" * 64, disk.sha256(Path(wheel.filename))))
    done = real.run("published", **pip)
    assert done.returncode == 0, done.stderr
    python = real.root / ".venv" / "bin" / "python"
    assert json.loads(done.stdout)[0] == str(python)
    assert real.venv_is_stamped()

    # As a notebook under plain papermill would: without run_all.sh and its PYTHONPATH.
    found = subprocess.run(
        [python, "-I", "-c", "import kdutils; print(kdutils.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == real.root / "kdutils" / "__init__.py"
