"""One run, as it was asked for: everything that can change a result, and nothing that cannot.

A spec has two halves with a hash each. `RunSpec.run_id` names what is trained, `EvalSpec.eval_id` how it is
evaluated, so that a new way of evaluating never retrains a student.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Self

from kdutils.constants import ALL_TASKS, CHOICE_TASKS, KD_METHODS, PROTOCOLS, TRAIN_DOMAINS
from kdutils.io.text_safety import shown

SCHEMA_VERSION = 1  # part of every hash; raised when a default changes its meaning
METHODS = ("base", "sft", *KD_METHODS)  # base: the model as it is, for evaluation
LOGIT_METHODS = ("fkl", "revkd", "gkd")  # they need the teacher's logits, so one vocabulary
BY_SEQUENCE = ("fkl", "revkd")  # of which a step's loss may be the mean over its sequences
ADAPTERS = ("full", "lora")
SCORINGS = ("generation", "likelihood")
MINI = "mini"  # the generated world, kdutils.mini
BENCHMARK = "benchmark"  # real items: of $KDUTILS_DATA/data where that is there, else those of LLM_ADAPTERS
LLM_ADAPTERS = "llm-adapters"  # real items as the authors used them, downloaded once
RANKED_TASKS = ("aqua", *CHOICE_TASKS)  # those with options


TRAINING_FIELDS = (  # without effect where nothing is trained
    *("protocol", "prompt_in_loss", "adapter", "seed", "train_items", "validation_items", "epochs"),
    *("batch_size", "learning_rate", "warmup_share", "weight_decay", "max_grad_norm", "select_best"),
    "max_tokens",
)


@cache
def _defaults(kind: type) -> dict[str, Any]:
    """Field -> default of a dataclass."""
    return {entry.name: entry.default for entry in _fields(kind)}


@cache
def _fields(kind: type) -> tuple[dataclasses.Field, ...]:
    """Of a dataclass; the standard library looks them up anew each time."""
    return dataclasses.fields(kind)


class _Hashed:
    """A frozen dataclass with a canonical form, checked field by field."""

    APART: ClassVar[
        tuple[str, ...]
    ] = ()  # fields that say how it is computed: no part of digest and equality
    RANGES: ClassVar[dict[str, tuple[float, float]]]  # field -> least and greatest value that is legal
    CHOICES: ClassVar[dict[str, tuple[str, ...]]]

    def __post_init__(self) -> None:
        for entry in _fields(type(self)):
            value, default = getattr(self, entry.name), entry.default
            if type(value) is not type(default) or value != default:  # a default is what it must be
                self._check_type(entry)
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={shown(getattr(self, name))} is unknown; choose one of {list(choices)}"
                )
        for name, (least, greatest) in self.RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= greatest:
                raise ValueError(f"{name}={shown(value)} must lie between {least:g} and {greatest:g}")

    def _check_type(self, entry: dataclasses.Field) -> None:
        """An int where a float is declared becomes one, so that 1 and 1.0 are one spec."""
        value = getattr(self, entry.name)
        kinds = {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}
        declared = entry.type.removesuffix(" | None")
        if value is None and entry.type.endswith(" | None"):
            return
        if declared == "float" and type(value) is int:
            if (
                abs(value) >= 2**53
            ):  # from there on ints are rounded, and very large ones are no floats at all
                raise ValueError(f"{entry.name}={shown(value)} is too large; give a number such as 1.0")
            value = float(value)
            object.__setattr__(self, entry.name, value)
        if declared == "tuple[str, ...]" and isinstance(value, list):
            value = tuple(value)
            object.__setattr__(self, entry.name, value)
        if type(value) is not kinds[declared]:
            raise TypeError(f"{entry.name}={shown(value)} must be {entry.type}, not {type(value).__name__}")
        if declared == "float" and not math.isfinite(value):
            raise ValueError(f"{entry.name}={value} must be finite")
        texts = value if declared == "tuple[str, ...]" else [value] if declared == "str" else []
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{entry.name}={shown(value)} must be {entry.type}: give names alone")
        if not all(text.isprintable() for text in texts):  # spec.json could not be written, or read by people
            raise ValueError(f"{entry.name}={shown(value)} must be text on one line that can be printed")
        if declared == "str" and entry.default is dataclasses.MISSING and not value.strip():
            raise ValueError(f"{entry.name}={shown(value)} is empty: give a name")

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults; those without a default are always among them."""
        return {
            name: getattr(self, name)
            for name, default in _defaults(type(self)).items()
            if default is dataclasses.MISSING or getattr(self, name) != default
        }

    def digest(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the canonical form.

        Fields at their default are left out, so a field added later does not change old digests. So are
        those that are APART.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        changes = {name: value for name, value in self.changes().items() if name not in self.APART}
        canonical = {"schema": SCHEMA_VERSION, "kind": type(self).__name__} | changes
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Every field, for spec.json."""
        return {name: getattr(self, name) for name in _defaults(type(self))}  # flat, so nothing is copied

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The spec with these fields; the inverse of `to_dict`.

        Raises:
            ValueError: for a field that the spec does not have, or one that it must have and that is missing.
        """
        known = _defaults(cls)
        if unknown := [name for name in fields if name not in known]:
            raise ValueError(f"{cls.__name__} has no fields {shown(unknown)}; use those of {sorted(known)}")
        needed = [name for name, default in known.items() if default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in fields]:
            raise ValueError(f"{cls.__name__} needs {missing[0]}: give {missing[0]}=...")
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class RunSpec(_Hashed):
    """What is trained.

    Models are names of the mini family, hub ids, local folders or GGUF files. Fields that a method does not
    use must stay at their defaults: a value without effect would make two names for one run.

    `devices` is told and kept, but is no part of the run's name. Like the kind of device, its threads, and
    the passes that memory cuts a batch into, it changes a result by rounding, and which units LoRA's dropout
    drops. So a run that was begun on two devices goes on on one, teachers are shared, and what is finished
    is found whatever it was made on.
    """

    student: str
    method: str  # base | sft | fkl | seqkd | revkd | gkd
    domain: str  # math | commonsense | instruction
    teacher: str | None = None
    teacher_tuned: bool = True  # the teacher is fine-tuned on the domain first (its own `sft` run)
    teacher_seed: int = 0  # of that run, shared by all students
    temperature: float = 1.0  # of the divergence
    beta: float = 0.5  # gkd: weight of the teacher in the mixture
    on_policy_share: float = 0.5  # gkd: share of steps on the student's own samples (lambda)
    sampling_temperature: float = 1.0  # gkd: of those samples
    rollout_steps: int = 1  # gkd: so many steps' samples are drawn at once, before the first of them
    max_new_tokens: int = 128  # gkd: their length, and that of the teacher's texts in seqkd
    noise_sigma: float = 0.0  # standard deviation of Gaussian noise on the teacher's logits
    protocol: str = "careful"  # careful | paper (prompt tokens in the loss, mean by sequence, long items cut)
    prompt_in_loss: bool | None = None  # of this run and of its teacher's; None: as the protocol says
    mean_by_sequence: bool | None = None  # of the loss, else one mean over all tokens; None: likewise
    adapter: str = "full"  # full | lora
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    seed: int = 0
    data: str = MINI  # benchmark, llm-adapters, or a folder with train.jsonl, validation.jsonl, test.jsonl
    max_item_characters: int | None = None  # question and response; longer ones are not trained on
    wrong_rationale_share: float = 0.23  # mini: of the training rationales in math, as measured in math_10k
    data_digest: str = ""  # of the items; this and the next two are filled in when the run is resolved
    student_digest: str = ""  # of a local model's files; "" for a hub id
    teacher_digest: str = ""
    train_items: int = 1_500
    validation_items: int = 120
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float | None = None  # None: the model's own, see models.learning_rate
    warmup_share: float = 0.05  # of the steps; then linear decay to zero
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_tokens: int = 192  # prompt and response together
    select_best: bool = False  # keep the weights of the epoch with the lowest validation loss
    devices: int = dataclasses.field(default=1, compare=False)  # that share it, and the run of its teacher

    APART: ClassVar = ("devices",)

    CHOICES: ClassVar = {
        "method": METHODS,
        "domain": TRAIN_DOMAINS,
        "protocol": PROTOCOLS,
        "adapter": ADAPTERS,
    }
    RANGES: ClassVar = {
        "temperature": (0.01, 100.0),
        "beta": (0.001, 0.999),
        "on_policy_share": (0.0, 1.0),
        "sampling_temperature": (0.01, 100.0),
        "rollout_steps": (1, 10_000),
        "max_new_tokens": (1, 8_192),
        "noise_sigma": (0.0, 1_000.0),
        "wrong_rationale_share": (0.0, 1.0),
        "lora_rank": (1, 1_024),
        "lora_alpha": (0.001, 10_000.0),
        "lora_dropout": (0.0, 0.9),
        "seed": (0, 2**31 - 1),
        "teacher_seed": (0, 2**31 - 1),
        "max_item_characters": (1, 10_000_000),
        "train_items": (1, 10_000_000),
        "validation_items": (0, 1_000_000),
        "epochs": (1, 1_000),
        "batch_size": (1, 4_096),
        "learning_rate": (1e-9, 1.0),
        "warmup_share": (0.0, 1.0),
        "weight_decay": (0.0, 1.0),
        "max_grad_norm": (1e-6, 1e6),
        "max_tokens": (8, 1_000_000),
        "devices": (1, 1_024),
    }
    # Fields that only some methods use.
    USED_BY: ClassVar = {
        "temperature": LOGIT_METHODS,
        "noise_sigma": LOGIT_METHODS,
        "beta": ("gkd",),
        "on_policy_share": ("gkd",),
        "sampling_temperature": ("gkd",),
        "rollout_steps": ("gkd",),
        "max_new_tokens": ("gkd", "seqkd"),
        "mean_by_sequence": BY_SEQUENCE,
        "teacher_tuned": KD_METHODS,
        "teacher_seed": KD_METHODS,
        **dict.fromkeys(TRAINING_FIELDS, METHODS[1:]),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data.strip():
            raise ValueError(f"data={self.data!r} is empty: give {MINI!r}, {BENCHMARK!r} or a folder")
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
        for name, methods in self.USED_BY.items():
            if self.method not in methods and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect with method {self.method!r}: leave it at "
                    f"{defaults[name]}, or use one of {list(methods)}"
                )
        if self.method == "gkd" and self.protocol == "paper" and self.temperature != 1.0:
            raise ValueError(
                f"temperature={self.temperature}: the authors' GKD ignores the temperature, so protocol "
                "'paper' has 1 only; use protocol='careful'"
            )
        for name, is_so in self._of_protocol().items():
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
        if self.adapter == "full":
            for name in ("lora_rank", "lora_alpha", "lora_dropout"):
                if getattr(self, name) != defaults[name]:
                    raise ValueError(f"{name} has no effect with adapter='full': use adapter='lora'")

    @cached_property
    def run_id(self) -> str:
        """Name of the run's folder: readable parts and the digest of everything."""
        parts = [self.student, self.method, self.domain]
        slug = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part.rstrip("/").rsplit("/", 1)[-1]) for part in parts)
        return f"{slug[:80].strip('-.')}-s{self.seed}-{self.digest()}"

    def _of_protocol(self) -> dict[str, bool]:
        """What the protocol says where a field leaves it to it."""
        is_paper = self.protocol == "paper"
        return {"prompt_in_loss": is_paper, "mean_by_sequence": is_paper and self.method in BY_SEQUENCE}

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens are trained on, too, all but the first."""
        return self._of_protocol()["prompt_in_loss"] if self.prompt_in_loss is None else self.prompt_in_loss

    @property
    def weighs_sequences(self) -> bool:
        """Whether the loss of a step is the mean over its sequences of each one's mean over its tokens."""
        own = self.mean_by_sequence
        return self._of_protocol()["mean_by_sequence"] if own is None else own

    @property
    def encoding(self) -> dict[str, Any]:
        """How items become tokens: arguments of data.encode."""
        own = {} if self.prompt_in_loss is None else {"prompt_in_loss": self.prompt_in_loss}
        return {"max_tokens": self.max_tokens, "protocol": self.protocol} | own

    @property
    def reads_gold(self) -> bool:
        """Whether it is trained on the items' own responses, if only on some of its steps."""
        return self.method not in ("base", "seqkd") and not (
            self.method == "gkd" and self.on_policy_share == 1
        )

    def teacher_spec(self) -> RunSpec | None:
        """The run that makes the teacher, or None for an untuned teacher or none.

        The teacher is fine-tuned on the same data by the same settings, at its own learning rate.
        """
        return self._teacher_spec

    @cached_property
    def _teacher_spec(self) -> RunSpec | None:
        if self.teacher is None or not self.teacher_tuned:
            return None
        own = {"student": self.teacher, "student_digest": self.teacher_digest, "seed": self.teacher_seed}
        return replace(self.sft_spec(), **own, learning_rate=None, select_best=False)

    def sft_spec(self) -> RunSpec:
        """The SFT run beside a distilled student: the same student, seed and settings, without a teacher."""
        return self._sft_spec

    @cached_property
    def _sft_spec(self) -> RunSpec:
        settings = self.to_dict() | {"method": "sft", "teacher": None, "teacher_digest": ""}
        defaults = _defaults(type(self))
        unused = [name for name, methods in self.USED_BY.items() if "sft" not in methods]
        return RunSpec(**settings | {name: defaults[name] for name in unused})


