"""What a run asks for, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from transformers import PreTrainedTokenizerBase

from kdutils import encoding, models
from kdutils.compute import DEFAULT, Compute
from kdutils.data import hub, sources
from kdutils.data.sources import ModelError, test_items
from kdutils.devices import launch
from kdutils.items import prompt
from kdutils.spec import EvalSpec, PlannedRun, RunSpec


def check(spec: RunSpec, evaluation: EvalSpec, compute: Compute = DEFAULT) -> None:
    """Everything that can be wrong, found before anything is trained.

    Raises:
        ModelError, DataError, ValueError: naming what is wrong and the remedy.
    """
    launch.check_devices(spec, compute)
    check_all([PlannedRun(spec, evaluation)])


def check_all(planned: Iterable[PlannedRun]) -> None:
    """As `check`, for many runs, wherever they are made: what several share is checked once.

    Raises:
        ModelError, DataError: as `check`.
    """
    planned = list(planned)
    named = (name for run in planned for name in (run.spec.student, run.spec.teacher))
    hub.check_models(name for name in named if name is not None)
    pairs = {(run.spec.student, run.spec.teacher, run.spec.method != "seqkd"): run.spec for run in planned}
    for spec in pairs.values():
        models.check_pair(spec)
    for run in {(_items_key(run.spec), run.evaluation): run for run in planned}.values():
        test_items(run.spec, run.evaluation)
    trained = [run.spec for run in planned if run.spec.method != "base"]
    for spec in {_items_key(spec): spec for spec in trained}.values():
        sources.load_items(spec, "validation")
    compared = [spec for spec in trained if spec.teacher is not None and spec.method != "seqkd"]
    named = [*(spec.student for spec in trained), *(spec.teacher for spec in compared)]
    tokenizers = {name: models.load_tokenizer(name) for name in dict.fromkeys(named)}
    alike = {name: _tokenizer_key(name, tokenizer) for name, tokenizer in tokenizers.items()}
    encoded = {(_items_key(s), alike[s.student], *s.encoding.values()): s for s in trained}
    for spec in encoded.values():
        items, tokenizer = sources.load_items(spec, "train"), tokenizers[spec.student]
        encoding.encode(items, tokenizer, **spec.encoding)
    pairs = {(_items_key(spec), alike[spec.student], alike[spec.teacher]): spec for spec in compared}
    for (_, own, other), spec in pairs.items():
        if own != other:
            _check_tokens(spec, tokenizers[spec.student], tokenizers[spec.teacher])


def _check_tokens(spec: RunSpec, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Nothing, if two tokenizers of one vocabulary make the same tokens of all training items."""
    items = sources.load_items(spec, "train")
    for texts in ([prompt(item.question) for item in items], [item.response for item in items]):
        both = [encoding.token_ids(texts, one) for one in (student, teacher)]
        for item, own, other in zip(items, *both, strict=True):
            if own == other:
                continue
            place = next(n for n, pair in enumerate(zip_longest(own, other)) if pair[0] != pair[1])
            own, other = (student.convert_ids_to_tokens(ids[place : place + 3]) for ids in (own, other))
            raise ModelError(
                f"{spec.student} and {spec.teacher} make other tokens of item {item.id!r} ({own}, {other}): "
                f"{spec.method} compares their logits on the same tokens; {models.SAME_TOKENIZER}"
            )


def _tokenizer_key(name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """Equal for tokenizers that give equal tokens, as those of one family do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # the few that are written in Python have none
    return backend.to_str() if backend else name, tokenizer.eos_token


def _items_key(spec: RunSpec) -> tuple:
    """What decides which items a run has."""
    how_many = (spec.train_items, spec.validation_items, spec.max_item_characters)
    return (spec.data, spec.domain, spec.wrong_rationale_share, *how_many)
