"""A spec is refused at construction or names exactly one run."""

import dataclasses
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdutils.constants import DIVERGENCES, METHODS, PREFIXES
from kdutils.spec import EvalSpec, RunSpec

SFT = {"student": "owner/student-1B", "method": "sft", "domain": "math", "data": "items"}
GKD = SFT | {"method": "gkd", "teacher": "owner/teacher-7B"}
SECOND = {"domain": "commonsense", "first_domain": "math"}
KD = {"method": "kd", "prefix": "student", "divergence": "forward_kl"}


def test_equal_floats_are_one_run():
    assert RunSpec(**GKD, temperature=2).run_id == RunSpec(**GKD, temperature=2.0).run_id
    assert RunSpec(**GKD, beta=0.1 + 0.2).run_id != RunSpec(**GKD, beta=0.3).run_id


def test_a_field_at_its_default_is_not_in_the_digest():
    """So a field that is added later, at its default, leaves every old id as it is."""
    assert RunSpec(**SFT).run_id == RunSpec(**SFT, weight_decay=0.01, lora_rank=8).run_id
    assert set(RunSpec(**SFT).changes()) == set(SFT)


def test_ids_are_the_same_on_every_machine():
    assert RunSpec(**SFT).run_id == "student-1B-sft-math-s0-" + RunSpec(**SFT).digest
    assert RunSpec(**SFT).digest == "8634445622b7"
    assert EvalSpec(tasks=("svamp",)).eval_id == "test-31f0d4891d73"


TEACHER, PAPER_TEACHER = "teacher-7B-sft-math-s0-495a0a07c7bf", "teacher-7B-sft-math-s0-21b104090078"
RUN_IDS = (  # of specs -> their ids, as they were before specs were checked by pydantic
    (SFT | {"method": "base"}, "student-1B-base-math-s0-6ab3f10efe36", None),
    (SFT, "student-1B-sft-math-s0-8634445622b7", None),
    (GKD | {"method": "fkl"}, "student-1B-fkl-math-s0-ae7531f3ba48", TEACHER),
    (GKD | {"method": "seqkd"}, "student-1B-seqkd-math-s0-e337cbc1c41c", TEACHER),
    (GKD | {"method": "revkd"}, "student-1B-revkd-math-s0-d15bcdd819f0", TEACHER),
    (GKD, "student-1B-gkd-math-s0-5e6343fce6be", TEACHER),
    (GKD | {"method": "fkl", "protocol": "paper"}, "student-1B-fkl-math-s0-23f4c5c47db1", PAPER_TEACHER),
    (GKD | {"method": "revkd", "protocol": "paper"}, "student-1B-revkd-math-s0-fbaf7edeebcc", PAPER_TEACHER),
    (GKD | {"protocol": "paper"}, "student-1B-gkd-math-s0-a4153326c9c3", PAPER_TEACHER),
    (GKD | {"method": "fkl", "temperature": 2}, "student-1B-fkl-math-s0-a42d76a15b52", TEACHER),
    (
        GKD | {"method": "fkl", "temperature": 2.0, "noise_sigma": 1, "beta": 0.5},
        "student-1B-fkl-math-s0-7bef10de08b0",
        TEACHER,
    ),
    (
        GKD
        | {
            "beta": 0.30000000000000004,
            "on_policy_share": 1,
            "rollout_steps": 4,
            "sampling_temperature": 0.7,
        },
        "student-1B-gkd-math-s0-9c35fd2a4b9a",
        TEACHER,
    ),
    (
        GKD | {"method": "fkl", "teacher_tuned": False, "prompt_in_loss": True, "mean_by_sequence": True},
        "student-1B-fkl-math-s0-6982678d33ef",
        None,
    ),
    (
        GKD | {"method": "fkl", "devices": 2, "learning_rate": 1e-05},
        "student-1B-fkl-math-s0-04c95f72a639",
        TEACHER,
    ),
    (SFT | {"adapter": "lora", "lora_rank": 4, "lora_alpha": 8}, "student-1B-sft-math-s0-177fa222f7b5", None),
    (
        GKD | {"method": "seqkd", "max_new_tokens": 64, "teacher_seed": 3, "seed": 7},
        "student-1B-seqkd-math-s7-7bcb45d13569",
        "teacher-7B-sft-math-s3-62ea82b1277a",
    ),
    (
        SFT | {"student": "mini-qwen-0.5B", "data": "mini", "wrong_rationale_share": 0.5, "weight_decay": 0},
        "mini-qwen-0.5B-sft-math-s0-5395cae391fd",
        None,
    ),
    (
        SFT
        | {
            "student": "/models/qwen ü.gguf",
            "domain": "commonsense",
            "data": "benchmark",
            "select_best": True,
        },
        "qwen-.gguf-sft-commonsense-s0-f1f84432967c",
        None,
    ),
    (
        SFT
        | {
            "max_item_characters": 500,
            "train_items": 40,
            "validation_items": 0,
            "epochs": 1,
            "batch_size": 8,
            "data_digest": "abababababababab",
            "student_digest": "cdcdcdcdcdcdcdcd",
        },
        "student-1B-sft-math-s0-6d346227ef07",
        None,
    ),
    (
        GKD
        | {
            "domain": "instruction",
            "data": "llm-adapters",
            "method": "revkd",
            "max_tokens": 512,
            "warmup_share": 0,
            "max_grad_norm": 2,
        },
        "student-1B-revkd-instruction-s0-abab465f106c",
        "teacher-7B-sft-instruction-s0-aa908b672c81",
    ),
)
EVAL_IDS = (
    ({"tasks": ["svamp"]}, "test-31f0d4891d73"),
    ({"tasks": ("svamp", "aqua"), "temperature": 1, "samples": 4, "seed": 2}, "test-25d85fd959e3"),
    ({"tasks": ("boolq",), "scoring": "likelihood"}, "test-29e3dfab7cf8"),
    (
        {"tasks": ("gsm8k",), "split": "validation", "items_per_task": 7, "max_new_tokens": 128},
        "validation-4bfcdba5014d",
    ),
)


