"""A table that is found is the one that would be computed, or it is not found."""

import dataclasses
import json
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from kdutils.claims import claims
from kdutils.claims.evidence import Evidence
from kdutils.data import sources
from kdutils.grid import plan
from kdutils.io import cache
from kdutils.io.cache import CachedTables, digest
from kdutils.report import notebook_api
from kdutils.runs import store

NUMBERS = pd.DataFrame({"task": ["aqua", "svamp"], "gain": [1 / 3, float("nan")], "n": [254, 1000]})
calls = []


def drawn(numbers, scale=1.0, *, rng=None):
    """A table that hangs on its arguments and on random numbers."""
    calls.append(scale)
    noise = 0 if rng is None else rng.normal(size=len(numbers))
    return numbers.assign(gain=numbers["gain"] * scale + noise)


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@pytest.fixture
def kept(tmp_path):
    return CachedTables(tmp_path / "tables")


def the_file(kept):
    (path,) = kept.folder.rglob("*.kept")
    return path


class TestCachedTables:
    def test_a_table_is_made_once_and_found_to_the_bit(self, kept):
        made = kept(drawn, NUMBERS, 2.0)
        found = CachedTables(kept.folder)(drawn, NUMBERS.copy(), 2.0)
        pd.testing.assert_frame_equal(found, made, check_exact=True)
        assert calls == [2.0]
        assert cache.uncached(drawn, NUMBERS, 2.0).equals(made) and calls == [2.0, 2.0]

    def test_what_is_made_of_a_table_has_one_key_whether_that_was_made_or_found(self, kept):
        mixed = pd.DataFrame({"parsed": pd.Series(["1", None], dtype="str")}).assign(gain=1.0)
        mixed = mixed.iloc[[1, 0]].reset_index(drop=True).copy()
        for _ in range(2):
            kept(drawn, kept(drawn, mixed, 2.0), 3.0)
        assert calls == [2.0, 3.0]

    @pytest.mark.parametrize(
        "other", [(NUMBERS, 3.0), (NUMBERS.assign(n=0), 2.0), (NUMBERS[["gain", "task", "n"]], 2.0)]
    )
    def test_other_arguments_make_another(self, kept, other):
        kept(drawn, NUMBERS, 2.0)
        kept(drawn, *other)
        assert len(calls) == 2

    def test_random_numbers_go_on_as_if_drawn(self, kept):
        def two(kept):
            rng = np.random.default_rng(7)
            return kept(drawn, NUMBERS, rng=rng), kept(drawn, NUMBERS, rng=rng), rng.normal()

        made, found, plain = two(kept), two(kept), two(cache.uncached)
        assert len(calls) == 4  # the first two and the last two
        for one in (found, plain):
            assert one[2] == made[2]
            assert all(a.equals(b) for a, b in zip(made[:2], one[:2], strict=True))
        assert not made[0].equals(made[1])

    def test_another_seed_makes_another(self, kept):
        for seed in (1, 2, 1):
            kept(drawn, NUMBERS, rng=np.random.default_rng(seed))
        assert len(calls) == 2

    def test_other_code_makes_another_and_the_old_one_goes(self, kept, monkeypatch):
        kept(drawn, NUMBERS)
        old = the_file(kept)
        monkeypatch.setattr(cache, "code_digest", lambda module: "changed")
        kept(drawn, NUMBERS)
        assert len(calls) == 2
        assert the_file(kept) != old  # and there is one alone

    @pytest.mark.faults
    @pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.99])
    def test_a_changed_byte_is_seen(self, kept, fault, place):
        made = kept(drawn, NUMBERS, rng=np.random.default_rng(0))
        path = the_file(kept)
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)
        fault(f"kept table flipped at {place:.0%}")
        assert kept(drawn, NUMBERS, rng=np.random.default_rng(0)).equals(made)
        assert len(calls) == 2
        assert kept(drawn, NUMBERS, rng=np.random.default_rng(0)).equals(made)
        assert len(calls) == 2  # the third was found

    @pytest.mark.faults
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
    def test_a_torn_file_is_seen(self, kept, fault, share):
        made = kept(drawn, NUMBERS)
        path = the_file(kept)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        fault(f"kept table torn at {share:.1%}")
        assert kept(drawn, NUMBERS).equals(made)
        assert len(calls) == 2

    def test_where_nothing_can_be_written_all_is_made(self, tmp_path):
        (tmp_path / "file").write_text("no folder")
        kept = CachedTables(tmp_path / "file" / "tables")
        assert kept(drawn, NUMBERS).equals(kept(drawn, NUMBERS))
        assert len(calls) == 2

    def test_what_parquet_cannot_hold_is_made_each_time(self, kept):
        def mixed():
            calls.append("mixed")
            return pd.DataFrame({"value": [1, "one"]})

        for _ in range(2):
            assert list(kept(mixed)["value"]) == [1, "one"]
        assert len(calls) == 2


@dataclass(frozen=True)
class Point:
    x: float
    seen: dict = field(default_factory=dict, compare=False)


