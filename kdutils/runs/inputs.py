"""What a run is made of, looked up once: `Inputs`, which `experiment.run` checks and hands on."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice, zip_longest

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from kdutils import encoding, models, optimisers
from kdutils.adapters import trainable
from kdutils.builds import built
from kdutils.constants import MASKS
from kdutils.data import model_files, tokenizers
from kdutils.data.model_files import Location, ModelError
from kdutils.data.sources import Splits
from kdutils.items import DataError, Item
from kdutils.models import LoadedModel
from kdutils.penalties import terms
from kdutils.spec import EvalSpec, RunSpec

Model = tuple[str | None, str, str]  # name, where it is read from, prompt: what a tokenizer depends on
SAME_TOKENIZER = (  # remedy for one vocabulary that two tokenizers use differently
    "copy tokenizer.json and tokenizer_config.json of the teacher into a copy of the student's folder and "
    "name that as the student, or use method='seqkd'"
)


@dataclass(frozen=True)
class Inputs:
    """A resolved spec with its items and models. Each is found at first use; `check` asks for all."""

    spec: RunSpec  # with the digests of its files
    evaluation: EvalSpec | None  # None: the run is trained only
    items: Splits  # shared with the run of the teacher

    @classmethod
    def of(cls, spec: RunSpec, evaluation: EvalSpec | None) -> Inputs:
        """Those of a resolved spec."""
        return cls(spec, evaluation, Splits(spec, evaluation))

    @cached_property
    def student(self) -> Location:
        """Where the student is read from."""
        return model_files.locate(self.spec.student, self.spec.student_source)

    @cached_property
    def teacher(self) -> Location:
        """Where the teacher is read from, before it is tuned."""
        return model_files.locate(self.spec.teacher, self.spec.teacher_source)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's."""
        return tokenizers.load_tokenizer(self.student, self.spec.prompt)

    @cached_property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's, before it is tuned."""
        return tokenizers.load_tokenizer(self.teacher, self.spec.prompt)

    def of_run(self, spec: RunSpec, evaluation: EvalSpec | None = None) -> Inputs:
        """Those of one of `spec.needs`; its items are this run's where they are the same."""
        own = Splits(spec, evaluation)
        return Inputs(spec, evaluation, self.items if self.items.key == own.key else own)


def check(*runs: Inputs) -> None:
    """Find everything that can be wrong with runs and their starts before any training; what is shared once.

    Raises:
        ModelError, DataError: naming what is wrong and the remedy.
    """
    for run in {(run.items.key, *run.spec.needs.values()): run for run in runs}.values():
        check_needed(run)
    starts = {start: run.of_run(start) for run in runs if (start := run.spec.start_spec)}
    runs = (*runs, *starts.values())
    specs = [run.spec for run in runs]
    named = [(s.student, s.student_source) for s in specs] + [(s.teacher, s.teacher_source) for s in specs]
    model_files.check_models(pair for pair in named if pair[0] is not None)
    compared = [run for run in runs if run.spec.recipe.divergence]
    for run in {(_student(run), _teacher(run)): run for run in compared}.values():
        check_pair(run)
    for run in {(run.items.key, run.evaluation): run for run in runs}.values():
        run.items.test  # noqa: B018 - raises if a task has none
    trained = [run for run in runs if run.spec.method != "base"]
    for run in {run.items.key: run for run in trained}.values():
        run.items.validation  # noqa: B018 - raises if there are too few
    for run in runs:
        check_positions(run)
    alone = [run for run in trained if run.spec.devices == 1]
    places = [run.student for run in alone] + [run.teacher for run in alone if run.spec.teacher]
    for place in dict.fromkeys(places):
        check_model(place)
    sizes = ("adapter", "lora_rank", "lora_dropout", "adapter_parameters", "frozen")
    sizes += ("student_build", "build_compression", "optimiser")
    adapted = {(_student(run), *(getattr(run.spec, name) for name in sizes)): run for run in trained}
    for run in adapted.values():
        check_adapter(run)
    for run in (run for run in trained if run.spec.penalty):
        terms.check(run.spec, _skeleton(run.student, known=True))
    own = {_student(run): run for run in trained}
    keys = {model: _tokenizer_key(model, run.tokenizer) for model, run in own.items()}
    for run in {_teacher(run): run for run in compared}.values():
        if _teacher(run) not in keys:
            keys[_teacher(run)] = _tokenizer_key(_teacher(run), run.teacher_tokenizer)
    encoded = {(r.items.key, keys[_student(r)], *r.spec.encoding.values()): r for r in trained}
    for run in encoded.values():
        check_lengths(run, own[_student(run)].tokenizer)
    pairs = {(r.items.key, keys[_student(r)], keys[_teacher(r)]): r for r in compared}
    for (_, of_student, of_teacher), run in pairs.items():
        if of_student != of_teacher:
            _check_tokens(run)


