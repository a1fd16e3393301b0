"""The runs of a profile: planned once, made once, found again; failures are rows."""

from dataclasses import replace

import pytest
import tiny

from kdutils import cells, grid, running, runs, study
from kdutils.spec import Live, load_profile


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    tiny.save_model(root / "tiny-20k", seed=0)
    tiny.save_model(root / "tiny-40k", hidden=48, rows=96, seed=1)
    return Live(
        data=tiny.write_data(root / "data"),
        pairs=((str(root / "tiny-40k"), str(root / "tiny-20k")),),
        methods=("fkl", "gkd"),
        domains=("math",),
        temperatures=(1.0, 2.0),
        noise_sigmas=(0.0, 3.0),
        seeds=(0, 1),
        items_per_task=6,
        settings={"train_items": 16, "validation_items": 0, "epochs": 1, "batch_size": 8, "max_tokens": 96},
    )


def test_a_plan_has_every_run_once_and_baselines_first(live):
    specs = grid.specs(live)
    assert len(specs) == len(set(specs)) == 2 + 3 + 2 * 3 * 2  # base; SFT of 2 seeds and of the teacher; KD
    kinds = [spec.method in ("base", "sft") for spec in specs]
    assert kinds == sorted(kinds, reverse=True)
    made = {spec for spec in specs if spec.method == "sft"}
    assert {spec.teacher_spec() for spec in specs if spec.teacher} <= made


def test_temperature_and_noise_are_varied_one_at_a_time(live):
    variants = {(spec.temperature, spec.noise_sigma) for spec in grid.specs(live) if spec.method == "fkl"}
    assert variants == {(1.0, 0.0), (2.0, 0.0), (1.0, 3.0)}
    plain = grid.specs(replace(live, methods=("seqkd",)))
    assert sum(spec.method == "seqkd" for spec in plain) == 2


@pytest.fixture(scope="module")
def small(live):
    """Few runs, and as tasks what the tiny data have."""
    return replace(live, methods=("fkl",), temperatures=(1.0,), noise_sigmas=(0.0,), seeds=(0,))


@pytest.fixture
def one_task(monkeypatch):
    """The tiny data have one task of math, and workers see what this process sees."""
    wanted = grid.evaluation
    monkeypatch.setattr(
        grid, "evaluation", lambda live, domain: replace(wanted(live, domain), tasks=("addsub",))
    )


def test_what_is_missing_is_made_and_found_again(small, one_task, tmp_path):
    seen = []
    state = grid.fill(small, tmp_path, workers=2, progress=lambda state: seen.append(state.n_left))
    assert (state.n_runs, state.n_found, state.n_done, state.failures) == (5, 0, 5, {})
    assert seen == [4, 3, 2, 1, 0]
    table = grid.live_cells(small, tmp_path)
    assert set(table["method"]) == {"base", "sft", "fkl"}
    assert list(table.columns) == list(cells.SCHEMA)
    one = next(iter(runs.finished(tmp_path)))[1].path
    (one / "result.json").unlink()
    assert grid.live_cells(small, tmp_path).shape[0] < table.shape[0]
    again = grid.fill(small, tmp_path, workers=1)
    assert (again.n_found, again.n_done) == (4, 1)
    assert grid.live_cells(small, tmp_path).equals(table)


def test_a_run_that_fails_takes_no_other_along(small, one_task, tmp_path, monkeypatch):
    bad = next(spec for spec in grid.specs(small) if spec.method == "base")
    folder = runs.folder_of(tmp_path, running.resolved(bad).run_id).path
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where a folder should be")
    state = grid.fill(small, tmp_path, workers=2)
    assert (state.n_done, len(state.failures)) == (4, 1)
    assert "cannot be written" in str(state)


def test_a_plan_that_cannot_be_made_is_refused_before_anything_is_written(small, tmp_path):
    with pytest.raises(ValueError, match="unknown model 'nobody'"):
        grid.fill(replace(small, pairs=(("nobody", small.pairs[0][1]),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="method='mkd' is unknown"):
        grid.specs(replace(small, methods=("mkd",)))
    with pytest.raises(TypeError, match="epoks"):
        grid.specs(replace(small, settings={"epoks": 3}))


def test_every_profile_with_a_live_part_can_be_planned():
    for name in ("smoke",):
        live = load_profile(name).live
        assert live.watermark == "model world"
        for spec in grid.specs(live):
            running.check(spec, grid.evaluation(live, spec.domain))


def test_figures_and_captions_say_which_results_they_show():
    assert study.named("gain_by_pair", "published") == "gain_by_pair"
    assert study.named("gain_by_pair", "live") == "gain_by_pair_live"
    assert study.labelled("gains.", "live") == "Live: gains."
    assert study.watermarks("smoke") == {"published": "", "live": "model world"}