class TestDigest:
    @pytest.mark.parametrize(
        "values",
        [
            (1, True, 1.0, "1", b"1", None),
            ([[1], [2]], [[1, 2]], [[1, 2], []], [1, 2]),
            ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),
            (np.zeros(4), np.zeros((2, 2)), np.zeros(4, dtype=np.float32), np.zeros(5)),
            (Point(1.0), Point(2.0), {"x": 1.0}),
            (NUMBERS, NUMBERS.set_index("task"), NUMBERS.astype({"n": float}), NUMBERS.iloc[::-1]),
            (np.float64(1), np.float32(1)),
        ],
    )
    def test_what_differs_differs(self, values):
        assert len({digest(value) for value in values}) == len(values)

    def test_what_is_equal_is_equal(self):
        assert digest(Point(1.0, {"a": 1})) == digest(Point(1.0))
        assert digest({"b", "a"}) == digest({"a", "b"})
        assert digest(NUMBERS) == digest(NUMBERS.copy())
        assert digest(np.random.default_rng(3)) == digest(np.random.default_rng(3))
        assert digest(float("nan")) == digest(float("nan"))

    def test_a_function_has_none(self):
        with pytest.raises(TypeError, match="function has no digest: give its content"):
            digest([1, {"of_gains": drawn}])


class TestCodeDigest:
    @pytest.fixture
    def package(self, tmp_path):
        folder = tmp_path / "package"
        files = {"__init__": "", "tables": "def gains():\n    from package import rules\n"}
        for name, code in (files | {"rules": "import package.means\n", "means": "1", "pages": "1"}).items():
            (folder / f"{name}.py").parent.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(code)
        (folder / "inner").mkdir()
        (folder / "inner" / "declared.toml").write_text("a = 1")
        return folder

    @pytest.mark.parametrize(
        ("file", "counts"),
        [("tables.py", True), ("means.py", True), ("inner/declared.toml", True), ("pages.py", False)],
    )
    def test_what_a_module_imports_by_a_detour_counts_and_nothing_else(self, package, file, counts):
        before = cache.code_digest("package.tables", package)
        (package / file).write_text("a = 2")
        cache._contents.cache_clear()
        assert (cache.code_digest("package.tables", package) != before) is counts

    def test_a_function_of_no_file_is_refused(self, kept):
        names = {"__name__": "typed_in_a_cell"}
        exec("def gains():\n    return 1", names)
        with pytest.raises(ValueError, match="no module 'typed_in_a_cell': give a full name"):
            kept(names["gains"])

    def test_what_reads_released_tables_does_not_hang_on_pages(self):
        found = {str(path.relative_to(cache.PACKAGE)) for path in cache.code_files(claims.__name__)}
        assert {"claims/evidence.py", "claims/gains.py", "inference/resampling.py"} <= found
        assert not any(path.startswith(("report/", "bench/")) for path in found)


def test_judgements_that_are_found_are_those_that_were_made(kept, cells):
    made = claims.judgements(cells, kept=kept)
    written = the_file(kept).stat().st_mtime_ns
    found = claims.judgements(cells, kept=kept)
    assert the_file(kept).stat().st_mtime_ns == written
    plain = claims.judgements(cells)
    for one in (found, plain):
        assert json.dumps(claims.ledger_rows(one)) == json.dumps(claims.ledger_rows(made))
        assert repr(one[0].stricter) == repr(made[0].stricter)
        assert repr(one[0].authors) == repr(made[0].authors)


def test_what_evidence_has_computed_does_not_change_its_digest(cells):
    (found,) = claims.evidence_of(cells)
    before = digest(found)
    found.of("ttest_gain_gt_0")
    assert isinstance(found, Evidence) and digest(found) == before


def test_a_report_keeps_its_tables_beside_the_runs(tmp_path):
    run = notebook_api.Report("01_effectiveness", {}, tmp_path / "out" / "mini", changed={})
    assert run.kept.folder == tmp_path / "out" / "cache" / "tables"


class Source:
    """In the place of a plan."""

    def __init__(self, digest):
        self.digest = digest

    def hangs_on(self):
        return [self.digest]


def test_what_a_plan_hangs_on_is_what_counts():
    assert digest(Source("a")) == digest(Source("a")) != digest(Source("b"))


def test_a_plan_hangs_on_the_item_rows_of_its_runs(tmp_path):
    planned = plan.plan("00", {"profile": "smoke", "out": str(tmp_path), "domains": ["math"]})
    before = digest(planned)
    assert before == digest(plan.plan("00", {"profile": "smoke", "out": str(tmp_path), "domains": ["math"]}))
    run = planned.runs[0]
    folder = store.folder_of(tmp_path, sources.resolved(run.spec).run_id)
    seen = {before}
    for answer in ("1", "2"):
        rows = pd.DataFrame({"task": ["svamp"], "item_id": ["0"], "parsed": [answer]})
        folder.write_evaluation(run.evaluation, rows, {})
        seen.add(digest(planned))
    assert len(seen) == 3
    spec = sources.resolved(run.spec)
    [found] = planned.evaluated([run])
    assert found == (spec.run_id, run.evaluation.eval_id, folder.items_digest(run.evaluation))
    seen.add(digest(dataclasses.replace(planned, shown=plan.Filter(tasks=("svamp",)))))
    assert len(seen) == 4
