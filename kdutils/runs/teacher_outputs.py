"""What a run has of its teacher: the model, its hidden states on the training items, or the texts it wrote.

Each is made once for all students of a teacher and kept in the store, named by all that it depends on:

states/<digest>/          see kdutils.teacher
texts/<digest>.jsonl      id, response and whether it ended, a line an item
texts/<digest>.sha256     of that file, written just before it
"""

import dataclasses
import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdutils import encoding, generation, models, teacher
from kdutils.compute import Compute
from kdutils.data import model_files
from kdutils.io import disk, memory
from kdutils.items import PROMPT, Item, fingerprint
from kdutils.models import LoadedModel
from kdutils.runs import several_devices
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import DamagedError, Store
from kdutils.runs.students import load_trained
from kdutils.spec import RunSpec
from kdutils.teacher import CachedTeacher, Teacher


def teacher_model(inputs: Inputs, at: Store, *, stays_in_memory: bool = False) -> LoadedModel:
    """The teacher of a run, frozen: the untuned model, or the student of its SFT run, which is there."""
    own, how = inputs.spec.teacher_spec, {"compute": at.compute, "stays_in_memory": stays_in_memory}
    if own is None:
        model = models.load(inputs.teacher, prompt=inputs.spec.prompt, **how)
    else:
        model = load_trained(own, at.folder(own.run_id), base=inputs.teacher, **how)
    model.network.requires_grad_(False)
    return model


def teacher_signal(inputs: Inputs, at: Store, *, load: Callable[[], LoadedModel] | None = None) -> Teacher:
    """The teacher of a run as its students see it.

    Its hidden states on the training items are computed once, for all its students, and it is in memory only
    while one trains on its own samples; without `keeps_teacher_states`, they are computed at every step.

    Args:
        load: loads the teacher, frozen; by default whole.
    """
    spec, load = inputs.spec, load or partial(teacher_model, inputs, at)
    if not keeps_states(spec, at.compute):
        return Teacher(load(), spec.noise_sigma, spec.seed)
    opened = made_states(inputs, at).open()
    device = models.policy_for(models.LARGE_PARAMETERS, compute=at.compute).device
    return CachedTeacher(opened, load, device, spec.noise_sigma, spec.seed)


def keeps_states(spec: RunSpec, compute: Compute) -> bool:
    """Whether the teacher's hidden states are kept for this run."""
    return compute.keeps_teacher_states and spec.sampled_share < 1


def made_states(inputs: Inputs, at: Store) -> teacher.States:
    """The states of a run's teacher, made if missing, by as many processes as train the run."""
    kept = states_of(inputs, at)
    with at.lease(kept.name, kept.are_there) as lease:
        if lease is None:
            return kept
        lease.confirm()
        if inputs.spec.devices > 1:
            with several_devices.scratch_folder(at.folder(inputs.spec.run_id)) as scratch:
                several_devices.run(inputs, at, scratch, {"what": "states"})
            return kept
        model = teacher_model(inputs, at)
        encoded = encoding.encode(training_items(inputs, at), model.tokenizer, **inputs.spec.encoding)
        lease.confirm()
        kept.write(model, encoded)
        del model
        gc.collect()  # its weights, before the student's are loaded
        memory.give_back_memory()
    return kept


def states_of(inputs: Inputs, at: Store) -> teacher.States:
    """Where the states of a run's teacher are, or will be."""
    return teacher.states_of(at.out, states_key(inputs, at))


def states_key(inputs: Inputs, at: Store) -> dict[str, Any]:
    """All that a teacher's states depend on: its weights, the items, how they become tokens."""
    own = inputs.spec.teacher_spec
    return {
        "teacher": own.run_id if own else inputs.spec.teacher,
        "weights": at.folder(own.run_id).weights() if own else _untuned_weights(inputs),
        "items": fingerprint(training_items(inputs, at)),
        "prompt": PROMPT,
        **inputs.spec.encoding,
    }


