"""Fixtures that several test modules share."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import counts
import pytest

# Before anything imports numpy or torch: pytest-xdist already keeps every core busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
CHROMIUM = Path("/usr/bin/chromium")
REQUIRED = set(os.environ.get("KDUTILS_REQUIRE", "").replace(",", " ").split())


def missing(requirement: str, reason: str) -> None:
    """Skip the test, or fail it if KDUTILS_REQUIRE says that the requirement must be there."""
    if requirement in REQUIRED:
        pytest.fail(f"KDUTILS_REQUIRE holds {requirement!r}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test keeps goes into the user's cache, nor is read from it; also in its processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def benchmark_files() -> Path:
    """The folder of benchmark items."""
    if not os.environ.get("KDUTILS_DATA"):
        missing("data", "KDUTILS_DATA is not set: it names the folder that holds data/")
    folder = Path(os.environ["KDUTILS_DATA"]).resolve() / "data"
    if not folder.is_dir():
        missing("data", f"{folder} is not there: KDUTILS_DATA names the folder that holds data/")
    return folder


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Names of the smallest real teacher and student; their plain copies, half a GB, go with the tests."""
    from kdutils.data.model_files import PACKAGED_MODELS

    teacher, student = PACKAGED_MODELS
    if PACKAGED_MODELS[teacher].path() is None:
        missing("smollm", f"{teacher} is not installed: {PACKAGED_MODELS[teacher].remedy}")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(cache))
        yield teacher, student
    shutil.rmtree(cache)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder once a session, also when pytest-xdist spreads the tests over processes."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / f"once-{name}"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (folder / "made").touch()
        return folder

    return made


@pytest.fixture(scope="session")
def sample(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The folder of a profile, run once for all tests: two notebooks done, four failed, one not run."""
    import samples  # it imports what executes notebooks, which most test modules do without

    return once("sample", samples.run_sample) / samples.SAMPLE_OUT / "published"


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid without processes."""
    from inline import InlinePool

    from kdutils.grid import fill

    monkeypatch.setattr(fill, "Pool", InlinePool)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the runs whose training was begun, in order, once for each time."""
    from kdutils.runs import store

    names, begin = [], store.RunFolder.begin

    def noted(folder: store.RunFolder, *arguments: dict) -> None:
        names.append(folder.path.name)
        begin(folder, *arguments)

    monkeypatch.setattr(store.RunFolder, "begin", noted)
    return names


# --- how many faults were injected and bad inputs tried ------------------------------------------------


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Counts a fault, by its kind, once it was injected; it was survived if the test then passes."""
    return lambda kind: record_property("fault", kind)


@pytest.fixture(scope="session")
def inputs() -> counts.Counts:
    """Counts bad inputs: `inputs.tried(kind)`, then `inputs.refused(error, kind)`."""
    return counts.COUNTS


@pytest.fixture(autouse=True)
def _inputs_of_this_test(record_property: Callable[[str, object], None]) -> Iterator[None]:
    before = counts.COUNTS.sums
    yield
    if counts.COUNTS.sums != before:
        record_property("inputs", [now - then for now, then in zip(counts.COUNTS.sums, before, strict=True)])


class Counts:
    """Faults and bad inputs of all tests, also of those that pytest-xdist spreads over processes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.failed = config, set()
        self.kinds: dict[str, list[bool]] = {}  # of fault -> whether it was survived, each time
        self.n_tried = self.n_refused = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        if report.when != "teardown":  # the last of a test, which has all that the test recorded
            return
        for name, value in report.user_properties:
            if name == "fault":
                self.kinds.setdefault(value, []).append(report.nodeid not in self.failed)
            elif name == "inputs":
                self.n_tried, self.n_refused = self.n_tried + value[0], self.n_refused + value[1]

    def lines(self) -> list[str]:
        """The two lines; none if there was neither."""
        times = [survived for each in self.kinds.values() for survived in each]
        if not times and not self.n_tried:
            return []
        return [
            f"faults: {len(times)} injected, {sum(times)} survived",
            f"inputs: {self.n_tried} tried, {self.n_refused} refused",
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if lines := self.lines():
            terminalreporter.section(f"{len(self.kinds)} kinds of faults")
            for kind, times in sorted(self.kinds.items()):
                terminalreporter.line(f"{kind}: {len(times)} injected, {sum(times)} survived")
            terminalreporter.line("\n".join(lines))

    def pytest_unconfigure(self) -> None:
        """Last of all where they are what was asked for; else pytest's own line is, which others look for."""
        if "faults" in self.config.option.markexpr:
            print(*self.lines(), sep="\n", flush=True)


def slow_tests() -> list[str]:
    """Files, and tests, that the quick set leaves out: the first words of slow.txt."""
    lines = Path(__file__).with_name("slow.txt").read_text().splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what slow.txt names; a test that it does not name is in the quick set."""
    slow = tuple(f"tests/{name}" for name in slow_tests())
    for item in items:
        if item.nodeid.startswith(slow):
            item.add_marker("slow")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist, whose reports come here
        config.pluginmanager.register(Counts(config), "counts")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's Chromium, headless."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("browser", "playwright is not installed")
    if not CHROMIUM.exists():
        missing("browser", f"{CHROMIUM} is not there: apt-get install chromium")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def cells():
    """The released ones, for test files that make none of their own."""
    from kdutils.results import authors_tables

    return authors_tables.cells()


@pytest.fixture(scope="session")
def gains(cells):
    """Their gains by the authors' rule."""
    from kdutils.results import gain_tables

    return gain_tables.gains(cells, selection="best_on_test")