def check_lengths(run: Inputs, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that training and validation items fit `max_tokens`, and that it leaves something to learn.

    Raises:
        DataError: as encoding.encode; and if every training item ends within its prompt, which is not scored.
    """
    train, spec = run.items.train, run.spec
    encoded = encoding.encode([*train, *run.items.validation], tokenizer, **spec.encoding)
    sizes = islice(zip(encoded["input_ids"], encoded["n_unscored"], strict=True), len(train))
    if not any(len(ids) > n_unscored for ids, n_unscored in sizes):
        raise DataError(f"max_tokens={spec.max_tokens} cuts every item within its prompt; raise it")


def check_needed(run: Inputs) -> None:
    """Check that there are enough items for a run's teacher and start, if they have numbers of their own.

    Raises:
        DataError: naming the field of this run that asks for them.
    """
    for role, needed in run.spec.needs.items():
        name = f"{role}_items"
        if getattr(run.spec, name) is not None:
            try:
                run.of_run(needed).items.train  # noqa: B018 - raises if there are too few
            except DataError as error:
                raise DataError(str(error).replace("train_items=", f"{name}=", 1)) from None


def _student(run: Inputs) -> Model:
    return run.spec.student, run.spec.student_source, run.spec.prompt


def _teacher(run: Inputs) -> Model:
    return run.spec.teacher, run.spec.teacher_source, run.spec.prompt


def check_pair(run: Inputs) -> None:
    """Check that the two models of a run fit its method.

    Where logits are compared, both models read the same tokens: their vocabularies must be the same, and
    texts must begin (BOS or none) and end (EOS) with the same tokens; heads may differ in padding rows.
    `check` compares how items are tokenised. Where none are (seqkd) all may differ.

    Raises:
        ModelError: naming the first token that differs, or both beginnings or ends, and the remedy.
    """
    spec = run.spec
    student, teacher = run.tokenizer, run.teacher_tokenizer
    entries = student.get_vocab().items() ^ teacher.get_vocab().items()
    if differing := sorted({token for token, _ in entries}):
        raise ModelError(
            f"{spec.student} and {spec.teacher} have different vocabularies ({len(differing)} tokens, such "
            f"as {differing[0]!r}): {spec.method} compares their logits; use method='seqkd', or models of "
            "one family"
        )
    starts = [repr(one.bos_token) if encoding.start_ids(one) else "no BOS" for one in (student, teacher)]
    ends = [repr(one.eos_token) for one in (student, teacher)]
    for verb, (own, other) in {"begins": starts, "ends": ends}.items():
        if own != other:
            raise ModelError(
                f"{spec.student} {verb} texts with {own}, {spec.teacher} with {other}: {spec.method} "
                f"compares their logits on the same tokens; {SAME_TOKENIZER}"
            )


@cache
def _skeleton(place: Location, known: bool = False) -> PreTrainedModel | None:
    """A model without values; None where it cannot be built so, or is of a `known` type and is not needed."""
    if place.gguf_file is not None:
        return None
    try:
        config = AutoConfig.from_pretrained(place.source, trust_remote_code=False)
    except tokenizers.UNREADABLE as error:
        raise ModelError(model_files.unobtainable(place, error)) from error
    if config.model_type in models.KNOWN and not known:
        return None
    with contextlib.suppress(Exception), torch.device("meta"):  # loading it will say what is wrong
        return AutoModelForCausalLM.from_config(config.get_text_config())
    return None


def check_model(place: Location) -> None:
    """Check that a model's weights are whole, and load it once if its architecture is not a known one.

    Else what its loading refuses would be found after its teacher was trained.

    Raises:
        ModelError: with the remedy.
    """
    model_files.check_weights(place)
    if _skeleton(place) is not None:
        models.load(place)


def check_adapter(run: Inputs) -> None:
    """Check that the student has what is to be built, trained or frozen.

    Raises:
        ModelError: with the remedy.
    """
    spec = run.spec
    if spec.adapter != "full" and (network := _skeleton(run.student, known=True)) is not None:
        trainable.size_of(network, spec)
    if spec.student_build:
        built.check(_skeleton(run.student, known=True), spec)
    is_built = spec.frozen or spec.adapter not in ("full", *MASKS) or spec.optimiser != "adamw"
    if is_built and (network := _skeleton(run.student)) is not None:
        policy = models.policy_for(network.num_parameters())
        model = LoadedModel(spec.student, copy.deepcopy(network), run.tokenizer, policy)
        optimisers.of_muon(trainable.make_trainable(model, spec, seed=0), spec)


@cache
def _n_learned_positions(place: Location) -> int | None:
    """How many positions a model has an embedding for; None if it needs none, as with rotary ones."""
    network = _skeleton(place)
    layers = {} if network is None else dict(network.named_modules())
    is_learned = any(isinstance(x, nn.Embedding) and re.search("pos|wpe", name) for name, x in layers.items())
    return network.config.max_position_embeddings if is_learned else None


def check_positions(run: Inputs) -> None:
    """Check that models with learned positions have as many as their longest sequences need.

    Raises:
        ModelError: with both numbers.
    """
    spec, evaluation = run.spec, run.evaluation
    asked = []  # items, tokens that are generated, and where gold sequences are cut
    if evaluation:
        asked.append((run.items.test, evaluation.max_new_tokens * (evaluation.scoring == "generation"), None))
    if spec.method != "base":
        n_new = spec.max_new_tokens * (spec.recipe.prefix != "gold")
        asked.append((run.items.train, n_new, spec.max_tokens))
    for name, is_teacher in ((spec.student, False), (spec.teacher, True)):
        place = name and (run.teacher if is_teacher else run.student)
        if name is None or (limit := _n_learned_positions(place)) is None:
            continue
        tokenizer = run.teacher_tokenizer if is_teacher else run.tokenizer
        needed = max((_longest(tokenizer, *each, prompt=spec.prompt) for each in asked), default=0)
        if needed > limit:
            raise ModelError(
                f"{name} has {limit} learned positions, and its items with their answers take up to {needed} "
                "tokens: lower max_new_tokens, take shorter items (max_item_characters), or another model"
            )


def _longest(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], n_new: int, at_most: int | None, *, prompt: str
) -> int:
    """Tokens of the longest prompt with its response and EOS, cut at `at_most`, or with `n_new` tokens."""
    prompts = encoding.prompt_ids([item.question for item in items], tokenizer, prompt)
    responses = encoding.token_ids([item.response for item in items], tokenizer)
    gold = max(len(p) + len(r) + 1 for p, r in zip(prompts, responses, strict=True))
    return max(gold if at_most is None else min(gold, at_most), max(map(len, prompts)) + n_new)


def _check_tokens(run: Inputs) -> None:
    """Nothing, if two tokenizers of one vocabulary make the same tokens of all training items."""
    items, spec, student = run.items.train, run.spec, run.tokenizer
    questions, responses = [item.question for item in items], [item.response for item in items]
    tokenizers = student, run.teacher_tokenizer
    prompts = [encoding.prompt_ids(questions, one, spec.prompt) for one in tokenizers]
    for both in (prompts, [encoding.token_ids(responses, one) for one in tokenizers]):
        for item, own, other in zip(items, *both, strict=True):
            if own == other:
                continue
            place = next(n for n, pair in enumerate(zip_longest(own, other)) if pair[0] != pair[1])
            own, other = (student.convert_ids_to_tokens(ids[place : place + 3]) for ids in (own, other))
            raise ModelError(
                f"{spec.student} and {spec.teacher} make other tokens of item {item.id!r} ({own}, {other}): "
                f"{spec.method} compares their logits on the same tokens; {SAME_TOKENIZER}"
            )


def _tokenizer_key(model: Model, tokenizer: PreTrainedTokenizerBase) -> tuple:
    """Equal for tokenizers that give equal tokens, as those of one family do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # the few that are written in Python have none
    return backend.to_str() if backend else model, tokenizer.eos_token, str(tokenizer.chat_template)