@pytest.mark.parametrize(("fields", "run_id", "teacher_id"), RUN_IDS, ids=[each[1] for each in RUN_IDS])
def test_run_ids_are_those_of_existing_stores(fields, run_id, teacher_id):
    spec = RunSpec(**fields)
    teacher = spec.teacher_spec
    assert (spec.run_id, teacher and teacher.run_id) == (run_id, teacher_id)


def test_every_prefix_goes_with_every_divergence_under_one_name():
    names = []
    for prefix, divergence in product(PREFIXES, DIVERGENCES):
        presets = [key for key, own in METHODS.items() if own[1:] == (prefix, divergence)]
        if presets or (divergence == "jsd" and prefix in ("gold", "student")):
            continue
        spec = RunSpec(**GKD | {"method": "kd", "prefix": prefix, "divergence": divergence})
        assert spec.recipe[1:] == (prefix, divergence)
        assert spec.sft_spec.run_id == RunSpec(**SFT).run_id
        names.append(spec.named_method)
    assert len(set(names)) == len(names) == 4 * 7 - 4 - 2


@pytest.mark.parametrize(("fields", "eval_id"), EVAL_IDS)
def test_eval_ids_are_those_of_existing_stores(fields, eval_id):
    assert EvalSpec(**fields).eval_id == eval_id


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
    assert RunSpec(**GKD, protocol="paper").digest == "a4153326c9c3"  # as before there were any


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
    for beside in (own.sft_spec, own.teacher_spec):
        assert (beside.prompt_in_loss, beside.mean_by_sequence) == (True, None)
    with pytest.raises(ValueError, match="prompt_in_loss=True has no effect with method 'base'"):
        RunSpec(**SFT | {"method": "base", "prompt_in_loss": True})


def test_a_new_evaluation_does_not_retrain():
    assert "tasks" not in {entry.name for entry in dataclasses.fields(RunSpec)}
    assert EvalSpec(tasks=("svamp",)).eval_id != EvalSpec(tasks=("svamp",), max_new_tokens=32).eval_id


def test_a_spec_survives_its_json():
    spec = RunSpec(**GKD, noise_sigma=1)
    assert RunSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="no field 'temprature'; use those of"):
        RunSpec.from_dict(spec.to_dict() | {"temprature": 1.0})


def test_the_teacher_is_a_run_of_its_own_shared_by_its_students():
    teacher = RunSpec(**GKD, seed=3, temperature=2.0).teacher_spec
    assert (teacher.student, teacher.method, teacher.seed) == ("owner/teacher-7B", "sft", 0)
    other = RunSpec(**GKD | {"student": "owner/other-3B", "method": "fkl"}, seed=5)
    assert other.teacher_spec.run_id == teacher.run_id
    assert RunSpec(**GKD, teacher_tuned=False).teacher_spec is None
    few = RunSpec(**GKD, train_items=50, epochs=60, teacher_items=1_000)  # as many sequences
    assert few.teacher_spec == RunSpec(**GKD, train_items=1_000, epochs=3).teacher_spec
    assert (few.sft_spec.train_items, few.sft_spec.teacher_items) == (50, None)


