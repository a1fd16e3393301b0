"""What a section asks for: every run once, baselines first; parameters narrow or replace."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import pytest

from kdutils import constants
from kdutils.data import model_files
from kdutils.grid import plan, study
from kdutils.grid.cell_table import model_family, short_name
from kdutils.grid.jobs import jobs_of
from kdutils.grid.profile import Live, Need, family_pairs, load_profile, profile_names
from kdutils.io.toml_files import one_line_errors
from kdutils.mini.family import FAMILY, MINI_MODELS


def asked(section="07", profile="mini", **parameters):
    return plan.plan(section, {"profile": profile, "out": "outputs"} | parameters)


def of_factors(found):
    """The variants that a factor of the protocol is changed in, not where a student starts or whose texts."""
    return [
        each
        for each in found.variants
        if each.spec.prompt_in_loss or each.spec.mean_by_sequence or each.evaluation.temperature
    ]


@pytest.fixture
def live():
    need = Need(sections=("01",), methods=("fkl", "seqkd"), domains=("math",), seeds=(0, 1))
    return Live(
        data="mini", models=("mini-qwen-0.5B", "mini-qwen-1.5B"), needs=(need,), sft_seeds=(0,),
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
    assert {run.teacher_spec for run in found if run.teacher} <= set(found)


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
    models = ["mini-qwen-0.5B", "mini-qwen-1.5B", "mini-llama-1B", "mini-llama-3B", "mini-qwen-3B"]
    assert family_pairs(models) == [
        ("mini-qwen-1.5B", "mini-qwen-0.5B"),
        ("mini-llama-3B", "mini-llama-1B"),
        ("mini-qwen-3B", "mini-qwen-0.5B"),
        ("mini-qwen-3B", "mini-qwen-1.5B"),
    ]


@pytest.mark.parametrize("profile", ["mini", "mini-full"])
def test_pairs_of_the_mini_profiles_are_the_released_ones_in_their_order(profile):
    live = load_profile(profile).live
    assert live.models == tuple(model.name for model in FAMILY)
    pairs = [tuple(MINI_MODELS[name].stands_for for name in pair) for pair in live.pairs_of(live.needs[0])]
    assert tuple(pairs) == study.RELEASED_PAIRS


def test_every_section_of_the_default_profile_has_runs_and_the_overview_has_all():
    sections = {number: set(asked(number).runs) for number in study.SECTIONS}
    assert all(sections.values())
    assert sections["00"] == set().union(*sections.values())
    of_paper = {number: runs for number, runs in sections.items() if number not in ("00", "08")}
    assert sections["08"] == set().union(*of_paper.values()) < sections["00"]  # not those of notebook 11
    seeds = {(run.spec.method, run.spec.seed) for run in asked("00", "mini-full").runs}
    assert {(method, seed) for method in ("sft", "fkl") for seed in range(3)} <= seeds


@pytest.mark.parametrize("profile", [name for name in profile_names() if load_profile(name).live])
def test_every_live_profile_can_be_planned(profile):
    runs = asked("00", profile).runs
    assert runs
    live = load_profile(profile).live
    assert live.watermark == ("model world" if live.data == "mini" else "")


def test_filters_narrow_what_is_trained():
    runs = asked(students=["mini-qwen-1.5B"], methods=["revkd"], domains=["math"]).runs
    kd = [run.spec for run in runs if run.spec.teacher]
    assert {(run.student, run.method, run.domain) for run in kd} == {("mini-qwen-1.5B", "revkd", "math")}
    baselines = {run.spec.student for run in runs if not run.spec.teacher}
    assert baselines == {"mini-qwen-1.5B", "mini-qwen-7B"}


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
            {"students": ["mini-qwen-9B"]},
            r"students=\['mini-qwen-9B'\]: name at least one of \['mini-qwen-0.5B'",
        ),
        ({"students": []}, r"students=\[\]: name at least one"),
        (
            {"section": "01", "students": ["mini-qwen-1.5B"], "teachers": ["mini-llama-8B"]},
            "its pairs .* are .*mini-llama-8B → ",
        ),
        ({"methods": ["gkd"]}, r"no run of section 07 has methods=\['gkd'\]"),
        ({"methods": ["sft"]}, "methods=.*'fkl', 'seqkd', 'revkd', 'gkd'"),
        ({"tasks": ["chess"]}, r"tasks=\['chess'\]: name at least one of"),
        ({"seeds": []}, r"seeds=\(\): it must have at least 1 item, not 0"),
        ({"temperatures": [0.0]}, r"temperatures.0=0.0: it must be greater than 0"),
        ({"noise_sigmas": [1e9]}, "noise_sigma=1000000000.0 must be less than or equal to 1000"),
        (
            {"noise_sigmas": [0.0, -1.0]},
            r"noise_sigmas.1=-1.0: it must be greater than or equal to 0",
        ),  # once taken for none
        ({"protocol": "authors"}, "protocols.0='authors': it must be 'careful' or 'paper'"),
        (
            {"profile": "published", "seeds": [1]},
            r"seeds=\[1\] changes what is trained, and profile 'published'",
        ),
        ({"section": "99"}, "unknown section '99'"),
    ],
)
def test_nonsense_is_refused_with_what_there_is(parameters, message):
    with pytest.raises(ValueError, match=message):
        asked(**parameters)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("mkd",)}, "methods.0='mkd': it must be 'fkl', 'seqkd', 'revkd', 'gkd' or 'opd'"),
        ({"domains": ()}, r"domains=\(\): it must have at least 1 item, not 0"),
        ({"sections": ("99",)}, "sections.0='99': it must be '00', "),
        ({"seeds": ()}, r"seeds=\(\): it must have at least 1 item, not 0"),
    ],
)
def test_a_need_names_what_there_is(live, fields, message):
    with pytest.raises(ValueError, match=message), one_line_errors():
        replace(live.needs[0], **fields)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("nobody-1k", "mini-qwen-0.5B"), "'nobody-1k' is not in models"),
        (("mini-qwen-0.5B", "mini-qwen-0.5B"), "cannot be its own teacher"),
    ],
)
def test_a_pair_is_of_the_profiles_models(live, of, pair, message):
    with pytest.raises(ValueError, match=message):
        of(replace(live, needs=(replace(live.needs[0], pairs=(pair,)),)))


def test_settings_are_those_of_a_run(live, of):
    with pytest.raises(ValueError, match=r"no field .epoks.; use"):
        of(replace(live, settings={"epoks": 3}))


def test_a_need_may_name_its_pairs(live, of):
    need = replace(live.needs[0], pairs="one", seeds=(0,))
    sets = {"one": (("mini-qwen-3B", "mini-qwen-0.5B"),)}
    live = replace(live, needs=(need,), pair_sets=sets, models=(*live.models, "mini-qwen-3B"))
    assert {(run.teacher, run.student) for run in of(live) if run.teacher} == set(sets["one"])
    with pytest.raises(ValueError, match=r"pairs='two' must be one of .live.pair_sets.: \['one'\]"):
        replace(live, needs=(replace(need, pairs="two"),))


# --- what is new must not rename what is old ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "n_runs", "digest"), [("mini", 142, "e7654077e1e6e6cd"), ("smoke", 14, "95fce523a928ff22")]
)
def test_the_runs_of_a_profile_keep_their_names(profile, n_runs, digest):
    """Whoever changes a profile writes the new digest here; whoever does not finds all results again."""
    names = [(run.spec.run_id, run.evaluation.eval_id) for run in asked("00", profile).runs]
    assert len(names) == n_runs
    assert hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16] == digest


# --- the factors of the protocol ---------------------------------------------------------------------------


def test_a_factor_changes_what_it_says_and_nothing_else():
    found = asked("11")
    assert found.runs
    assert set(found.runs) <= set(asked("00").runs)  # they are there anyway
    fields = Counter()
    for each in of_factors(found):
        training = {"prompt_in_loss": None, "mean_by_sequence": None}
        plain = replace(each.spec, **training), replace(each.evaluation, temperature=0.0, samples=1)
        assert plan.PlannedRun(*plain) in found.runs
        changed = [name for name in training if getattr(each.spec, name)]
        changed += ["sampled"] * (each.evaluation.temperature == 1.0)
        assert each.evaluation.samples == (3 if "sampled" in changed else 1)
        fields[each.spec.method, *changed] += 1
    both = ("prompt_in_loss", "mean_by_sequence")
    assert fields == {  # in two domains
        ("sft", "prompt_in_loss"): 2,
        ("sft", "sampled"): 2,
        ("sft", "prompt_in_loss", "sampled"): 2,
        ("fkl", "prompt_in_loss"): 2,
        ("fkl", "mean_by_sequence"): 2,
        ("fkl", "sampled"): 2,
        ("fkl", *both, "sampled"): 2,
    }
    assert found.to_make[: len(found.runs)] == found.runs
    assert set(found.variants) <= set(found.to_make)


def test_no_other_section_makes_or_shows_what_a_factor_adds():
    own = {run.spec.run_id for run in of_factors(asked("11"))} - {run.spec.run_id for run in asked("11").runs}
    assert len(own) == 8  # and two teachers whose loss holds the prompt
    own |= {run.spec.run_id for run in asked("11").variants} - {run.spec.run_id for run in asked("11").runs}
    for section in study.SECTIONS:
        assert asked(section).variants == ()
        assert own.isdisjoint(run.spec.run_id for run in asked(section).to_make)


def test_a_teacher_is_not_sampled_for_a_factor():
    found = asked("11")
    jobs = jobs_of((*found.runs, *of_factors(found)))
    assert len(jobs) == len({run.spec for run in found.runs}) + 8 + 2
    students = {job.spec.student for job in jobs.values() if any(e.temperature for e in job.evaluations)}
    assert students == {"mini-qwen-0.5B"}
    teachers = [job for job in jobs.values() if job.is_teacher]
    assert {job.spec.prompt_in_loss for job in teachers} == {None, True}
    assert all(len(job.evaluations) == 1 for job in teachers)
    labels = [job.label for job in jobs.values()]
    assert len(set(labels)) == len(labels)


def test_a_teacher_that_nobody_else_evaluates_is_made_all_the_same():
    sampled = [run for run in asked("11").variants if run.evaluation.temperature and run.spec.prompt_in_loss]
    jobs = jobs_of(run for run in sampled if run.spec.method == "fkl")
    assert all(job.evaluations for job in jobs.values())


def test_models_as_they_are_can_be_left_out(live, of):
    of(live)
    everything = asked("01", "smoke").to_make
    of(replace(live, base_models=False))
    assert asked("01", "smoke").to_make == tuple(run for run in everything if run.spec.method != "base")
    assert len(everything) - len(asked("01", "smoke").to_make) == 2  # a student and a teacher


def test_only_careful_runs_are_varied_and_none_without_training(live, of):
    need = replace(live.needs[0], factors=("prompt",), methods=("fkl",), seeds=(3, 4))
    of(replace(live, needs=(need,), protocols=("paper", "careful")))
    found = asked("01", "smoke").variants
    facts = {(run.spec.method, run.spec.protocol, run.spec.seed, run.spec.prompt_in_loss) for run in found}
    assert facts == {("sft", "careful", 3, True), ("fkl", "careful", 3, True)}
    assert {run.spec.student for run in found} == {"mini-qwen-0.5B"}
    with pytest.raises(ValueError, match="factors.0='prompts': it must be 'prompt', "), one_line_errors():
        replace(live.needs[0], factors=("prompts",))


def test_variations_are_of_distilled_careful_students_and_of_every_value_in_a_list(live, of):
    varied = {"kd_weight": [0.9, 0.5], "prompt_in_loss": True}, {"frozen": "mlp"}
    need = replace(live.needs[0], methods=("fkl",), variations=varied, temperatures=(1.0, 2.0))
    of(replace(live, needs=(need,), protocols=("paper", "careful")))
    found = [(each.spec, each.beside_teacher) for each in asked("01", "smoke").variants]
    fields = ("method", "protocol", "temperature", "seed", "kd_weight", "prompt_in_loss", "frozen")
    each = [(0.9, True, ""), (0.5, True, ""), (1.0, None, "mlp")]
    expected = [("fkl", "careful", 1.0, seed, *own) for seed in (0, 1) for own in each]
    assert [tuple(getattr(spec, name) for name in fields) for spec, _ in found] == expected
    assert not any(beside for _, beside in found)
    for variations, message in (
        ({"seed": 3}, "seed=3 cannot be a setting"),
        ({"kd_weight": 0.0}, "use method='sft'"),
        ({"kd_wait": 0.5}, "kd_wait"),
    ):
        with pytest.raises(ValueError, match=message):
            of(replace(live, needs=(replace(need, variations=(variations,)),)))


# --- settings by domain, protocol and method ---------------------------------------------------------------


def test_settings_of_domain_protocol_and_method_have_the_last_word_in_that_order(live, of):
    need = replace(live.needs[0], methods=("fkl", "gkd"), domains=("math", "commonsense"), seeds=(0,))
    live = replace(
        live,
        needs=(need,),
        settings={"epochs": 1, "batch_size": 4},
        by_domain={"math": {"epochs": 2, "max_tokens": 100}},
        by_protocol={"paper": {"max_tokens": 64}},
        by_method={"gkd": {"epochs": 5, "max_new_tokens": 7}},
    )
    found = {(run.method, run.domain): run for run in of(live, protocol="paper") if run.method != "base"}
    facts = {key: (run.epochs, run.max_tokens, run.max_new_tokens) for key, run in found.items()}
    default = 128
    assert facts[("sft", "math")] == facts[("fkl", "math")] == (2, 64, default)
    assert facts[("gkd", "math")] == (5, 64, 7)
    assert facts[("fkl", "commonsense")] == (1, 64, default)
    assert {run.epochs for run in of(live) if run.method == "sft" and run.domain == "commonsense"} == {1}
    assert {run.batch_size for run in found.values()} == {4}


def test_every_run_is_made_under_every_protocol_and_a_plain_model_evaluated_under_each(live, monkeypatch):
    live = replace(
        live,
        protocols=("paper", "careful"),
        evaluation={"max_new_tokens": 50},
        evaluation_by_protocol={"paper": {"temperature": 1.0, "seed": 6}},
    )
    profile = replace(load_profile("smoke"), live=live)
    monkeypatch.setattr(plan, "load_profile", lambda name: profile)
    runs = asked("01", "smoke").runs
    decoding = {
        kind: {
            (
                run.spec.protocol,
                run.evaluation.temperature,
                run.evaluation.seed,
                run.evaluation.max_new_tokens,
            )
            for run in runs
            if (run.spec.method == "base") == (kind == "base")
        }
        for kind in ("base", "trained")
    }
    assert decoding["trained"] == {("paper", 1.0, 6, 50), ("careful", 0.0, 0, 50)}
    assert decoding["base"] == {("careful", 1.0, 6, 50), ("careful", 0.0, 0, 50)}
    assert len(runs) == 2 * (2 + 3 + 2 * 2)
    one = asked("01", "smoke", protocol="paper").runs
    assert {run.evaluation.temperature for run in one} == {1.0}


def test_careful_runs_are_evaluated_with_every_decoding_and_one_is_shown(live, monkeypatch):
    by_protocol = {"paper": {"temperature": 1.0, "seed": 6}}
    live = replace(live, protocols=("paper", "careful"), evaluation_by_protocol=by_protocol)
    profile = replace(load_profile("smoke"), live=replace(live, decodings=("sampled", "greedy")))
    monkeypatch.setattr(plan, "load_profile", lambda name: profile)

    def ways(runs):
        trained = [run for run in runs if run.spec.method != "base"]
        return {(run.spec.protocol, run.evaluation.temperature, run.evaluation.seed) for run in trained}

    greedy, sampled = asked("01", "smoke"), asked("01", "smoke", decoding="sampled")
    assert ways(greedy.runs) == {("paper", 1.0, 6), ("careful", 0.0, 0)}
    assert ways(sampled.runs) == {("paper", 1.0, 6), ("careful", 1.0, 0)}
    assert [(other.decoding, ways(other.runs)) for other in greedy.others] == [
        ("sampled", {("careful", 1.0, 0)})
    ]
    assert set(greedy.to_make) == set(sampled.to_make)
    assert asked("01", "smoke", protocol="paper").others == ()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("smoke", r"has decodings=\['greedy'\]; choose one of those"),
        ("published", "decoding=sampled changes"),
    ],
)
def test_a_decoding_that_a_profile_has_not_is_refused(profile, message):
    with pytest.raises(ValueError, match=message):
        asked("01", profile, decoding="sampled")


def test_ranking_is_a_second_evaluation_of_tasks_with_options(live, monkeypatch):
    profile = replace(load_profile("smoke"), live=replace(live, ranks=True))
    monkeypatch.setattr(plan, "load_profile", lambda name: profile)
    found = asked("01", "smoke")
    assert {run.evaluation.scoring for run in found.runs} == {"generation"}
    assert found.to_make[: len(found.runs)] == found.runs
    ranked = found.to_make[len(found.runs) :]
    assert [run.spec for run in ranked] == [run.spec for run in found.runs]
    assert {(run.evaluation.scoring, run.evaluation.tasks) for run in ranked} == {("likelihood", ("aqua",))}
    instruction = replace(live.needs[0], domains=("instruction",))
    profile = replace(profile, live=replace(live, ranks=True, needs=(instruction,)))
    assert asked("01", "smoke").to_make == asked("01", "smoke").runs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by_domain": {"maths": {}}}, r"by_domain='maths' must be one of \['math', "),
        ({"by_method": {"sft": {}}}, "by_method.sft='sft': it must be 'fkl', "),
        ({"evaluation_by_protocol": {"authors": {}}}, "protocol.authors='authors': it must be 'careful'"),
        ({"evaluation": {"temperature": 1.0}}, "temperature=1.0 cannot be a setting of protocol careful"),
        ({"protocols": ()}, r"protocols=\(\): it must have at least 1 item"),
    ],
)
def test_settings_are_of_what_there_is(live, fields, message):
    with pytest.raises(ValueError, match=message), one_line_errors():
        replace(live, **fields)


def test_two_models_of_one_short_name_are_refused(live, of):
    need = replace(live.needs[0], pairs=(("b/x-2k", "a/x-1k"),))
    with pytest.raises(ValueError, match="models 'b/x-1k' and 'a/x-1k' have one name in tables"):
        of(replace(live, models=("b/x-1k", "a/x-1k", "b/x-2k"), needs=(need,)))


# --- the profile of the paper ------------------------------------------------------------------------------


def test_the_paper_profile_has_the_runs_that_it_says():
    """By hand. 6 Qwen2.5 form 15 pairs, 4 Llama-3 form 6: 21, of which 11 are released.

    A pair, domain, protocol and seed has 11 students: fkl and revkd at T = 1, 2, 5 make 6, gkd at 1 makes 7,
    fkl with an untuned teacher 8, with noise of 1, 2, 5 (0 is the plain one) 11.
    Distilled: 21 x 11 x 2 domains x 2 protocols x 3 seeds = 2,772.
    SFT: 8 models are students, with 3 seeds; the two largest only teach, with 1: 26 x 2 x 2 = 104.
    Base: 10 models x 2 domains = 20, evaluated under both protocols: 40.
    """
    runs = asked("00", "paper").runs
    methods = Counter(run.spec.method for run in runs)
    assert methods == {"base": 40, "sft": 104, "fkl": 1_764, "revkd": 756, "gkd": 252}
    assert len(runs) == 2_916
    assert len({run.spec for run in runs}) == 2_896
    pairs = {(run.spec.teacher, run.spec.student) for run in runs if run.spec.teacher}
    assert len(pairs) == 21
    released = {(short_name(teacher), short_name(student)) for teacher, student in pairs}
    assert len(set(study.RELEASED_PAIRS)) == 11
    assert set(study.RELEASED_PAIRS) < released
    assert {model_family(student) for _, student in pairs} == {"Qwen2.5", "Llama-3"}
    assert {run.spec.teacher_spec for run in runs if run.spec.teacher} - {None} <= {run.spec for run in runs}


def test_the_paper_profile_trains_as_the_authors_did():
    runs = asked("00", "paper").runs
    for run in (run for run in runs if run.spec.method != "base"):
        own = run.spec
        assert (own.adapter, own.lora_rank, own.lora_alpha, own.lora_dropout) == ("lora", 8, 16.0, 0.05)
        assert own.peak_rate == 3e-4
        assert (own.batch_size, own.epochs) == (16, {"math": 4, "commonsense": 3}[own.domain])
        n_steps = -(-own.train_items // 16) * own.epochs
        assert round(own.warmup_share * n_steps) == 100
        assert own.max_tokens == {"paper": 256, "careful": 1_024}[own.protocol]
        assert own.data == "llm-adapters"
    for run in runs:
        sampled = run.evaluation.temperature == 1.0 and run.evaluation.seed == 6
        assert sampled == (run.spec.protocol == "paper") or run.spec.method == "base"
        assert run.evaluation.max_new_tokens == 256
        assert run.evaluation.items_per_task >= max(constants.TEST_ITEMS.values())
    noise = {run.spec.noise_sigma for run in runs if run.spec.method == "fkl"}
    assert noise == {0.0, 1.0, 2.0, 5.0}
    assert {run.spec.seed for run in runs if run.spec.teacher} == {0, 1, 2}


def test_a_model_of_the_hub_goes_by_both_its_names():
    by_name, by_id = (asked("01", "paper", students=[f"{owner}Qwen2.5-0.5B"]) for owner in ("", "Qwen/"))
    assert by_name.runs == by_id.runs != ()
    assert by_name.shown == by_id.shown
    assert by_id.shown.keeps("students", "Qwen2.5-0.5B")  # as released cells and live ones name it
    assert by_id.shown.keeps("students", "Qwen/Qwen2.5-0.5B")
    assert not by_id.shown.keeps("students", "Qwen2.5-1.5B")
    with pytest.raises(ValueError, match="students=.*name at least one of"):
        asked("01", "paper", students=["Alibaba/Qwen2.5-0.5B"])


def test_sizes_may_be_asked_for(live, monkeypatch):
    runs = asked("01", "smoke", train_items=70, items_per_task=9).runs
    assert {run.evaluation.items_per_task for run in runs} == {9}
    assert {run.spec.train_items for run in runs if run.spec.method != "base"} == {70}
    profile = replace(load_profile("smoke"), live=replace(live, by_domain={"math": {"train_items": 44}}))
    monkeypatch.setattr(plan, "load_profile", lambda name: profile)
    runs = asked("01", "smoke", train_items=70).runs
    assert {run.spec.train_items for run in runs if run.spec.method != "base"} == {70}
    for name in ("train_items", "items_per_task"):
        with pytest.raises(ValueError, match=f"{name}=0 must be greater than or equal to 1"):
            asked("01", "smoke", **{name: 0})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="items_per_task=5 changes what is trained, and profile 'published'"):
        asked("01", "published", items_per_task=5)


def test_devices_may_be_asked_for_and_change_no_name():
    runs, plain = asked("01", "smoke", devices=2).runs, asked("01", "smoke").runs
    assert {run.spec.devices for run in runs} == {2}
    assert {run.spec.teacher_spec.devices for run in runs if run.spec.teacher_spec} == {2}
    assert [run.spec.run_id for run in runs] == [run.spec.run_id for run in plain]
    with pytest.raises(ValueError, match="devices=0 must be greater than or equal to 1"):
        asked("01", "smoke", devices=0)


def test_model_files_stand_in_for_models_of_the_profile_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("KDUTILS_MODELS", raising=False)
    (tmp_path / "config.json").write_text("{}")
    runs = asked("01", "qwen-small", model_files=[f"Qwen/Qwen2.5-0.5B={tmp_path}"]).runs
    assert {run.spec.student_source for run in runs if run.spec.student == "Qwen/Qwen2.5-0.5B"} == {
        str(tmp_path)
    }
    assert {run.spec.teacher_source for run in runs} == {""}
    assert model_files.locate("Qwen/Qwen2.5-0.5B").source == "Qwen/Qwen2.5-0.5B"  # nothing else is changed
    with pytest.raises(ValueError, match="is for none of the models of profile 'qwen-small'"):
        asked("01", "qwen-small", model_files=[f"Qwen/Qwen2.5-7B={tmp_path}"])
    with pytest.raises(ValueError, match="/not/there"):
        asked("01", "qwen-small", model_files=["Qwen/Qwen2.5-0.5B=/not/there"])


def test_qwen_small_is_one_pair_and_shares_its_teachers():
    plan_of = asked("00", "qwen-small")
    assert len(plan_of.runs) == 12
    assert {(run.spec.teacher, run.spec.student) for run in plan_of.runs if run.spec.teacher} == {
        ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-0.5B")
    }
    made = {run.spec for run in plan_of.runs}
    assert {run.spec.teacher_spec for run in plan_of.runs} - {None} <= made  # no teacher is trained twice
    assert {run.spec.sft_spec for run in plan_of.runs if run.spec.teacher} <= made
    assert {run.spec.adapter for run in plan_of.runs if run.spec.method != "base"} == {"lora"}
