"""One run, as it was asked for: everything that can change a result, and nothing that cannot.

A spec has two halves with a hash each. `RunSpec.run_id` names what is trained, `EvalSpec.eval_id` how it is
evaluated, so that a new way of evaluating never retrains a student.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdutils import spec_checks
from kdutils.constants import (
    ADAPTER_FIELDS,
    ADAPTERS,
    ALL_TASKS,
    BUILDS,
    BY_SEQUENCE,
    DIVERGENCES,
    METHODS,
    MINI,
    OF_STARTING_RUN,
    PENALTIES,
    PREFIXES,
    USED_BY,
    Method,
)
from kdutils.data.options import SCORINGS, refusal
from kdutils.io.records import Hashed, Name, Text, between, defaults_of, record
from kdutils.io.text_safety import shown
from kdutils.mini.family import MINI_MODELS

OF_SECOND = ("first_domain", "replay_share", "penalty", "penalty_strength", "order_seed")  # not of a start
OF_START = (  # at their defaults a student starts as it is and is trained on one domain
    *("student_start", *OF_STARTING_RUN, "shrink", "perturb", "frozen", "student_build", "build_compression"),
    *OF_SECOND,
)
MAX_NEW_TOKENS = 96  # of an evaluation's text
Seed = Annotated[int, between(0, 2**31 - 1)]
Share = Annotated[float, between(0, 1)]
SamplingTemperature = Annotated[float, between(0.01, 100)]


@record
class RunSpec(Hashed):
    """What is trained.

    Models are names of the mini family, hub ids, local folders or GGUF files. Fields that a method does not
    use stay at their defaults: a value without effect would make two names for one run.

    `devices` and from where models and a study's items are read are not in the run's name. Devices change a
    result by rounding (and which units LoRA's dropout drops), so a run begun on two can go on on one.
    """

    APART: ClassVar = ("devices", "student_source", "teacher_source", "study_file")

    student: Name
    method: Literal[*METHODS]
    domain: Name  # of TRAIN_DOMAINS, or of a study file
    teacher: Text | None = None
    prefix: Literal[*PREFIXES] | None = None  # kd: whose texts it is trained on; else the method says it
    divergence: Literal[*DIVERGENCES] | None = None  # kd: of teacher and student; else the method says it
    teacher_tuned: bool = True  # the teacher is fine-tuned on the domain first (its own `sft` run)
    teacher_seed: Seed = 0  # of that run, shared by all students
    teacher_items: Annotated[int, between(1, 10_000_000)] | None = None  # None: as many as the student's
    teacher_epochs: Annotated[int, between(1, 1_000)] | None = None  # None: it reads as many sequences
    temperature: SamplingTemperature = 1.0  # of the divergence
    kd_weight: Share = 1.0  # of the divergence in the loss; the rest is cross-entropy of the gold responses
    beta: Annotated[float, between(0.001, 0.999)] = 0.5  # jsd: weight of the teacher in the mixture
    on_policy_share: Share = 0.5  # mixed: share of steps on the student's own samples (lambda)
    sampling_temperature: SamplingTemperature = 1.0  # of the student's own samples
    rollout_steps: Annotated[int, between(1, 10_000)] = 1  # whose samples are drawn at once
    max_new_tokens: Annotated[int, between(1, 8_192)] = 128  # of a sample, or a teacher's text
    noise_sigma: Annotated[float, between(0, 1_000)] = 0.0  # sd of Gaussian noise on the teacher's logits
    protocol: Literal["careful", "paper"] = "careful"  # paper: prompts are scored, losses as the authors'
    prompt_in_loss: bool | None = None  # of this run and of its teacher's; None: as the protocol says
    mean_by_sequence: bool | None = None  # of the loss, else one mean over all tokens; None: as the protocol
    frozen: Literal["", "attention", "mlp"] = ""  # modules of the student that are not trained
    adapter: Literal[*ADAPTERS] = "full"
    adapter_parameters: Annotated[int, between(1, 10**12)] | None = None  # trained; None: as lora_rank says
    lora_rank: Annotated[int, between(1, 1_024)] = 8
    lora_alpha: Annotated[float, between(0.001, 10_000)] = 16.0
    lora_dropout: Annotated[float, between(0, 0.9)] = 0.05
    mask_exponent: Annotated[float, between(0, 8)] = 0.0  # entries w are chosen by |gradient| / |w|^this
    shadow_loss: Literal["cross_entropy", "cross_entropy_full", "teacher"] = "cross_entropy"  # side network's
    detached: bool = False  # shadow: the student is the side network alone
    teacher_adapter: Literal["", "full", "lora"] = ""  # how it is tuned; "": by LoRA beside lora, else full
    student_start: Literal["base", "sft"] = "base"  # sft: the student of its SFT run, which is made first
    start_items: Annotated[int, between(1, 10_000_000)] | None = None  # of that run; None: as of this
    start_epochs: Annotated[int, between(1, 1_000)] | None = None
    start_learning_rate: Annotated[float, between(1e-9, 1)] | None = None
    start_wrong_share: Share | None = None  # its wrong_rationale_share
    first_domain: Text = ""  # it starts from the student of the same run on this domain, see `start_spec`
    replay_share: Share = 0.0  # of train_items: so many items of first_domain are trained on beside them
    shrink: Annotated[float, between(0.001, 1)] = 1.0  # matrices start as shrink * these + perturb * fresh
    perturb: Share = 0.0  # ones; Ash & Adams 2020 (arXiv:1910.08475)
    student_build: Literal["", *BUILDS] = ""  # what is made of the student before its training
    build_compression: Annotated[float, between(1, 10_000)] = 1.0  # weights, or attentions, over those left
    penalty: Literal["", *PENALTIES] = ""  # a term that is added to the loss
    penalty_strength: Annotated[float, between(0, 1e9)] = 0.0
    optimiser: Literal["adamw", "muon", "muon_spectral"] = "adamw"
    seed: Seed = 0
    order_seed: Seed | None = None  # of the order of items alone, not of its start's; None: as seed says
    data: Name = MINI  # benchmark, llm-adapters, study-file, or a folder with a .jsonl file of each split
    prompt: Literal["alpaca", "chat"] = "alpaca"  # chat: of the models' own chat templates
    max_item_characters: Annotated[int, between(1, 10_000_000)] | None = None  # longer ones: not trained on
    wrong_rationale_share: Share = 0.23  # mini: of the training rationales in math, as measured in math_10k
    data_digest: Text = ""  # of the items (+ first_domain's); this and the next two: when it is resolved
    student_digest: Text = ""  # of a local model's files; "" for a hub id
    teacher_digest: Text = ""
    train_items: Annotated[int, between(1, 10_000_000)] = 1_500
    validation_items: Annotated[int, between(0, 1_000_000)] = 120
    epochs: Annotated[int, between(1, 1_000)] = 3
    batch_size: Annotated[int, between(1, 4_096)] = 32
    learning_rate: Annotated[float, between(1e-9, 1)] | None = None  # None: see peak_rate
    warmup_share: Share = 0.05  # of the steps; then linear decay to zero
    weight_decay: Share = 0.01
    max_grad_norm: Annotated[float, between(1e-6, 1e6)] = 1.0
    max_tokens: Annotated[int, between(8, 1_000_000)] = 192  # prompt and response together
    select_best: bool = False  # keep the weights of the epoch with the lowest validation loss
    devices: Annotated[int, between(1, 1_024)] = dataclasses.field(default=1, compare=False)
    student_source: Text = dataclasses.field(default="", compare=False)  # see data.model_files.locate
    teacher_source: Text = dataclasses.field(default="", compare=False)
    study_file: Text = dataclasses.field(default="", compare=False)  # that has the domain, with data STUDY

    def __post_init__(self) -> None:
        spec_checks.check(self, defaults_of(type(self)))

    @cached_property
    def recipe(self) -> Method:
        """What it is trained on and by which divergence, whether its method or its fields say so."""
        if self.method != "kd":
            return METHODS[self.method]
        label = f"KD ({self.divergence} on {PREFIXES[self.prefix]})"
        return Method(label, self.prefix, self.divergence)

    @cached_property
    def named_method(self) -> str:
        """Its method; `kd:student+forward_kl` where that alone does not say what is done."""
        return self.method if self.method != "kd" else f"kd:{self.prefix}+{self.divergence}"

    @cached_property
    def run_id(self) -> str:
        """Name of the run's folder: readable parts and the digest of everything."""
        parts = [self.student, self.named_method, self.domain]
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
    def peak_rate(self) -> float:
        """Its learning rate, else the mini family's own, else the authors': 3e-4 of an adapter, else 2e-5."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.student in MINI_MODELS:
            return MINI_MODELS[self.student].fine_tuning_rate
        return 2e-5 if self.adapter == "full" else 3e-4

    @cached_property
    def stores_whole_model(self) -> bool:
        """Whether what is stored of its student is a model as transformers reads it."""
        return self.adapter == "full" and self.student_build in ("", "pruned") or self.detached

    @cached_property
    def encoding(self) -> dict[str, Any]:
        """How items become tokens: arguments of encoding.encode."""
        names = ["max_tokens", "protocol", *sorted({"prompt_in_loss", "prompt"} & self.changes().keys())]
        return {name: getattr(self, name) for name in names}

    @cached_property
    def sampled_share(self) -> float:
        """Share of the steps that train on the student's own samples, not on texts that are there before."""
        return {"student": 1.0, "mixed": self.on_policy_share}.get(self.recipe.prefix, 0.0)

    @cached_property
    def usual_teacher(self) -> dict[str, Any]:
        """The values of teacher_epochs and teacher_adapter where they are left out."""
        n_epochs = self.epochs * self.train_items // (self.teacher_items or self.train_items)
        adapter = "lora" if self.adapter == "lora" else "full"
        return {"teacher_epochs": max(1, n_epochs), "teacher_adapter": adapter}

    @cached_property
    def teacher_spec(self) -> RunSpec | None:
        """The run that makes the teacher, on the same data by the same settings, at its own learning rate.

        None: it is not tuned, or there is none.
        """
        if self.teacher is None or not self.teacher_tuned:
            return None
        own = {"student": self.teacher, "student_digest": self.teacher_digest, "seed": self.teacher_seed}
        own |= {"student_source": self.teacher_source, "data_digest": self.data_digest.partition("+")[0]}
        own |= defaults_of(RunSpec, *OF_START, "optimiser")
        own["train_items"] = self.teacher_items or self.train_items
        own["epochs"] = self.teacher_epochs or self.usual_teacher["teacher_epochs"]
        adapter = self.teacher_adapter or self.usual_teacher["teacher_adapter"]
        if adapter != self.adapter or self.adapter_parameters is not None:
            own |= defaults_of(RunSpec, *ADAPTER_FIELDS) | {"adapter": adapter}
        return replace(self.sft_spec, **own, learning_rate=None, select_best=False)

    @cached_property
    def sft_spec(self) -> RunSpec:
        """The SFT run beside a distilled student: the same student, seed and settings, without a teacher.

        It starts from the same weights, so that beside a student that starts after SFT it is SFT continued.
        """
        names = [name for name, is_used in USED_BY.items() if not is_used(METHODS["sft"])]
        unused = defaults_of(RunSpec, *names) | {"teacher": None, "teacher_digest": "", "teacher_source": ""}
        return replace(self, method="sft", prefix=None, divergence=None, **unused)

    @cached_property
    def start_spec(self) -> RunSpec | None:
        """The run whose student it starts from; None for the model as it is."""
        if self.first_domain:
            own = {"domain": self.first_domain, "data_digest": self.data_digest.partition("+")[2]}
            return replace(self, **own, **defaults_of(RunSpec, *OF_SECOND, "wrong_rationale_share"))
        if self.student_start == "base":
            return None
        own = {OF_STARTING_RUN[name]: getattr(self, name) for name in OF_STARTING_RUN}
        own = {name: value for name, value in own.items() if value is not None}
        return replace(self.sft_spec, **defaults_of(RunSpec, *OF_START), **own)

    @cached_property
    def needs(self) -> dict[str, RunSpec]:
        """The runs that have to be there before it: of its `teacher`, and of its `start`."""
        found = {"teacher": self.teacher_spec, "start": self.start_spec}
        return {name: spec for name, spec in found.items() if spec is not None}


@record
class EvalSpec(Hashed):
    """How a trained student is evaluated: tasks, decoding, samples.

    Sampling noise is keyed by (seed, item, sample, position), so that batching cannot change a text.
    """

    tasks: Annotated[tuple[Text, ...], Field(strict=False)]  # a list will do
    items_digest: Text = ""  # of items that RunSpec.data_digest does not name (a study file's test items)
    split: Literal["test", "validation"] = "test"
    items_per_task: Annotated[int, between(1, 1_000_000)] = 100
    temperature: Annotated[float, between(0, 100)] = 0.0  # 0 is greedy, otherwise at least 0.01
    top_p: Share = 1.0  # samples are of the fewest tokens whose probability reaches it
    samples: Annotated[int, between(1, 10_000)] = 1  # texts an item
    seed: Seed = 0  # of the sampling
    max_new_tokens: Annotated[int, between(1, 8_192)] = MAX_NEW_TOKENS
    scoring: Literal["generation", *SCORINGS] = "generation"
    rotation: Annotated[int, between(0, 100)] = 0  # places that options are moved on, see data.options

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={shown(self.tasks)} must name at least one task, and none twice")
        if unknown := [task for task in self.tasks if task not in ALL_TASKS and "?answer=" not in task]:
            raise ValueError(f"tasks has {shown(unknown[0])}, which is none; choose from {list(ALL_TASKS)}")
        if self.top_p == 0 or 0 < self.temperature < 0.01:
            name = "temperature" if self.top_p else "top_p"
            raise ValueError(f"{name}={getattr(self, name)} is too small to sample; greedy is temperature=0")
        if self.temperature == 0 and (self.samples, self.seed, self.top_p) != (1, 0, 1.0):
            raise ValueError(
                "greedy decoding (temperature=0) has one text an item, no seed, no top_p: raise temperature"
            )
        for reason in (refusal(task, self.scoring, self.rotation) for task in self.tasks):
            if reason:
                raise ValueError(reason)
        if self.scoring != "generation" and (self.temperature, self.max_new_tokens) != (0, MAX_NEW_TOKENS):
            raise ValueError(
                "temperature, what goes with it and max_new_tokens have no effect with "
                f"scoring={self.scoring!r}: leave them out"
            )

    def same_passes(self) -> EvalSpec:
        """One value for all evaluations that share their forward passes: any decoding, or any cloze score."""
        scoring = "cloze_sum" if self.scoring.startswith("cloze") else self.scoring
        return replace(self, scoring=scoring, temperature=0.0, top_p=1.0, samples=1, seed=0)

    def ranking(self) -> EvalSpec | None:
        """The evaluation that ranks the options of the same items; None if no task has options."""
        tasks = tuple(task for task in self.tasks if ALL_TASKS[task].options)
        own = {name: getattr(self, name) for name in ("split", "items_per_task", "items_digest")}
        return EvalSpec(tasks=tasks, scoring="likelihood", **own) if tasks else None

    @property
    def eval_id(self) -> str:
        """Name of the evaluation's folder within a run."""
        return f"{self.split}-{self.digest}"