def test_a_teacher_is_tuned_by_lora_and_for_its_own_number_of_epochs_where_it_is_said():
    beside_lora = RunSpec(**GKD, adapter="lora").teacher_spec
    for adapter in ("full", "pissa", "miss", "osf"):
        longer = RunSpec(**GKD, adapter=adapter, teacher_adapter="lora", epochs=9, teacher_epochs=3)
        assert longer.teacher_spec == beside_lora and longer.sft_spec.epochs == 9
    assert RunSpec(**GKD, adapter="lora", teacher_adapter="full").teacher_spec.adapter == "full"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "dpo"}, "method='dpo' must be 'base', 'sft', 'fkl'"),
        ({"domain": "maths"}, r"domain='maths', data='items': the domain must be one of \['math', "),
        ({"data": "study-file"}, "domain='math', data='study-file': the domain must be one of"),
        ({"study_file": "my.toml"}, "domain='math', data='items': the domain must be one of"),
        ({"protocol": "strict"}, "protocol='strict' must be 'careful' or 'paper'"),
        ({"teacher": None}, "method 'gkd' needs a teacher"),
        ({"method": "sft"}, "method 'sft' has no teacher, but teacher='owner/teacher-7B'"),
        ({"temperature": 0}, "temperature=0 must be greater than or equal to 0.01"),
        ({"temperature": float("nan")}, "temperature=nan must be a finite number"),
        ({"noise_sigma": -1}, "noise_sigma=-1 must be greater than or equal to 0"),
        ({"on_policy_share": 1.5}, "on_policy_share=1.5 must be less than or equal to 1"),
        ({"beta": 1}, "beta=1 must be less than or equal to 0.999"),
        ({"epochs": 0}, "epochs=0 must be greater than or equal to 1"),
        ({"seed": -1}, "seed=-1 must be greater than or equal to 0"),
        ({"method": "fkl", "beta": 0.1}, "beta=0.1 has no effect with method 'fkl'"),
        ({"method": "seqkd", "temperature": 2.0}, "temperature=2.0 has no effect with method 'seqkd'"),
        ({"protocol": "paper", "temperature": 2.0}, "the authors' GKD ignores the temperature"),
        ({"teacher_items": 1_500}, "teacher_items=1500 is what it is anyway, as train_items says"),
        ({"teacher_items": 750, "teacher_epochs": 6}, "teacher_epochs=6 is .* as it reads as many sequences"),
        ({"teacher_tuned": False, "teacher_epochs": 3}, "teacher_epochs=3 has no effect with teacher_tuned"),
        ({"lora_rank": 4}, r"lora_rank=4 has no effect with adapter='full': use one of \['lora', "),
        ({"adapter": "id3"}, "adapter='id3' needs adapter_parameters=..."),
        ({"adapter": "lora", "adapter_parameters": 9, "lora_rank": 4}, "no effect beside adapter_parameters"),
        ({"detached": True}, r"detached=True has no effect with adapter='full': use one of \['shadow'\]"),
        ({"adapter": "shadow", "protocol": "paper"}, "the authors' code has no adapter 'shadow'"),
        (
            {"adapter": "dora", "teacher_adapter": "full"},
            "teacher_adapter='full' is what it is anyway, as adapter says, and would give one run two names",
        ),
        ({"mean_by_sequence": True}, "mean_by_sequence=True has no effect with method 'gkd'"),
        (
            {"prompt_in_loss": False},
            "prompt_in_loss=False is .* as protocol 'careful' has it",
        ),
        (
            {"protocol": "paper", "prompt_in_loss": True},
            "is what it is anyway, as protocol 'paper' has it, .*leave it out",
        ),
        ({"method": "fkl", "mean_by_sequence": False}, "mean_by_sequence=False is what it is anyway"),
        ({"method": "opd", "protocol": "paper"}, "the authors' code has no method 'opd'"),
        ({"method": "opd", "on_policy_share": 0.4}, "on_policy_share=0.4 has no effect with method 'opd'"),
        ({"method": "fkl", "prefix": "gold"}, "'fkl' is prefix 'gold' and divergence 'forward_kl' already"),
        ({"kd_weight": 0.5}, "kd_weight=0.5 has no effect with method 'gkd': leave it at 1.0, or use "),
        ({"method": "fkl", "kd_weight": 0}, "kd_weight=0.0 leaves nothing of the teacher .*method='sft'"),
        ({"method": "fkl", "protocol": "paper", "kd_weight": 0.5}, "code has no kd_weight 0.5; use "),
        ({"protocol": "paper", "frozen": "mlp"}, "code has no frozen 'mlp'; use protocol='careful'"),
        (
            {"teacher_tuned": False, "teacher_seed": 1},
            "teacher_seed=1 has no effect with teacher_tuned=False",
        ),
        ({"order_seed": 0}, "order_seed=0 is what it is anyway, as seed says"),
        ({"start_epochs": 2}, "start_epochs=2 has no effect without student_start: give that, or leave"),
        ({"replay_share": 0.1}, "replay_share=0.1 has no effect without first_domain"),
        ({"select_best": True, "validation_items": 0}, "select_best=True has no effect without validation_i"),
        ({"on_policy_share": 0, "rollout_steps": 5}, "rollout_steps=5 has no effect without on_policy_share"),
        (
            {"student_start": "sft", "start_wrong_share": 0.5, "domain": "commonsense"},
            "start_wrong_share=0.5 concerns math of data='mini' alone, not commonsense of 'items'; leave it",
        ),
        ({"build_compression": 2.0}, "build_compression=2.0 has no effect without student_build"),
        ({"penalty_strength": 0.1}, "penalty_strength=0.1 has no effect without penalty"),
        ({"penalty": "l2_sp"}, "penalty='l2_sp' needs a penalty_strength above 0"),
        (
            {"penalty": "intervals", "penalty_strength": 1.0},
            "='intervals' has no effect without first_domain",
        ),
        ({"penalty": "features", "penalty_strength": 1.0}, "='features' has no effect without student_build"),
        (SECOND | {"replay_share": 3e-4}, "replay_share=0.0003 of 1500 items is none: raise it"),
        ({"student_build": "pruned"}, "student_build='pruned' leaves all at build_compression=1.0: raise it"),
        ({"first_domain": "math"}, "first_domain='math' is the domain itself: leave it out"),
        (SECOND | {"student_start": "sft"}, "='math' and student_start='sft' are two starts: leave one"),
        ({"student_start": "sft", "start_items": 1_500}, "start_items=1500 is what it is anyway"),
        (
            {"student_build": "pruned", "adapter": "lora"},
            "='pruned' has no effect with adapter=",
        ),
        ({"protocol": "paper", "optimiser": "muon"}, "code has no optimiser 'muon'; use protocol='careful'"),
        (KD | {"prefix": None}, "prefix=None and divergence='forward_kl' needs both"),
        (KD | {"divergence": None}, "gold responses are method 'sft' and texts of the teacher 'seqkd'"),
        (KD | {"prefix": "gold"}, "prefix='gold' with divergence='forward_kl' is method='fkl': use that"),
        (KD | {"divergence": "reverse_kl"}, "is method='opd': use that"),
        (KD | {"divergence": "jsd"}, "is method='gkd' with on_policy_share=1.0: use that"),
        (KD | {"prefix": "mixed", "on_policy_share": 1.0}, "on_policy_share=1.0 is prefix='student'"),
        (KD | {"beta": 0.3}, r"beta=0.3 has no effect with method 'kd:student\+forward_kl'"),
        (KD | {"protocol": "paper"}, "the authors' code has no method 'kd'"),
        (KD | {"teacher": None}, "method 'kd' needs a teacher"),
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
    with pytest.raises(ValueError, match=f"{next(iter(change))}=.* must be a valid "):
        RunSpec(**GKD | change)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tasks": ()}, "at least one task"),
        ({"tasks": ("svamp", "svamp")}, "none twice"),
        ({"tasks": ("svamp",), "samples": 4}, "greedy decoding"),
        ({"tasks": ("svamp",), "split": "train"}, "split='train' must be 'test' or 'validation'"),
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
    assert (one.digest == other.digest) == (one.temperature == other.temperature)