def _untuned_weights(inputs: Inputs) -> str:
    """Digest of the files of an untuned teacher, or the commit of one from the hub."""
    return inputs.spec.teacher_digest or model_files.hub_revision(inputs.teacher)


# --- texts -------------------------------------------------------------------------------------------------


def training_items(inputs: Inputs, at: Store) -> list[Item]:
    """The items that a run is trained on: with their own responses, or those of its teacher.

    A teacher's text that `max_tokens` cuts has no EOS, as one that `max_new_tokens` cut.
    """
    if inputs.spec.recipe.prefix != "teacher":
        return inputs.items.train
    items, spec = teacher_texts(inputs, at), inputs.spec
    bare = [dataclasses.replace(item, ended=False) for item in items]
    without_eos = encoding.encode(bare, inputs.tokenizer, **spec.encoding)["input_ids"]
    return [
        dataclasses.replace(item, ended=item.ended and len(ids) < spec.max_tokens)
        for item, ids in zip(items, without_eos, strict=True)
    ]


def teacher_texts(inputs: Inputs, at: Store) -> list[Item]:
    """The training items with responses that the teacher wrote greedily, generated once.

    What is kept depends on the teacher and the questions alone, so every student of a teacher shares it.
    Source: Kim & Rush 2016 (arXiv:1606.07947), with greedy decoding for their beam search.
    """
    spec, items, path = inputs.spec, inputs.items.train, texts_path(inputs, at)
    name = f"texts-{path.stem}"
    with at.lease(name, path.is_file) as lease:
        if lease is not None:
            model = teacher_model(inputs, at)
            questions = [item.question for item in items]
            prompts = encoding.prompt_ids(questions, model.tokenizer, spec.prompt)
            texts = generation.generate(model, prompts, max_new_tokens=spec.max_new_tokens)
            lease.confirm()
            write_texts(path, items, generation.decode(model, texts), [text.ended for text in texts])
    return read_texts(path, items)


def texts_path(inputs: Inputs, at: Store) -> Path:
    """Where the texts of a run's teacher on its training items are, or will be."""
    own = inputs.spec.teacher_spec
    key = {
        "teacher": own.run_id if own else inputs.spec.teacher,
        "items": fingerprint(inputs.items.train),
        "max_new_tokens": inputs.spec.max_new_tokens,
    }
    if inputs.spec.prompt != "alpaca":
        key["prompt"] = inputs.spec.prompt
    if own is None:  # the id of a run names its weights, a model's name does not
        key["weights"] = _untuned_weights(inputs)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return at.out / "texts" / f"{digest}.jsonl"


def write_texts(path: Path, items: Sequence[Item], responses: Sequence[str], ended: Sequence[bool]) -> None:
    """Keep a response for every item, whole or not at all."""
    lines = [
        json.dumps({"id": item.id, "response": response, "ended": end}, ensure_ascii=False)
        for item, response, end in zip(items, responses, ended, strict=True)
    ]
    content = ("\n".join(lines) + "\n").encode("utf-8")
    disk.write_text(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest() + "\n")
    disk.write_bytes(path, content)


def read_texts(path: Path, items: Sequence[Item]) -> list[Item]:
    """The items with the teacher's responses for their own.

    Raises:
        DamagedError: if the file is not what was written, or not about these items.
    """
    digest = path.with_suffix(".sha256")  # files of before it was kept are taken as they are
    try:
        if digest.is_file() and digest.read_text(encoding="utf-8").strip() != disk.sha256(path):
            raise ValueError("its SHA-256 is not the recorded one")
        kept = [json.loads(line) for line in path.read_text(encoding="utf-8").strip("\n").split("\n")]
        if [record["id"] for record in kept] != [item.id for item in items]:
            raise ValueError("it is about other items")
        return [
            dataclasses.replace(item, response=record["response"], rationale="", ended=record["ended"])
            for item, record in zip(items, kept, strict=True)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(path, error, whole=path, name=f"texts-{path.stem}") from error
