"""One run, as it was asked for: everything that can change a result, and nothing that cannot.

A spec has two halves with a hash each. `RunSpec.run_id` names what is trained, `EvalSpec.eval_id` how it is
evaluated, so that a new way of evaluating never retrains a student.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, Field, ValidationError

from kdutils.constants import (
    ALL_TASKS,
    BY_SEQUENCE,
    KD_METHODS,
    LOGIT_METHODS,
    METHODS,
    RANKED_TASKS,
    TRAIN_DOMAINS,
)
from kdutils.io.text_safety import shown

SCHEMA_VERSION = 1  # part of every hash; raised when a default changes its meaning
MINI = "mini"  # the generated world, kdutils.mini
BENCHMARK = "benchmark"  # real items: of $KDUTILS_DATA/data where that is there, else those of LLM_ADAPTERS
LLM_ADAPTERS = "llm-adapters"  # real items as the authors used them, downloaded once
OF_TRAINING = (
    *("protocol", "prompt_in_loss", "adapter", "seed", "train_items", "validation_items", "epochs"),
    *("batch_size", "learning_rate", "warmup_share", "weight_decay", "max_grad_norm", "select_best"),
    "max_tokens",
)
USED_BY = {  # field -> methods on which it has an effect; a field that is not named here has one on all
    **dict.fromkeys(("temperature", "noise_sigma"), LOGIT_METHODS),
    **dict.fromkeys(("beta", "on_policy_share", "sampling_temperature", "rollout_steps"), ("gkd",)),
    "max_new_tokens": ("gkd", "seqkd"),
    "mean_by_sequence": BY_SEQUENCE,
    **dict.fromkeys(("teacher_tuned", "teacher_seed"), KD_METHODS),
    **dict.fromkeys(OF_TRAINING, tuple(METHODS)[1:]),
}


def _printable(text: str) -> str:
    if not text.isprintable():  # spec.json could not be written, or read by people
        raise ValueError("must be text on one line that can be printed")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: give a name, a folder or a file")
    return text


def _between(least: float, greatest: float) -> Any:
    return Field(ge=least, le=greatest)


Text = Annotated[str, AfterValidator(_printable)]
Name = Annotated[Text, AfterValidator(_not_blank)]
Seed = Annotated[int, _between(0, 2**31 - 1)]
Share = Annotated[float, _between(0, 1)]
SamplingTemperature = Annotated[float, _between(0.01, 100)]


@cache
def _defaults(kind: type) -> dict[str, Any]:
    """Field -> default of a dataclass."""
    return {entry.name: entry.default for entry in dataclasses.fields(kind)}


@dataclass_transform(kw_only_default=True, frozen_default=True)
def _spec(kind: type) -> Any:
    """A frozen pydantic dataclass, strict about types (an int may be a float), with one-line errors."""
    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(kind)
    validate = made.__init__

    def init(self: Any, /, **fields: Any) -> None:
        try:
            validate(self, **fields)
        except ValidationError as error:
            raise ValueError(_in_one_line(made, error, fields)) from None

    made.__init__ = init
    return made


def _in_one_line(kind: type, error: ValidationError, fields: dict[str, Any]) -> str:
    """The first thing that is wrong: field, value, and what it must be."""
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:  # of `__post_init__`
        return str(first["ctx"]["error"])
    name = first["loc"][0]
    if name not in _defaults(kind):
        return f"{kind.__name__} has no field {shown(name)}; use those of {sorted(_defaults(kind))}"
    if name not in fields:
        return f"{kind.__name__} needs {name}: give {name}=..."
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{name}={shown(fields[name])} {reason}"


class _Hashed:
    """What both specs have: a canonical form and its digest."""

    APART: ClassVar[tuple[str, ...]] = ()  # fields that say how it is computed: not in digest and equality

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults; those without a default are always among them."""
        return {
            name: getattr(self, name)
            for name, default in _defaults(type(self)).items()
            if default is dataclasses.MISSING or getattr(self, name) != default
        }

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the canonical form.

        Fields that are APART or at their default are left out: one that is added changes no old digest.
        """
        changes = {name: value for name, value in self.changes().items() if name not in self.APART}
        canonical = {"schema": SCHEMA_VERSION, "kind": type(self).__name__} | changes
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def apart(self) -> tuple[Any, ...]:
        """The fields that are APART: what a cache of equal specs must know besides."""
        return tuple(getattr(self, name) for name in self.APART)

    def to_dict(self) -> dict[str, Any]:
        """Every field, for spec.json."""
        return {name: getattr(self, name) for name in _defaults(type(self))}  # flat, so nothing is copied

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The spec with these fields, the inverse of `to_dict`; a ValueError says what is wrong."""
        return cls(**fields)


