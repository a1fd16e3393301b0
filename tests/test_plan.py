"""What a section asks for: every run once, baselines first; parameters narrow or replace."""

from dataclasses import replace

import pytest

from kdutils import plan, spec
from kdutils.spec import Live, Need, load_profile


def asked(section="07", profile="mini", **parameters):
    return plan.plan(section, {"profile": profile, "out": "outputs"} | parameters)


@pytest.fixture
def live():
    need = Need(sections=("01",), methods=("fkl", "seqkd"), domains=("math",), seeds=(0, 1))
    return Live(
        data="mini", models=("mini-qwen-14k", "mini-qwen-36k"), needs=(need,), sft_seeds=(0,),
        items_per_task=5, settings={},
    )  # fmt: skip


@pytest.fixture
def of(monkeypatch):
    """Plans section 01 of a profile with the live part that is given."""

    def runs_of(live, **parameters):
        profile = replace(load_profile("smoke"), live=live)
        monkeypatch.setattr(plan, "load_profile", lambda name: profile)
        return [run.spec for run in asked("01", "smoke", **parameters).runs]

    return runs_of


def test_a_plan_has_every_run_once_and_baselines_first(live, of):
    found = of(live)
    assert len(found) == len(set(found)) == 2 + 3 + 2 * 2  # base; SFT: seeds 0 and 1, teacher; KD
    kinds = [run.method in ("base", "sft") for run in found]
    assert kinds == sorted(kinds, reverse=True)
    assert {run.teacher_spec() for run in found if run.teacher} <= set(found)


def test_temperature_and_noise_are_varied_one_at_a_time_where_they_have_an_effect(live, of):
    need = replace(live.needs[0], temperatures=(1.0, 2.0), noise_sigmas=(0.0, 3.0), seeds=(0,))
    found = of(replace(live, needs=(need,)))
    variants = [(run.temperature, run.noise_sigma) for run in found if run.method == "fkl"]
    assert variants == [(1.0, 0.0), (2.0, 0.0), (1.0, 3.0)]
    assert sum(run.method == "seqkd" for run in found) == 1


def test_gkd_has_one_temperature_under_the_authors_protocol(live, of):
    need = replace(live.needs[0], methods=("gkd",), temperatures=(1.0, 2.0), seeds=(0,))
    live = replace(live, needs=(need,))
    assert sum(run.method == "gkd" for run in of(live)) == 2
    assert [run.temperature for run in of(live, protocol="paper") if run.method == "gkd"] == [1.0]


def test_without_pairs_every_two_models_of_a_family_are_one():
    models = ["mini-qwen-14k", "mini-qwen-36k", "mini-llama-24k", "mini-llama-66k", "mini-qwen-66k"]
    assert plan.family_pairs(models) == [
        ("mini-qwen-36k", "mini-qwen-14k"),
        ("mini-llama-66k", "mini-llama-24k"),
        ("mini-qwen-66k", "mini-qwen-14k"),
        ("mini-qwen-66k", "mini-qwen-36k"),
    ]
    assert len(plan.family_pairs(load_profile("mini").live.models)) == 21


def test_every_section_of_the_default_profile_has_runs_and_two_sections_have_all():
    sections = {number: set(asked(number).runs) for number in spec.SECTIONS}
    assert all(sections.values())
    assert sections["00"] == sections["08"] == set().union(*sections.values())
    seeds = {(run.spec.method, run.spec.seed) for run in sections["00"]}
    assert {(method, seed) for method in ("sft", "fkl") for seed in range(3)} <= seeds


@pytest.mark.parametrize("profile", [name for name in spec.profile_names() if load_profile(name).live])
def test_every_live_profile_can_be_planned(profile):
    runs = asked("00", profile).runs
    assert runs
    assert load_profile(profile).live.watermark == "model world"


