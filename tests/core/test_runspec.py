"""A spec is refused at construction or names exactly one run."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdutils.spec import EvalSpec, RunSpec

SFT = {"student": "owner/student-1B", "method": "sft", "domain": "math", "data": "items"}
GKD = SFT | {"method": "gkd", "teacher": "owner/teacher-7B"}


def test_equal_floats_are_one_run():
    assert RunSpec(**GKD, temperature=2).run_id == RunSpec(**GKD, temperature=2.0).run_id
    assert RunSpec(**GKD, beta=0.1 + 0.2).run_id != RunSpec(**GKD, beta=0.3).run_id


def test_a_field_at_its_default_is_not_in_the_digest():
    """So a field that is added later, at its default, leaves every old id as it is."""
    assert RunSpec(**SFT).run_id == RunSpec(**SFT, weight_decay=0.01, lora_rank=8).run_id
    assert set(RunSpec(**SFT).changes()) == set(SFT)


def test_ids_are_the_same_on_every_machine():
    assert RunSpec(**SFT).run_id == "student-1B-sft-math-s0-" + RunSpec(**SFT).digest()
    assert RunSpec(**SFT).digest() == "8634445622b7"
    assert EvalSpec(tasks=("svamp",)).eval_id == "test-31f0d4891d73"


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 2.0}, {"protocol": "paper"}, {"epochs": 4}])
def test_whatever_changes_a_result_changes_the_id(change):
    assert RunSpec(**GKD | change).run_id != RunSpec(**GKD).run_id


# --- what the protocol says, and what may be said apart from it --------------------------------------------


def test_a_factor_left_to_the_protocol_is_in_no_name_and_no_old_spec_needs_it():
    for change in ({}, {"protocol": "paper"}):
        own = RunSpec(**GKD | {"method": "fkl"} | change)
        assert {"prompt_in_loss", "mean_by_sequence"}.isdisjoint(own.changes())
        assert own.run_id == RunSpec(**own.to_dict() | {"prompt_in_loss": None}).run_id
        old = {key: value for key, value in own.to_dict().items() if key not in FACTORS}
        assert RunSpec.from_dict(old) == own
    assert RunSpec(**GKD, protocol="paper").digest() == "a4153326c9c3"  # as before there were any


FACTORS = ("prompt_in_loss", "mean_by_sequence")


@pytest.mark.parametrize("method", ["sft", "seqkd", "fkl", "revkd", "gkd"])
def test_factors_are_resolved_at_use_one_without_the_other(method):
    teacher = {} if method == "sft" else {"teacher": "owner/teacher-7B"}
    common = SFT | {"method": method} | teacher
    is_kl = method in ("fkl", "revkd")

    def resolved(**change):
        own = RunSpec(**common | change)
        return own.scores_prompt, own.weighs_sequences

    assert resolved() == (False, False)
    assert resolved(protocol="paper") == (True, is_kl)
    assert resolved(prompt_in_loss=True) == (True, False)
    assert resolved(protocol="paper", prompt_in_loss=False) == (False, is_kl)
    if is_kl:
        assert resolved(mean_by_sequence=True) == (False, True)
        assert resolved(protocol="paper", mean_by_sequence=False) == (True, False)
        assert resolved(prompt_in_loss=True, mean_by_sequence=True) == resolved(protocol="paper")


def test_teacher_and_sft_share_the_prompt_and_not_the_weighing():
    own = RunSpec(**GKD | {"method": "fkl", "prompt_in_loss": True, "mean_by_sequence": True})
    for beside in (own.sft_spec(), own.teacher_spec()):
        assert (beside.prompt_in_loss, beside.mean_by_sequence) == (True, None)
    with pytest.raises(ValueError, match="prompt_in_loss=True has no effect with method 'base'"):
        RunSpec(**SFT | {"method": "base", "prompt_in_loss": True})


def test_a_new_evaluation_does_not_retrain():
    assert "tasks" not in {entry.name for entry in dataclasses.fields(RunSpec)}
    assert EvalSpec(tasks=("svamp",)).eval_id != EvalSpec(tasks=("svamp",), max_new_tokens=32).eval_id


def test_a_spec_survives_its_json():
    spec = RunSpec(**GKD, noise_sigma=1)
    assert RunSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="no fields .'temprature'"):
        RunSpec.from_dict(spec.to_dict() | {"temprature": 1.0})


def test_the_teacher_is_a_run_of_its_own_shared_by_its_students():
    teacher = RunSpec(**GKD, seed=3, temperature=2.0).teacher_spec()
    assert (teacher.student, teacher.method, teacher.seed) == ("owner/teacher-7B", "sft", 0)
    other = RunSpec(**GKD | {"student": "owner/other-3B", "method": "fkl"}, seed=5)
    assert other.teacher_spec().run_id == teacher.run_id
    assert RunSpec(**GKD, teacher_tuned=False).teacher_spec() is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "kd"}, "method='kd' is unknown; choose one of"),
        ({"domain": "maths"}, "domain='maths' is unknown"),
        ({"protocol": "strict"}, "protocol='strict' is unknown"),
        ({"teacher": None}, "method 'gkd' needs a teacher"),
        ({"method": "sft"}, "method 'sft' has no teacher, but teacher='owner/teacher-7B'"),
        ({"temperature": 0}, "temperature=0.0 must lie between"),
        ({"temperature": float("nan")}, "temperature=nan must be finite"),
        ({"noise_sigma": -1}, "noise_sigma=-1.0 must lie between"),
        ({"on_policy_share": 1.5}, "on_policy_share=1.5 must lie between 0 and 1"),
        ({"beta": 1}, "beta=1.0 must lie between"),
        ({"epochs": 0}, "epochs=0 must lie between"),
        ({"seed": -1}, "seed=-1 must lie between"),
        ({"method": "fkl", "beta": 0.1}, "beta=0.1 has no effect with method 'fkl'"),
        ({"method": "seqkd", "temperature": 2.0}, "temperature=2.0 has no effect with method 'seqkd'"),
        ({"protocol": "paper", "temperature": 2.0}, "the authors' GKD ignores the temperature"),
        ({"lora_rank": 4}, "lora_rank has no effect with adapter='full'"),
        ({"mean_by_sequence": True}, "mean_by_sequence=True has no effect with method 'gkd'"),
        ({"prompt_in_loss": False}, "prompt_in_loss=False is what protocol 'careful' does anyway"),
        (
            {"protocol": "paper", "prompt_in_loss": True},
            "is what protocol 'paper' does anyway, .*leave it out",
        ),
        ({"method": "fkl", "mean_by_sequence": False}, "mean_by_sequence=False is what protocol 'careful'"),
    ],
)
def test_nonsense_is_refused_with_the_value_and_a_remedy(change, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")) as caught:
        RunSpec(**GKD | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"seed": 1.5}, {"epochs": True}, {"student": 7}, {"select_best": "no"}, {"prompt_in_loss": 1}]
)
def test_wrong_types_are_refused(change):
    with pytest.raises(TypeError, match=f"{next(iter(change))}=.* must be"):
        RunSpec(**GKD | change)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tasks": ()}, "at least one task"),
        ({"tasks": ("svamp", "svamp")}, "none twice"),
        ({"tasks": ("svamp",), "samples": 4}, "greedy decoding"),
        ({"tasks": ("svamp",), "split": "train"}, "split='train' is unknown"),
    ],
)
def test_nonsense_evaluations_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        EvalSpec(**fields)


@given(st.floats(0.01, 99), st.integers(0, 2**31 - 1))
def test_digests_do_not_collide_by_rounding(temperature, seed):
    one, other = (
        RunSpec(**GKD, temperature=value, seed=seed) for value in (temperature, temperature * (1 + 1e-12))
    )
    assert (one.digest() == other.digest()) == (one.temperature == other.temperature)
