"""Each penalty is its formula, gives the gradient of it, and is the same after an interruption."""

import copy
import dataclasses
import itertools

import pytest
import tiny
import torch

from kdutils import encoding, models, training
from kdutils.adapters import trainable
from kdutils.builds import built
from kdutils.compute import Compute
from kdutils.constants import PENALTIES
from kdutils.data import sources
from kdutils.data.model_files import ModelError
from kdutils.devices import launch
from kdutils.penalties import intervals, terms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tiny.save_study(tmp_path_factory.mktemp("models"))
    tiny.save_model(root / "spread-20k", spread=0.2)  # so that activations differ
    return root


def a_spec(folder, penalty, **fields):
    needs = {"": {}, "first_domain": {"first_domain": "commonsense"}}
    needs["student_build"] = {"student_build": "low_rank_plain", "build_compression": 2.0}
    fields = {"penalty": penalty, "penalty_strength": 0.5} | needs[PENALTIES[penalty]] | fields
    return tiny.spec(str(folder / "spread-20k"), str(folder / "data"), **fields)


def begun(spec):
    """(student, reference) before the first step."""
    student = models.load(spec.student, trains_all=True)
    reference = dataclasses.replace(student, network=copy.deepcopy(student.network))
    items = sources.load_items(spec, "train")
    student = trainable.make_trainable(built.build(student, spec, items=items), spec, seed=0)
    return terms.attach(student, spec, reference=reference, items=items), reference


def a_batch(student, spec, rows=range(6)):
    encoded = encoding.encode(sources.load_items(spec, "train"), student.tokenizer, **spec.encoding)
    return encoding.collate(encoded, rows, pad_id=student.pad_id)


@torch.no_grad()
def shift(student, by=0.01):
    """Move all weights, as training does."""
    draws = torch.Generator().manual_seed(3)
    for w in student.network.parameters():
        w.add_(torch.randn(w.shape, generator=draws), alpha=by)


def test_every_penalty_that_a_spec_may_name_is_made():
    assert set(terms.TERMS) == set(PENALTIES)


def test_without_one_there_is_none(folder):
    spec = tiny.spec(str(folder / "spread-20k"), str(folder / "data"))
    student = models.load(spec.student, trains_all=True)
    assert terms.attach(student, spec) is student
    assert student.penalty(a_batch(student, spec)) is None


def test_l2_sp_is_half_the_sum_of_squares_and_pulls_back_by_the_distance(folder):
    student, reference = begun(spec := a_spec(folder, "l2_sp"))
    assert student.penalty(a_batch(student, spec)) == 0
    shift(student)
    found = student.penalty(a_batch(student, spec))
    found.backward()
    pairs = list(zip(student.network.parameters(), reference.network.parameters(), strict=True))
    distance = sum(float((w - start).detach().square().sum()) for w, start in pairs)
    assert float(found.detach()) == pytest.approx(0.5 * distance / 2, rel=1e-5)
    assert all(torch.allclose(w.grad, 0.5 * (w - start), atol=1e-7) for w, start in pairs)


# --- intervals ----------------------------------------------------------------------------------------------


def test_a_box_has_the_fifth_and_the_ninety_fifth_percentile():
    order = torch.randperm(101, generator=torch.Generator().manual_seed(0)).float()
    low, high = intervals.box(torch.stack([order, 10 + order / 100], dim=1))
    assert torch.allclose(low, torch.tensor([5, 10.05]))
    assert torch.allclose(high, torch.tensor([95, 10.95]))


def test_bounds_contain_every_output_over_the_box_and_are_reached_at_its_corners():
    draws = torch.Generator().manual_seed(1)
    change, bias = torch.randn(4, 5, generator=draws), torch.randn(4, generator=draws)
    low = torch.randn(5, generator=draws)
    box = low, low + torch.rand(5, generator=draws)
    lower, upper = intervals.drift(change, bias, box)
    inside = low + torch.rand(10_000, 5, generator=draws) * (box[1] - low)
    outputs = inside @ change.T + bias
    assert (outputs >= lower - 1e-6).all()
    assert (outputs <= upper + 1e-6).all()
    corners = torch.stack([torch.stack(each) for each in itertools.product(*zip(*box, strict=True))])
    outputs = corners @ change.T + bias
    assert torch.allclose(outputs.amin(0), lower, atol=1e-5)
    assert torch.allclose(outputs.amax(0), upper, atol=1e-5)