def test_filters_narrow_what_is_trained():
    runs = asked(students=["mini-llama-66k"], methods=["revkd"], domains=["math"]).runs
    kd = [run.spec for run in runs if run.spec.teacher]
    assert {(run.student, run.method, run.domain) for run in kd} == {("mini-llama-66k", "revkd", "math")}
    baselines = {run.spec.student for run in runs if not run.spec.teacher}
    assert baselines == {"mini-llama-66k", "mini-llama-400k"}


def test_seeds_temperatures_and_protocol_replace_those_of_the_profile():
    runs = asked(temperatures=[1.0, 3.0], seeds=[7], protocol="paper").runs
    kd = [run.spec for run in runs if run.spec.teacher]
    assert {run.temperature for run in kd} == {1.0, 3.0}
    assert {run.seed for run in kd} == {7}
    assert {run.protocol for run in kd} == {"paper"}
    assert {run.spec.seed for run in runs if run.spec.method == "sft"} == {0, 7}  # the teachers' stays


def test_released_students_alone_train_nothing():
    assert asked(students=["Qwen2.5-0.5B"]).runs == ()
    assert asked(profile="published", students=["Qwen2.5-0.5B"]).runs == ()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"students": ["mini-qwen-7B"]},
            r"students=\['mini-qwen-7B'\]: name at least one of \['mini-qwen-14k'",
        ),
        ({"students": []}, r"students=\[\]: name at least one"),
        (
            {"students": ["mini-qwen-36k"], "teachers": ["mini-llama-400k"]},
            "its pairs .* are .*mini-llama-400k → ",
        ),
        ({"methods": ["gkd"]}, r"no run of section 07 has methods=\['gkd'\]"),
        ({"methods": ["sft"]}, "methods=.*'fkl', 'seqkd', 'revkd', 'gkd'"),
        ({"tasks": ["chess"]}, r"tasks=\['chess'\]: name at least one of"),
        ({"seeds": []}, r"seeds=\[\]: give at least one"),
        ({"temperatures": [0.0]}, "temperature=0.0 must lie between 0.01 and 100"),
        ({"noise_sigmas": [-1.0, 1e9]}, "noise_sigma=1000000000.0 must lie between"),
        ({"protocol": "authors"}, "protocol='authors' is unknown"),
        (
            {"profile": "published", "seeds": [1]},
            r"seeds=\[1\] changes what is trained, and profile 'published'",
        ),
        ({"section": "12"}, "unknown section '12'"),
    ],
)
def test_nonsense_is_refused_with_what_there_is(parameters, message):
    with pytest.raises(ValueError, match=message):
        asked(**parameters)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("mkd",)}, "methods=.'mkd'.: name at least one of"),
        ({"domains": ()}, r"domains=\[\]"),
        ({"sections": ("13",)}, "sections="),
        ({"seeds": ()}, "seeds is empty"),
    ],
)
def test_a_need_names_what_there_is(live, fields, message):
    with pytest.raises(ValueError, match=message):
        replace(live.needs[0], **fields)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("nobody-1k", "mini-qwen-14k"), "'nobody-1k' is not in models"),
        (("mini-qwen-14k", "mini-qwen-14k"), "cannot be its own teacher"),
    ],
)
def test_a_pair_is_of_the_profiles_models(live, of, pair, message):
    with pytest.raises(ValueError, match=message):
        of(replace(live, needs=(replace(live.needs[0], pairs=(pair,)),)))


def test_settings_are_those_of_a_run(live, of):
    with pytest.raises(TypeError, match="epoks"):
        of(replace(live, settings={"epoks": 3}))


def test_a_need_may_name_its_pairs():
    sets = {"one": [["mini-qwen-36k", "mini-qwen-14k"]]}
    need = {"sections": ["01"], "methods": ["fkl"], "domains": ["math"]}
    assert spec._need(need | {"pairs": "one"}, sets).pairs == (("mini-qwen-36k", "mini-qwen-14k"),)
    assert spec._need(need, sets).pairs is None
    with pytest.raises(ValueError, match=r"pairs='two' is not in .live.pair_sets., which has \['one'\]"):
        spec._need(need | {"pairs": "two"}, sets)