@_spec
class RunSpec(_Hashed):
    """What is trained.

    Models are names of the mini family, hub ids, local folders or GGUF files. Fields that a method does not
    use stay at their defaults: a value without effect would make two names for one run.

    `devices` and where models are read from are not in the run's name. Devices change a result by rounding
    (and which units LoRA's dropout drops), so a run begun on two can go on on one.
    """

    APART: ClassVar = ("devices", "student_source", "teacher_source")

    student: Name
    method: Literal[*METHODS]
    domain: Literal[*TRAIN_DOMAINS]
    teacher: Text | None = None
    teacher_tuned: bool = True  # the teacher is fine-tuned on the domain first (its own `sft` run)
    teacher_seed: Seed = 0  # of that run, shared by all students
    temperature: SamplingTemperature = 1.0  # of the divergence
    beta: Annotated[float, _between(0.001, 0.999)] = 0.5  # gkd: weight of the teacher in the mixture
    on_policy_share: Share = 0.5  # gkd: share of steps on the student's own samples (lambda)
    sampling_temperature: SamplingTemperature = 1.0  # gkd: of those samples
    rollout_steps: Annotated[int, _between(1, 10_000)] = 1  # gkd: steps whose samples are drawn at once
    max_new_tokens: Annotated[int, _between(1, 8_192)] = 128  # gkd: of a sample; seqkd: of a teacher's text
    noise_sigma: Annotated[float, _between(0, 1_000)] = 0.0  # sd of Gaussian noise on the teacher's logits
    protocol: Literal["careful", "paper"] = "careful"  # paper: prompts are scored, losses as the authors'
    prompt_in_loss: bool | None = None  # of this run and of its teacher's; None: as the protocol says
    mean_by_sequence: bool | None = None  # of the loss, else one mean over all tokens; None: as the protocol
    adapter: Literal["full", "lora"] = "full"
    lora_rank: Annotated[int, _between(1, 1_024)] = 8
    lora_alpha: Annotated[float, _between(0.001, 10_000)] = 16.0
    lora_dropout: Annotated[float, _between(0, 0.9)] = 0.05
    seed: Seed = 0
    data: Name = MINI  # benchmark, llm-adapters, or a folder with train.jsonl, validation.jsonl, test.jsonl
    prompt: Literal["alpaca", "chat"] = "alpaca"  # chat: of the models' own chat templates
    max_item_characters: Annotated[int, _between(1, 10_000_000)] | None = None  # longer ones: not trained on
    wrong_rationale_share: Share = 0.23  # mini: of the training rationales in math, as measured in math_10k
    data_digest: Text = ""  # of the items; this and the next two are filled in when the run is resolved
    student_digest: Text = ""  # of a local model's files; "" for a hub id
    teacher_digest: Text = ""
    train_items: Annotated[int, _between(1, 10_000_000)] = 1_500
    validation_items: Annotated[int, _between(0, 1_000_000)] = 120
    epochs: Annotated[int, _between(1, 1_000)] = 3
    batch_size: Annotated[int, _between(1, 4_096)] = 32
    learning_rate: Annotated[float, _between(1e-9, 1)] | None = None  # None: see models.learning_rate
    warmup_share: Share = 0.05  # of the steps; then linear decay to zero
    weight_decay: Share = 0.01
    max_grad_norm: Annotated[float, _between(1e-6, 1e6)] = 1.0
    max_tokens: Annotated[int, _between(8, 1_000_000)] = 192  # prompt and response together
    select_best: bool = False  # keep the weights of the epoch with the lowest validation loss
    devices: Annotated[int, _between(1, 1_024)] = dataclasses.field(default=1, compare=False)
    student_source: Text = dataclasses.field(default="", compare=False)  # see data.model_files.locate
    teacher_source: Text = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.method not in KD_METHODS and self.teacher is not None:
            raise ValueError(
                f"method {self.method!r} has no teacher, but teacher={shown(self.teacher)}: drop it or use "
                f"one of {list(KD_METHODS)}"
            )
        if self.method in KD_METHODS and not self.teacher:
            raise ValueError(f"method {self.method!r} needs a teacher: give teacher=... or use method='sft'")
        if self.wrong_rationale_share != 0.23 and (self.data != MINI or self.domain != "math"):
            raise ValueError(
                f"wrong_rationale_share={self.wrong_rationale_share} concerns math of data='mini' alone, "
                f"not {self.domain} of {shown(self.data)}; leave it out"
            )
        defaults = _defaults(type(self))
        for name, methods in USED_BY.items():
            if self.method not in methods and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect with method {self.method!r}: leave it at "
                    f"{defaults[name]}, or use one of {list(methods)}"
                )
        is_paper = self.protocol == "paper"
        if self.method == "gkd" and is_paper and self.temperature != 1.0:
            raise ValueError(
                f"temperature={self.temperature}: the authors' GKD ignores the temperature, so protocol "
                "'paper' has 1 only; use protocol='careful'"
            )
        own = {"prompt_in_loss": is_paper, "mean_by_sequence": is_paper and self.method in BY_SEQUENCE}
        for name, is_so in own.items():
            if getattr(self, name) == is_so:  # None is not False
                raise ValueError(
                    f"{name}={is_so} is what protocol {self.protocol!r} does anyway, and would give one run "
                    "two names: leave it out"
                )
        if self.devices > self.batch_size:
            raise ValueError(
                f"devices={self.devices} is more than the {self.batch_size} rows of a batch, and one without "
                f"a row would idle: use devices={self.batch_size} or fewer, or a larger batch_size"
            )
        for name in ("lora_rank", "lora_alpha", "lora_dropout"):
            if self.adapter == "full" and getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no effect with adapter='full': use adapter='lora'")

    @cached_property
    def run_id(self) -> str:
        """Name of the run's folder: readable parts and the digest of everything."""
        parts = [self.student, self.method, self.domain]
        slug = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part.rstrip("/").rsplit("/", 1)[-1]) for part in parts)
        return f"{slug[:80].strip('-.')}-s{self.seed}-{self.digest}"

    @cached_property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens are trained on, too, all but the first."""
        return self.protocol == "paper" if self.prompt_in_loss is None else self.prompt_in_loss

    @cached_property
    def weighs_sequences(self) -> bool:
        """Whether the loss of a step is the mean over its sequences of each one's mean over its tokens."""
        is_so = self.protocol == "paper" and self.method in BY_SEQUENCE
        return is_so if self.mean_by_sequence is None else self.mean_by_sequence

    @cached_property
    def encoding(self) -> dict[str, Any]:
        """How items become tokens: arguments of encoding.encode."""
        names = ["max_tokens", "protocol", *sorted({"prompt_in_loss", "prompt"} & self.changes().keys())]
        return {name: getattr(self, name) for name in names}

    @cached_property
    def reads_gold(self) -> bool:
        """Whether it is trained on the items' own responses, if only on some of its steps."""
        responses = METHODS[self.method].responses
        return responses == "gold" or responses == "mixed" and self.on_policy_share < 1

    @cached_property
    def teacher_spec(self) -> RunSpec | None:
        """The run that makes the teacher, or None for an untuned teacher or none.

        The teacher is fine-tuned on the same data by the same settings, at its own learning rate.
        """
        if self.teacher is None or not self.teacher_tuned:
            return None
        own = {"student": self.teacher, "student_digest": self.teacher_digest, "seed": self.teacher_seed}
        own["student_source"] = self.teacher_source
        return replace(self.sft_spec, **own, learning_rate=None, select_best=False)

    @cached_property
    def sft_spec(self) -> RunSpec:
        """The SFT run beside a distilled student: the same student, seed and settings, without a teacher."""
        unused = {name: _defaults(RunSpec)[name] for name, methods in USED_BY.items() if "sft" not in methods}
        return replace(self, method="sft", teacher=None, teacher_digest="", teacher_source="", **unused)


