"""Which runs are refused: fields that contradict each other, and values without effect.

A value without effect would make two names for one run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdutils.constants import (
    ADAPTER_FIELDS,
    ADAPTERS,
    BY_SEQUENCE,
    KD_METHODS,
    MASKS,
    METHODS,
    MINI,
    NEEDED,
    NOT_OF_PAPER,
    OF_STARTING_RUN,
    OF_TEACHER,
    PENALTIES,
    STUDY,
    TRAIN_DOMAINS,
    USED_BY,
)
from kdutils.io.text_safety import shown

if TYPE_CHECKING:
    from kdutils.spec import RunSpec


def check(spec: RunSpec, defaults: dict[str, Any]) -> None:
    """Raises ValueError with the value and the remedy. `defaults` are those of the fields."""
    _recipe(spec)
    _domain_and_teacher(spec)
    _used(spec, defaults)
    _protocol(spec)
    _adapter(spec, defaults)
    _additions(spec, defaults)


def _recipe(spec: RunSpec) -> None:
    """One way of training has one name: of its method, or else of its prefix and divergence."""
    own, method = (spec.prefix, spec.divergence), METHODS[spec.method]
    if spec.method != "kd":
        if own != (None, None):
            both = f"prefix {method.prefix!r} and divergence {method.divergence!r}"
            raise ValueError(f"method {spec.method!r} is {both} already; leave both out, or use 'kd'")
        return
    if None in own:
        raise ValueError(
            f"method 'kd' with prefix={spec.prefix!r} and divergence={spec.divergence!r} needs both; "
            "without a divergence gold responses are method 'sft' and texts of the teacher 'seqkd'"
        )
    names = {(each.prefix, each.divergence): f"method={key!r}" for key, each in METHODS.items()}
    for prefix, share in (("gold", 0.0), ("student", 1.0)):
        names[prefix, "jsd"] = f"method='gkd' with on_policy_share={share}"
        if spec.prefix == "mixed" and spec.on_policy_share == share:
            raise ValueError(f"on_policy_share={share} is prefix={prefix!r}: give that")
    if own in names:
        raise ValueError(f"prefix={own[0]!r} with divergence={own[1]!r} is {names[own]}: use that")


def _domain_and_teacher(spec: RunSpec) -> None:
    if len({spec.data == STUDY, spec.study_file != "", spec.domain not in TRAIN_DOMAINS}) > 1:
        raise ValueError(
            f"domain={shown(spec.domain)}, data={shown(spec.data)}: the domain must be one of "
            f"{list(TRAIN_DOMAINS)}, or of study_file=PATH with data={STUDY!r}"
        )
    if not spec.recipe.has_teacher and spec.teacher is not None:
        told = f"method {spec.method!r} has no teacher, but teacher={shown(spec.teacher)}"
        raise ValueError(f"{told}: drop it or use one of {[*KD_METHODS, 'kd']}")
    if spec.recipe.has_teacher and not spec.teacher:
        raise ValueError(f"method {spec.method!r} needs a teacher: give teacher=... or use method='sft'")
    for name in ("wrong_rationale_share", "start_wrong_share"):
        share, is_of_mini = getattr(spec, name), spec.data == MINI and spec.domain == "math"
        if share not in (None, 0.23) and not is_of_mini:
            other = f"not {spec.domain} of {shown(spec.data)}; leave it out"
            raise ValueError(f"{name}={share} concerns math of data='mini' alone, {other}")


def _used(spec: RunSpec, defaults: dict[str, Any]) -> None:
    """No field is set that the method, or what another field follows from, leaves without effect."""
    for name, is_used in USED_BY.items():
        if not is_used(spec.recipe) and getattr(spec, name) != defaults[name]:
            raise ValueError(
                f"{name}={getattr(spec, name)!r} has no effect with method {spec.named_method!r}: leave it "
                f"at {defaults[name]!r}, or use one of {[key for key in METHODS if is_used(METHODS[key])]}"
            )
    for name in OF_TEACHER[1:]:
        if not spec.teacher_tuned and (value := getattr(spec, name)) != defaults[name]:
            raise ValueError(f"{name}={value!r} has no effect with teacher_tuned=False: leave one out")
    is_paper = spec.protocol == "paper"
    by_protocol = {"prompt_in_loss": is_paper, "mean_by_sequence": is_paper and spec.method in BY_SEQUENCE}
    usual = {name: (value, f"protocol {spec.protocol!r} has it") for name, value in by_protocol.items()}
    same = OF_STARTING_RUN | {"teacher_items": "train_items", "order_seed": "seed"}
    usual |= {name: (getattr(spec, other), f"{other} says") for name, other in same.items()}
    of_teacher = {"teacher_epochs": "it reads as many sequences", "teacher_adapter": "adapter says"}
    usual |= {name: (spec.usual_teacher[name], reason) for name, reason in of_teacher.items()}
    for name, (value, reason) in usual.items():
        if value is not None and getattr(spec, name) == value:
            told = f"{name}={value!r} is what it is anyway, as {reason}, and would give one run two names"
            raise ValueError(f"{told}: leave it out")
    if spec.kd_weight == 0:
        raise ValueError("kd_weight=0.0 leaves nothing of the teacher in the loss: use method='sft'")
    if spec.devices > spec.batch_size:
        more = f"devices={spec.devices} is more than the {spec.batch_size} rows of a batch"
        raise ValueError(f"{more}: use devices={spec.batch_size} or fewer, or a larger batch_size")


def _protocol(spec: RunSpec) -> None:
    if spec.protocol != "paper":
        return
    absent = {"method": spec.method in NOT_OF_PAPER, "kd_weight": spec.kd_weight < 1}
    absent |= {"adapter": spec.adapter not in ("full", "lora"), "optimiser": spec.optimiser != "adamw"}
    absent |= {name: getattr(spec, name) != "" for name in ("frozen", "student_build", "penalty")}
    for name, is_absent in (absent | {"first_domain": spec.first_domain != ""}).items():
        if is_absent:
            shows = f"the authors' code has no {name} {getattr(spec, name)!r}"
            raise ValueError(f"protocol='paper': {shows}; use protocol='careful'")
    if spec.method == "gkd" and spec.temperature != 1.0:
        ignored = f"the authors' GKD ignores the temperature, so {spec.temperature} is no other run"
        raise ValueError(f"protocol='paper': {ignored}; use protocol='careful'")


def _adapter(spec: RunSpec, defaults: dict[str, Any]) -> None:
    kind = spec.adapter
    for name in ADAPTER_FIELDS:
        users = [key for key, adapter in ADAPTERS.items() if name in adapter.fields]
        if kind not in users and (value := getattr(spec, name)) != defaults[name]:
            raise ValueError(f"{name}={value!r} has no effect with adapter={kind!r}: use one of {users}")
    if spec.adapter_parameters is None and kind in (*MASKS, "unilora"):
        raise ValueError(f"adapter={kind!r} needs adapter_parameters=...: how many values to train")
    if spec.adapter_parameters and kind not in ("shadow", "spt") and spec.lora_rank != 8:
        raise ValueError(f"lora_rank={spec.lora_rank} has no effect beside adapter_parameters: drop one")


def _additions(spec: RunSpec, defaults: dict[str, Any]) -> None:
    """A build, a penalty, a start and a first domain have all that they take."""
    needed = NEEDED | ({"penalty": other} if (other := PENALTIES.get(spec.penalty)) else {})
    sampling = ("sampling_temperature", "rollout_steps", "max_new_tokens")
    needed |= dict.fromkeys(sampling, "on_policy_share") | {"select_best": "validation_items"}
    for name, other in needed.items():
        if getattr(spec, name) != defaults[name] and getattr(spec, other) in ("", "base", 0):
            value = f"{name}={shown(getattr(spec, name))}"
            raise ValueError(f"{value} has no effect without {other}: give that, or leave {name} out")
    if spec.penalty and not spec.penalty_strength:
        raise ValueError(f"penalty={spec.penalty!r} needs a penalty_strength above 0")
    if spec.replay_share and not round(spec.replay_share * spec.train_items):
        raise ValueError(f"replay_share={spec.replay_share} of {spec.train_items} items is none: raise it")
    if spec.student_build == "pruned" and spec.build_compression == 1:
        raise ValueError("student_build='pruned' leaves all at build_compression=1.0: raise it")
    if spec.student_build == "shared" and spec.optimiser != "adamw":
        raise ValueError(f"optimiser={spec.optimiser!r} steps matrices, shared weights are none: use 'adamw'")
    if spec.student_build == "shared" and spec.frozen:
        raise ValueError(f"frozen={spec.frozen!r}: shared weights belong to no module: leave it out")
    if spec.first_domain == spec.domain:
        raise ValueError(f"first_domain={shown(spec.domain)} is the domain itself: leave it out")
    if spec.first_domain and spec.student_start != "base":
        both = f"first_domain={shown(spec.first_domain)} and student_start={spec.student_start!r}"
        raise ValueError(f"{both} are two starts: leave one of them out")
