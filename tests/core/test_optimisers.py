"""Muon: what it steps, how far, and that nothing else is stepped otherwise than by AdamW."""

import math
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from kdutils import models, optimisers, training
from kdutils.adapters import trainable
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.data.model_files import ModelError
from kdutils.devices import launch
from kdutils.runs import inputs

RATE, DECAY = 0.02, 0.1
MUON = ("muon", "muon_spectral")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tiny.save_model(root / "student-20k", seed=0)
    tiny.save_model(root / "untied-20k", tied=False, seed=0)
    tiny.write_data(root / "data")
    return root


def a_spec(folder, optimiser, student="student-20k", **fields):
    fields = {"weight_decay": DECAY, "optimiser": optimiser} | fields
    return tiny.spec(str(folder / student), str(folder / "data"), method="sft", **fields)


def a_student(spec):
    student = models.load(spec.student, trains_all=spec.adapter == "full")
    return trainable.make_trainable(student, spec, seed=0)


def names_of(student, weights):
    names = {id(w): name for name, w in student.trained().items()}
    return {names[id(w)] for w in weights}


@pytest.mark.parametrize("optimiser", MUON)
def test_a_step_is_orthogonal_in_matrices_and_of_adamw_elsewhere(folder, optimiser):
    spec = a_spec(folder, optimiser, weight_decay=0.0)
    student, plain = a_student(spec), a_student(spec)
    made = optimisers.make(student, spec, RATE)
    of_torch = torch.optim.AdamW(plain.trained().values(), lr=RATE, weight_decay=0.0, fused=True)
    for seed in range(2):
        for model in (student, plain):
            generator = torch.Generator().manual_seed(seed)
            for w in model.trained().values():
                w.grad = torch.randn(w.shape, generator=generator)
        before = {name: w.detach().clone() for name, w in student.trained().items()}
        made.step()
        of_torch.step()
    linear = names_of(student, optimisers.matrices(student))
    for name, w in student.trained().items():
        if name not in linear:
            assert torch.equal(w, plain.trained()[name])
            continue
        ratio = w.shape[0] / w.shape[1]
        scale = math.sqrt(ratio if optimiser == "muon_spectral" else max(1.0, ratio))
        values = torch.linalg.svdvals((before[name] - w.detach()) / (RATE * scale))
        assert 0.9 < values.max() < 1.25  # where five steps of Newton and Schulz take the largest
        assert ratio == 1 or values.min() > 0.65  # a square random gradient has some of nearly 0


@pytest.mark.parametrize("student", ["student-20k", "untied-20k"])
@pytest.mark.parametrize("optimiser", MUON)
def test_groups_are_shapes_and_all_matrices_decay_alike(folder, optimiser, student):
    spec = a_spec(folder, optimiser, student)
    student = a_student(spec)
    of_adamw, of_muon = optimisers.make(student, spec, RATE).parts
    assert [{w.shape for w in group["params"]} for group in of_muon.param_groups] == [
        {(32, 32)}, {(16, 32)}, {(64, 32)}, {(32, 64)}
    ]  # fmt: skip
    factors = [group["rate_factor"] for group in of_muon.param_groups]
    assert factors == ([1, math.sqrt(0.5), 1, math.sqrt(0.5)] if optimiser == "muon_spectral" else [1] * 4)
    decays = [group["rate_factor"] * group["weight_decay"] for group in of_muon.param_groups]
    assert decays == pytest.approx([DECAY] * 4)
    matrices, vectors = of_adamw.param_groups
    heads = {"model.embed_tokens.weight", "lm_head.weight"}
    assert names_of(student, matrices["params"]) == heads & student.trained().keys()
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (DECAY, 0)
    stepped = [w for group in (*of_adamw.param_groups, *of_muon.param_groups) for w in group["params"]]
    assert names_of(student, stepped) == student.trained().keys() and len(stepped) == len(student.trained())


def test_a_checkpoint_of_adamw_holds_what_it_held(folder, tmp_path):
    spec, checkpoint = a_spec(folder, "adamw", epochs=1), tmp_path / "checkpoint"
    compute, items = Compute(checkpoint_seconds=0.0), sources.load_items(spec, "train")
    student = a_student(spec)
    training.train(student, items, spec, rate=RATE, checkpoint=checkpoint, compute=compute)
    kinds = ("weight", "optimiser/exp_avg", "optimiser/exp_avg_sq", "optimiser/step")
    wanted = {f"{kind}/{name}" for kind in kinds for name in student.trained()}
    assert load_file(checkpoint / "state.safetensors").keys() == wanted


def test_what_muon_cannot_step_is_refused(folder):
    with pytest.raises(ValueError, match="optimiser"):
        a_spec(folder, "sgd")
    with pytest.raises(ValueError, match=r"optimiser='muon' has no effect with adapter='id3'"):
        a_spec(folder, "muon", adapter="id3", adapter_parameters=2_000)
    with pytest.raises(launch.DevicesError, match=r"devices=2: optimiser='muon' needs whole matrices"):
        launch.check_devices(a_spec(folder, "muon", devices=2))
    for own in ({"adapter": "miss"}, {"adapter": "osf"}, {"adapter": "unilora", "adapter_parameters": 2_000}):
        with pytest.raises(ValueError, match=f"'muon' has no effect with adapter='{own['adapter']}'"):
            a_spec(folder, "muon", **own)
    with pytest.raises(ValueError, match=r"optimiser='muon' steps matrices, shared weights are none"):
        a_spec(folder, "muon", student_build="shared", build_compression=2.0)
    spec = a_spec(folder, "muon")
    student = a_student(spec)
    for layer in optimisers.matrices(student):
        layer.requires_grad_(False)
    with pytest.raises(ModelError, match=r"no linear layer of .* has a trained matrix with adapter='full'"):
        optimisers.make(student, spec, RATE)


def test_a_model_without_linear_layers_is_refused_to_muon_before_any_training(folder, tmp_path):
    """GPT-2 has layers of another class in their place."""
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=256, vocab_size=640)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt-20k")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "student-20k" / name, tmp_path / "gpt-20k" / name)
    spec = a_spec(folder, "muon")
    spec = replace(spec, student=str(tmp_path / "gpt-20k"))
    with pytest.raises(ModelError, match=r"optimiser='muon': no linear layer of .*gpt-20k has a trained "):
        inputs.check(inputs.Inputs.of(sources.resolved(spec), None))


def test_the_norms_of_scaled_orthogonal_matrices_are_their_scale(folder):
    spec = a_spec(folder, "adamw", epochs=2, learning_rate=1e-9, weight_decay=0.0)
    student = a_student(spec)
    own = optimisers.matrices(student)
    with torch.no_grad():
        for place, w in enumerate(own):
            torch.nn.init.orthogonal_(w).mul_(math.sqrt(w.shape[0] / w.shape[1]) * (3 if place else 2))
    found = optimisers.norm_band(student)
    assert found == pytest.approx({"least_norm": 2, "largest_norm": 3}, rel=1e-4)
    items, held_out = (sources.load_items(spec, split) for split in ("train", "validation"))
    curve = training.train(student, items, spec, rate=1e-9, validation=held_out).curve
    bands = [entry["largest_norm"] for entry in curve if "largest_norm" in entry]
    assert bands == pytest.approx([3] * 3, rel=1e-3)  # before the first step, after each epoch