@_spec
class EvalSpec(_Hashed):
    """How a trained student is evaluated: tasks, decoding, samples.

    Sampling noise is keyed by (seed, item, sample, position), so that batching cannot change a text.
    """

    tasks: Annotated[tuple[Text, ...], Field(strict=False)]  # a list will do
    split: Literal["test", "validation"] = "test"
    items_per_task: Annotated[int, _between(1, 1_000_000)] = 100
    temperature: Annotated[float, _between(0, 100)] = 0.0  # 0 is greedy
    samples: Annotated[int, _between(1, 10_000)] = 1  # texts an item
    seed: Seed = 0  # of the sampling
    max_new_tokens: Annotated[int, _between(1, 8_192)] = 96
    scoring: Literal["generation", "likelihood"] = "generation"  # likelihood: candidate answers are ranked

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={shown(self.tasks)} must name at least one task, and none twice")
        if unknown := [task for task in self.tasks if task not in ALL_TASKS]:
            raise ValueError(f"tasks has {shown(unknown[0])}, which is none; choose from {list(ALL_TASKS)}")
        if self.temperature == 0 and (self.samples != 1 or self.seed != 0):
            raise ValueError(
                "greedy decoding (temperature=0) has one text an item and no seed: raise temperature"
            )
        if self.scoring == "generation":
            return
        if free := [task for task in self.tasks if task not in RANKED_TASKS]:
            raise ValueError(
                f"task {free[0]!r} has no options to rank; scoring='likelihood' takes {RANKED_TASKS}"
            )
        if self.temperature != 0 or self.max_new_tokens != EvalSpec.max_new_tokens:
            raise ValueError(
                "temperature and max_new_tokens have no effect with scoring='likelihood': leave them out"
            )

    def ranking(self) -> EvalSpec | None:
        """The evaluation that ranks the options of the same items; None if no task has options."""
        tasks = tuple(task for task in self.tasks if task in RANKED_TASKS)
        own = {"split": self.split, "items_per_task": self.items_per_task, "scoring": "likelihood"}
        return EvalSpec(tasks=tasks, **own) if tasks else None

    @property
    def eval_id(self) -> str:
        """Name of the evaluation's folder within a run."""
        return f"{self.split}-{self.digest}"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study needs, and how it is evaluated there."""

    spec: RunSpec
    evaluation: EvalSpec
    beside_teacher: bool = True  # its teacher is evaluated, too, to compare their answers