def test_boxes_are_of_the_real_tokens_that_enter_the_down_projections(folder):
    student, _ = begun(spec := a_spec(folder, "intervals"))
    items = sources.load_items(spec, "train")
    found = intervals.boxes(student, items, spec)
    assert list(found) == [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)]
    inputs = []
    hook = student.causal.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].detach())
    )
    for row in range(len(items)):  # each alone, so without padding
        student.hidden_states(a_batch(student, spec, [row]).input_ids_BT)
    hook.remove()
    inputs_NI = torch.cat([each[0] for each in inputs])
    low, high = found["model.layers.1.mlp.down_proj"]
    assert torch.allclose(low, inputs_NI.quantile(0.05, dim=0, interpolation="nearest"), atol=1e-5)
    assert torch.allclose(high, inputs_NI.quantile(0.95, dim=0, interpolation="nearest"), atol=1e-5)


def test_intervals_punish_what_moves_outputs_within_the_box_alone(folder):
    student, _ = begun(spec := a_spec(folder, "intervals"))
    batch = a_batch(student, spec)
    assert student.penalty(batch) == 0
    known = intervals.boxes(student, sources.load_items(spec, "train"), spec)
    with torch.no_grad():
        student.causal.model.layers[0].mlp.up_proj.weight.add_(1.0)  # no down projection
        assert student.penalty(batch) == 0
        student.causal.model.layers[1].mlp.down_proj.weight[2, 7] += 0.1
    low, high = (float(bound[7]) for bound in known["model.layers.1.mlp.down_proj"])
    wanted = 0.01 * (low**2 + high**2) / 32 / 2  # of 32 outputs, and of two layers
    assert float(student.penalty(batch).detach()) == pytest.approx(0.5 * wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"penalty": "intervals"}, "model of 2 blocks has 1 layers named down_proj"),
        ({"penalty": "intervals", "adapter": "lora"}, "adapter='lora' does not train; use 'full'"),
        ({"penalty": "intervals", "frozen": "mlp"}, "which frozen='mlp' does not train; drop one of them"),
        ({"penalty": "features", "first_domain": "commonsense"}, "the student was built before"),
    ],
)
def test_a_penalty_that_could_not_act_is_refused(folder, fields, says):
    network = models.load(str(folder / "spread-20k")).causal
    del network.model.layers[0].mlp.down_proj
    with pytest.raises(ModelError, match=says):
        terms.check(a_spec(folder, **fields), network)


# --- of a built student -------------------------------------------------------------------------------------


def test_features_are_compared_at_scored_positions_after_every_block(folder):
    student, reference = begun(spec := a_spec(folder, "features"))
    batch, run = a_batch(student, spec), student.network.train()
    student.scoring_states(batch)
    found = student.penalty(batch)
    found.backward()
    assert student.causal.model.layers[1].mlp.down_proj[0].weight.grad.abs().max() > 0
    errors = []
    with torch.no_grad():
        own, wanted = (
            network.model(input_ids=batch.input_ids_BT, output_hidden_states=True).hidden_states[1:]
            for network in (run, reference.network)
        )
        for one, other in zip(own, wanted, strict=True):
            scored = batch.scored_BT[:, 1:]
            errors.append(float((one - other)[:, :-1][scored].square().mean()))
    assert len(errors) == 2
    assert float(found.detach()) == pytest.approx(0.5 * sum(errors) / 2, rel=1e-4)