def test_a_start_is_the_same_student_without_what_is_added_to_its_run():
    after = RunSpec(
        **GKD | {"data": "mini", "student_build": "pruned", "build_compression": 2.0, "student_start": "sft"}
    )
    dense = replace(after.start_spec, seed=after.seed)
    assert (dense.student_build, dense.build_compression, dense.method) == ("", 1.0, "sft")
    own = {"start_epochs": 9, "start_items": 40, "start_wrong_share": 1.0, "start_learning_rate": 1e-4}
    its = {"epochs": 9, "train_items": 40, "wrong_rationale_share": 1.0, "learning_rate": 1e-4}
    assert replace(after, **own).start_spec == replace(dense, **its)
    with pytest.raises(
        ValueError, match="start_learning_rate=0.0001 is what it is anyway, as learning_rate says"
    ):
        replace(after, learning_rate=1e-4, start_learning_rate=1e-4)
    twin = replace(after, order_seed=7)
    assert (twin.start_spec, twin.teacher_spec) == (after.start_spec, after.teacher_spec)
    assert twin.sft_spec == replace(after.sft_spec, order_seed=7)


def test_a_run_on_a_second_domain_starts_from_the_same_run_on_the_first():
    plain = RunSpec(**GKD | SECOND | {"student_build": "pruned", "build_compression": 2.0})
    added = replace(plain, penalty="l2_sp", penalty_strength=0.1, replay_share=0.05)
    assert plain.start_spec == added.start_spec == replace(plain, domain="math", first_domain="")
    teacher = plain.teacher_spec
    assert (teacher.domain, teacher.first_domain, teacher.student_build) == ("commonsense", "", "")
    assert replace(plain, optimiser="muon").teacher_spec == teacher