@dataclass(frozen=True, kw_only=True)
class EvalSpec(_Hashed):
    """How a trained student is evaluated: tasks, decoding, samples.

    Sampling noise is keyed by (seed, item, sample, position), so that batching cannot change a text.
    """

    tasks: tuple[str, ...]
    split: str = "test"  # test | validation
    items_per_task: int = 100
    temperature: float = 0.0  # 0 is greedy
    samples: int = 1  # texts an item
    seed: int = 0  # of the sampling
    max_new_tokens: int = 96
    scoring: str = "generation"  # likelihood: candidate answers are ranked, nothing is generated

    CHOICES: ClassVar = {"split": ("test", "validation"), "scoring": SCORINGS}
    RANGES: ClassVar = {
        "items_per_task": (1, 1_000_000),
        "temperature": (0.0, 100.0),
        "samples": (1, 10_000),
        "seed": (0, 2**31 - 1),
        "max_new_tokens": (1, 8_192),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={shown(self.tasks)} must name at least one task, and none twice")
        if unknown := [task for task in self.tasks if task not in ALL_TASKS]:
            raise ValueError(f"tasks has {shown(unknown[0])}, which is none; choose from {list(ALL_TASKS)}")
        if self.temperature == 0 and (self.samples != 1 or self.seed != 0):
            raise ValueError(
                "greedy decoding (temperature=0) has one text an item and no seed: raise temperature"
            )
        if self.scoring == "likelihood":
            self._check_ranking()

    def _check_ranking(self) -> None:
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
        if not tasks:
            return None
        return EvalSpec(
            tasks=tasks, split=self.split, items_per_task=self.items_per_task, scoring="likelihood"
        )

    @property
    def eval_id(self) -> str:
        """Name of the evaluation's folder within a run."""
        return f"{self.split}-{self.digest()}"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study needs, and how it is evaluated there."""

    spec: RunSpec
    evaluation: EvalSpec
    beside_teacher: bool = True  # its teacher is evaluated likewise, to compare their answers
