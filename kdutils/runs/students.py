"""The student of a run: as it begins, and as it was stored."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

import torch
from safetensors import SafetensorError

from kdutils import models
from kdutils.adapters import facts, trainable
from kdutils.builds import built
from kdutils.compute import DEFAULT, Compute
from kdutils.constants import PENALTIES
from kdutils.data.model_files import Location
from kdutils.models import LoadedModel
from kdutils.noise import key_of, seeded
from kdutils.penalties import terms
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import DamagedError, RunFolder, Store
from kdutils.spec import RunSpec


def student_to_train(inputs: Inputs, at: Store, *, stays_in_memory: bool = False) -> LoadedModel:
    """The student of a run before its first step, with its trainable weights; that of its start is there.

    A run with an adapter that has a start goes on with the adapter of that, so what is stored is one adapter
    of the model as it is. After a first domain nothing is shrunk or built again. `stays_in_memory` as in
    models.load.

    Raises:
        DamagedError: if the weights that it starts from are not what was written.
    """
    spec, start, is_full = inputs.spec, inputs.spec.start_spec, inputs.spec.adapter == "full"
    how = {"compute": at.compute, "stays_in_memory": stays_in_memory}
    if start is None:
        student = models.load(inputs.student, tokenizer=inputs.tokenizer, trains_all=is_full, **how)
    else:
        folder = at.folder(start.run_id)
        student = load_trained(start, folder, base=inputs.student, is_trained_on=True, **how)
    reference, items = None, inputs.items.train if spec.adapter == "spt" or spec.student_build else ()
    if spec.first_domain:
        student = built.kept(student, spec.student_build)
    else:
        shrink_and_perturb(student, spec)
        if PENALTIES.get(spec.penalty) == "student_build":
            reference = dataclasses.replace(student, network=copy.deepcopy(student.network))
        student = built.build(student, spec, items=items)
    if start is None or is_full:
        student = trainable.make_trainable(student, spec, seed=spec.seed, items=items)
    first_items = inputs.of_run(start).items.train if spec.penalty == "intervals" else ()
    return terms.attach(student, spec, reference=reference, items=first_items)


@torch.no_grad()
def shrink_and_perturb(student: LoadedModel, spec: RunSpec) -> None:
    """Replace each matrix w by shrink * w + perturb * fresh, in place; biases and norms stay.

    `fresh` is that matrix of a newly initialised model of the same configuration, drawn from the seed alone.
    Source: Ash & Adams 2020 (arXiv:1910.08475), section 4.
    """
    if (spec.shrink, spec.perturb) == (1.0, 0.0):
        return
    with seeded(key_of(spec.seed, "fresh")):
        made = type(student.causal)(copy.deepcopy(student.causal.config))
    fresh = dict(made.named_parameters())
    for name, w in student.causal.named_parameters():
        if w.ndim > 1:
            w.mul_(spec.shrink).add_(fresh[name].to(w), alpha=spec.perturb)


def load_trained(
    spec: RunSpec,
    folder: RunFolder,
    *,
    base: str | Location | None = None,
    compute: Compute = DEFAULT,
    stays_in_memory: bool = False,
    is_trained_on: bool = False,
) -> LoadedModel:
    """The student of a finished run, ready to compute.

    Args:
        base: where the student is read from before training; None: looked up by its name.
        compute, stays_in_memory: as in models.load.
        is_trained_on: another run goes on with what was trained of it.

    Raises:
        DamagedError: if its weights are not what was written.
    """
    base = spec.student if base is None else base
    load = partial(models.load, prompt=spec.prompt, compute=compute, stays_in_memory=stays_in_memory)
    if spec.method == "base":
        return load(base)
    folder.check_model()
    try:
        if spec.stores_whole_model:
            loaded = load(str(folder.model), trains_all=is_trained_on)
            return dataclasses.replace(loaded, name=spec.student)
        base = load(base, trains_all=is_trained_on and spec.adapter == "full")
        return trainable.loaded(base, spec, folder.model, is_trained_on=is_trained_on)
    except (OSError, ValueError, SafetensorError) as error:  # of a folder without a record of its files
        raise DamagedError(folder.model, error, whole=folder.path, name=folder.path.name) from error


def effective_rank(student: LoadedModel, inputs: Inputs, folder: RunFolder, at: Store) -> float | None:
    """`facts.effective_rank` of what a training changed, as it was stored.

    None with a side network, of a student that was built, with several devices, and for a model of more than
    facts.RANK_PARAMETERS.
    """
    spec, n_parameters = inputs.spec, student.causal.num_parameters()
    has_no_change = spec.adapter == "shadow" or spec.student_build or spec.devices > 1
    if has_no_change or n_parameters > facts.RANK_PARAMETERS:
        return None
    how = {"tokenizer": inputs.tokenizer, "compute": at.compute}
    base = partial(models.load, inputs.student, trains_all=True, **how)  # bfloat16 would round the change
    after = student.network
    if spec.adapter != "full":  # not the student, which merging changes
        after = trainable.merged(trainable.loaded(base(), spec, folder.model))
    return facts.effective_rank(base().network, after)