@pytest.mark.parametrize("build", ["low_rank_plain", "shared", "pruned"])
def test_perturbation_is_the_square_of_the_largest_entry_around_epsilon(folder, build):
    student, reference = begun(spec := a_spec(folder, "perturbation", student_build=build))
    batch, modules = a_batch(student, spec), dict(student.causal.named_modules())
    student.scoring_states(batch)
    largest = [
        float((modules[name].weight - layer.weight).detach().abs().max())
        for name, layer in built.linear_layers(reference.causal).items()
    ]
    assert len(largest) == 14
    wanted = sum((each - 1e-3) ** 2 for each in largest) / 14
    found = student.penalty(batch)
    assert float(found.detach()) == pytest.approx(0.5 * wanted, rel=1e-4)
    found.backward()
    if build == "low_rank_plain":
        gradient = student.causal.model.layers[0].mlp.down_proj[1].weight.grad
        assert int((gradient != 0).any(1).sum()) == 1  # of one entry of B A, so of one row of B


# --- in the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
def test_micro_batches_change_nothing_and_the_strength_is_a_factor(folder, penalty):
    found = {}
    for strength, rows in ((0.5, 8), (0.5, 3), (1.0, 8)):
        spec = a_spec(folder, penalty, penalty_strength=strength)
        student, _ = begun(spec)
        shift(student)
        student.network.train()
        items, compute = sources.load_items(spec, "train"), Compute(micro_batch_rows=rows)
        run = training._Training(student, items, spec, rate=1e-3, compute=compute)
        batch, _ = run.batch(0)
        found[strength, rows] = run.gradients(batch, 0)
        alone = run.gradients(batch, 0)
        assert alone == found[strength, rows]
    assert found[0.5, 8] == pytest.approx(found[0.5, 3], rel=1e-4)
    plain, _ = begun(dataclasses.replace(spec, penalty="", penalty_strength=0.0))
    shift(plain)
    run = training._Training(plain, items, spec, rate=1e-3)
    without = run.gradients(batch, 0)
    added = found[0.5, 8] - without
    assert added > 0
    assert found[1.0, 8] - without == pytest.approx(2 * added, rel=1e-3)


@pytest.mark.parametrize("fields", [{}, {"mean_by_sequence": True}])
def test_features_weigh_positions_or_sequences_as_the_loss_does(folder, fields):
    own = {"method": "fkl", "teacher": str(folder / "tiny-20k"), "teacher_tuned": False} | fields
    student, _ = begun(spec := a_spec(folder, "features", **own))
    batch = a_batch(student, spec, rows=range(8))
    assert len(set(batch.scored_BT.sum(1).tolist())) > 1
    student.network.train()
    weighed = []
    for part in ([*range(8)], [0, 1, 2], [*range(3, 8)]):
        some = a_batch(student, spec, part)
        student.scoring_states(some)
        weight = len(part) if fields else int(some.scored_BT.sum())
        weighed.append(float(student.penalty(some).detach()) * weight)
    assert weighed[0] == pytest.approx(weighed[1] + weighed[2], rel=1e-5)
    some = dataclasses.replace(batch, scored_BT=torch.zeros_like(batch.scored_BT))
    student.hidden_states(some.input_ids_BT)
    assert student.penalty(some) == 0


@pytest.mark.parametrize("penalty", PENALTIES)
def test_interrupted_and_resumed_is_bit_equal(folder, tmp_path, penalty):
    spec = a_spec(folder, penalty)
    items = sources.load_items(spec, "train")

    def fit(**how):
        student, _ = begun(spec)
        training.train(student, items, spec, rate=3e-3, validation=items[:4], **how)
        return {name: w.detach() for name, w in student.network.named_parameters()}

    def stop(entry):
        if entry.get("step") == 4:
            raise InterruptedError

    straight, compute = fit(), Compute(checkpoint_seconds=0.0)
    with pytest.raises(InterruptedError):
        fit(checkpoint=tmp_path / "checkpoint", progress=stop, compute=compute)
    resumed = fit(checkpoint=tmp_path / "checkpoint")
    assert all(torch.equal(w, resumed[name]) for name, w in straight.items())


def test_a_penalty_is_refused_on_two_devices(folder):
    with pytest.raises(launch.DevicesError, match="devices=2: penalty='l2_sp' needs whole matrices"):
        launch.check_devices(a_spec(folder, "l2_sp", devices=2))
