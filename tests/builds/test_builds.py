"""Each build does what its paper says, is trained as that, and is stored and read back as it was."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F
from transformers.models.qwen3_5 import modeling_qwen3_5

from kdutils import encoding, generation, models, training
from kdutils.adapters import facts, trainable
from kdutils.builds import built, connectivity, hybrid, low_rank, shared
from kdutils.compute import Compute
from kdutils.constants import BUILDS
from kdutils.data import sources
from kdutils.data.model_files import ModelError
from kdutils.devices import launch
from kdutils.noise import key_of, seeded
from kdutils.penalties import terms
from kdutils.runs import answers, experiment, inputs, ranking, students
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import Store
from kdutils.spec import RunSpec

ROUNDING = 2e-5  # of logits of size 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tiny.save_study(tmp_path_factory.mktemp("models"))
    tiny.save_model(root / "qwen", spread=0.2)  # far from flat, so that differences show
    tiny.save_model(root / "llama", kind="llama", spread=0.2, tied=False)
    return root


@pytest.fixture(autouse=True)
def few_updates_of_alignment(monkeypatch):
    monkeypatch.setattr(hybrid, "ALIGN_STEPS", 5)
    monkeypatch.setattr(hybrid, "DISTIL_STEPS", 5)


def a_spec(folder, build, method="sft", student="qwen", **fields):
    teacher = {} if method == "sft" else {"teacher": str(folder / "tiny-40k")}
    fields = {"method": method, "student_build": build, "build_compression": 2.0} | teacher | fields
    return tiny.spec(str(folder / student), str(folder / "data"), **fields)


def loaded(folder, student="qwen"):
    return models.load(str(folder / student), trains_all=True)


def make(spec):
    student = models.load(spec.student, trains_all=True)
    student = built.build(student, spec, items=sources.load_items(spec, "train"))
    return trainable.make_trainable(student, spec, seed=0)


@torch.no_grad()
def logits(student):
    ids_BT = torch.tensor([[5, 9, 11, 14, 7, 12]])
    return student.head.logits(student.hidden_states(ids_BT))


def spread(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- low rank -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
@pytest.mark.parametrize("whitened", [False, True])
def test_factors_of_full_rank_are_the_matrix_and_of_less_the_best_for_the_outputs(shape, whitened):
    w, x = spread(shape), spread((50, shape[1]), seed=1) * torch.logspace(0, 3, shape[1])
    y = x @ w.T
    moment = (y.T @ y if shape[0] <= shape[1] else x.T @ x).double() / 50 if whitened else None
    b, a = low_rank.factors(w, min(shape), moment)
    torch.testing.assert_close((b @ a).float(), w, rtol=1e-4, atol=1e-4)
    for rank in (1, 3, 5):
        b, a = low_rank.factors(w, rank, moment)
        torch.testing.assert_close(b.norm(dim=0), a.norm(dim=1))  # both factors are equally long
        of_outputs = torch.linalg.svd(y.double() if whitened else w.double())
        error = (y.double() - x.double() @ (b @ a).T) if whitened else w.double() - b @ a
        expected = of_outputs.S[rank:].norm()  # Eckart & Young
        torch.testing.assert_close(error.norm(), expected, rtol=1e-4, atol=1e-6 * float(of_outputs.S[0]))


def test_a_plain_factor_has_a_root_of_the_singular_value_on_each_side():
    w = spread((7, 12))
    b, a = low_rank.factors(w, 4)
    values = torch.linalg.svdvals(w.double())[:4]
    torch.testing.assert_close(b.norm(dim=0).square().flip(0), values)
    torch.testing.assert_close(a.norm(dim=1).square().flip(0), values)


@pytest.mark.parametrize("student", ["qwen", "llama"])
@pytest.mark.parametrize("whitened", [False, True])
def test_a_model_of_full_rank_is_the_model(folder, student, whitened, monkeypatch):
    model, spec = loaded(folder, student), a_spec(folder, "low_rank", student=student)
    before, own = logits(model), built.linear_layers(model.causal)
    moments = low_rank.moments(model, own, sources.load_items(spec, "train"), spec) if whitened else None
    monkeypatch.setattr(low_rank, "rank_of", lambda layer, compression: min(layer.weight.shape))
    low_rank.factorise(model.causal, own, 1.0, moments)
    assert sum(isinstance(each, low_rank.LowRank) for each in model.causal.modules()) == 14
    torch.testing.assert_close(logits(model), before, rtol=0, atol=ROUNDING)
    assert type(model.causal.get_output_embeddings()) is torch.nn.Linear


@torch.no_grad()
def test_whitened_errors_on_the_items_are_at_most_the_plain_ones_at_every_layer(folder):
    spec = a_spec(folder, "low_rank", student="llama")
    model = loaded(folder, "llama")
    items = sources.load_items(spec, "train")
    own, inputs = built.linear_layers(model.causal), {}
    moments = low_rank.moments(model, own, items, spec)
    for name, layer in own.items():
        layer.register_forward_pre_hook(lambda _, x, name=name: inputs.setdefault(name, []).append(x[0]))
    for ids in encoding.encode(items, model.tokenizer, **spec.encoding)["input_ids"]:
        model.hidden_states(torch.tensor([ids]))
    better = 0
    for name, layer in own.items():
        x, w, rank = torch.cat([each[0] for each in inputs[name]]).double(), layer.weight.double(), 4
        errors = []
        for moment in (moments[name], None):
            b, a = low_rank.factors(layer.weight, rank, moment)
            errors.append(float((x @ (w - b @ a).T).norm()))
        assert errors[0] <= errors[1] * (1 + 1e-9)
        better += errors[0] < 0.9 * errors[1]
    assert better > 7  # of 14


def test_a_layer_whose_factors_would_be_no_smaller_stays_dense():
    wide, thin = torch.nn.Linear(32, 64), torch.nn.Linear(32, 1)
    assert low_rank.rank_of(wide, 2.0) == 32 * 64 // (2 * 96)
    assert low_rank.rank_of(wide, 10_000.0) == 1
    assert low_rank.rank_of(thin, 1.0) == 0  # 1 * (32 + 1) numbers for 32
    network = torch.nn.ModuleDict({"wide": wide, "thin": thin})
    low_rank.factorise(network, dict(network.named_children()), 2.0)
    assert isinstance(network["wide"], low_rank.LowRank) and network["thin"] is thin


# --- pruned -------------------------------------------------------------------------------------------------


def zeros(student):
    return {name: layer.weight == 0 for name, layer in built.linear_layers(student.causal).items()}


def test_the_smallest_entries_of_each_matrix_are_pruned(folder):
    dense, student = loaded(folder), make(a_spec(folder, "pruned", build_compression=4.0))
    for name, layer in built.linear_layers(dense.causal).items():
        w, found = layer.weight, student.causal.get_submodule(name).weight
        threshold = w.abs().flatten().kthvalue(w.numel() * 3 // 4).values
        assert torch.equal(found, w * (w.abs() > threshold))
    stored = facts.of_storage(student, folder)["stored_parameters"]
    assert stored == facts.of_training(student, 1)["trainable"]
    assert stored == dense.causal.num_parameters() - sum(int(mask.sum()) for mask in zeros(student).values())


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_pruned_weights_have_no_gradient_and_stay_zero_with_momentum(folder, optimiser):
    student = make(a_spec(folder, "pruned"))
    start, weights = zeros(student), list(student.trained().values())
    kinds = {"adamw": torch.optim.AdamW, "sgd": lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k)}
    stepper = kinds[optimiser](weights, lr=0.01, weight_decay=0.1)
    for step in range(3):
        logits_BTV = student.causal(input_ids=torch.tensor([[5, 9, 11, 14]])).logits
        logits_BTV.square().sum().backward()
        assert any(w.grad[mask == 0].any() for w, mask in student.masks)  # it would have had one
        student.before_update(step, 3)
        assert not any(w.grad[mask == 0].any() for w, mask in student.masks)
        stepper.step()
        stepper.zero_grad()
        assert all(torch.equal(mask, start[name]) for name, mask in zeros(student).items())
    for w, _ in student.masks:  # a step that moves every entry, as Muon's does
        w.data.add_(1.0)
    student.after_update()
    assert all(torch.equal(mask, start[name]) for name, mask in zeros(student).items())


@pytest.mark.parametrize("build", ["low_rank", "pruned"])
def test_a_run_on_a_second_domain_goes_on_with_the_student_built_for_the_first(tmp_path, build):
    short = {"train_items": 16, "validation_items": 0, "epochs": 1, "batch_size": 8}
    how = {"student_build": build, "build_compression": 2.0, "first_domain": "commonsense"}
    spec = sources.resolved(RunSpec(student="mini-qwen-0.5B", method="sft", domain="math", **short, **how))
    experiment.make(spec, [], tmp_path)
    start, end = (
        students.load_trained(each, Store(tmp_path).folder(each.run_id)) for each in (spec.start_spec, spec)
    )
    begun = students.student_to_train(Inputs.of(spec, None), Store(tmp_path))
    assert torch.equal(logits(begun), logits(start)) and not torch.equal(logits(start), logits(end))
    if build == "pruned":
        found, kept = zeros(start), zeros(end)
        assert all(torch.equal(found[name], kept[name]) and found[name].any() for name in found)


# --- shared -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [1.0, 2.0, 3.7, 50.0])
def test_loads_of_slots_differ_by_one_at_most_and_signs_are_even(compression):
    pool = shared.Pool([torch.Size((7, 11)), torch.Size((40, 30))], compression, torch.empty(0))
    loads = pool.folded(torch.ones(pool.n))
    assert pool.values.numel() == int(1_277 / compression)
    assert loads.max() - loads.min() <= (compression > 1)
    assert loads.sum() == pool.n
    assert 0.45 < (pool.signs > 0).float().mean() < 0.55
    slots = pool.unfolded(torch.arange(pool.values.numel()))
    m = pool.values.numel()
    runs = torch.arange(pool.n) // m
    x = runs.tolist()
    a, b, c = shared.PLACE.tolist()
    by_hand = [((k * a + k * k * b + c) % shared.MODULUS % m + i % m) % m for i, k in enumerate(x)]
    assert slots.tolist() == by_hand  # RANDOMFOLD, in Python's own integers


def test_hashes_do_not_overflow():
    x = [0, 1, 2_038_074_742, 10**12]
    a, b, c = shared.SIGN.tolist()
    assert shared.hashed(torch.tensor(x), shared.SIGN).tolist() == [
        (i * a + i * i * b + c) % shared.MODULUS for i in x
    ]
    assert (shared.PLACE % 2).all() and (shared.SIGN % 2).all()


def test_the_gradient_of_a_slot_is_the_sum_over_its_uses_scaled(folder):
    student = make(a_spec(folder, "shared", build_compression=3.0))
    pool, ids = student.causal.shared, torch.tensor([[5, 9, 11, 14]])
    student.causal(input_ids=ids).logits.square().sum().backward()
    found = pool.values.grad[0]
    names = built.linear_layers(loaded(folder).causal)
    network = built.dense(make(a_spec(folder, "shared", build_compression=3.0)))
    network.requires_grad_(True)
    network(input_ids=ids).logits.square().sum().backward()
    gradients = [network.get_submodule(name).weight.grad for name in names]
    scale_N = pool.of_layers()
    slot = pool.unfolded(torch.arange(pool.values.numel()))
    sums, scales, counts = (torch.zeros(pool.values.numel()) for _ in range(3))
    sums.index_add_(0, slot, torch.cat([g.flatten() for g in gradients]) * pool.signs * scale_N)
    scales.index_add_(0, slot, scale_N)
    counts.index_add_(0, slot, torch.ones(pool.n))
    torch.testing.assert_close(found, sums / (scales.square() / counts + 1e-6), rtol=1e-3, atol=1e-4)


def test_the_fold_is_the_least_squares_one():
    weights = [spread((9, 7)), 3 * spread((5, 8), seed=1)]
    pool = shared.Pool([w.shape for w in weights], 2.5, weights[0])
    pool.fill(weights)
    slot = pool.unfolded(torch.arange(pool.values.numel()))
    design = F.one_hot(slot).double() * (pool.signs * pool.of_layers()).double()[:, None]
    flat = torch.cat([w.flatten() for w in weights]).double()
    expected = torch.linalg.lstsq(design, flat[:, None]).solution[:, 0]
    torch.testing.assert_close(pool.values[0].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("student", ["qwen", "llama"])
def test_without_compression_it_is_the_model_and_learns_as_it_does(folder, student):
    both = [loaded(folder, student), make(a_spec(folder, "shared", student=student, build_compression=1.0))]
    both[0].network.requires_grad_(True)
    torch.testing.assert_close(logits(both[1]), logits(both[0]), rtol=0, atol=ROUNDING)
    before = logits(both[0])
    for each in both:  # SGD, whose steps the division of gradients is made for
        stepper = torch.optim.SGD(each.trained().values(), lr=1e-5)
        for _ in range(3):
            each.causal(input_ids=torch.tensor([[5, 9, 11, 14]])).logits.square().sum().backward()
            stepper.step()
            stepper.zero_grad()
    assert (logits(both[0]) - before).abs().max() > 0.01
    torch.testing.assert_close(logits(both[1]), logits(both[0]), rtol=0, atol=1e-3)


def test_weights_are_made_once_for_a_text_and_anew_after_a_step(folder, monkeypatch):
    student, calls, made = make(a_spec(folder, "shared")), [], shared.Pool.unfolded
    monkeypatch.setattr(shared.Pool, "unfolded", lambda pool, v: calls.append(1) or made(pool, v))
    stepper = torch.optim.AdamW(student.trained().values(), lr=0.1, fused=True)
    for _ in range(2):
        calls.clear()
        before = generation.generate(student, [[5, 9, 11]], max_new_tokens=8)
        assert len(calls) == 1
        student.causal(input_ids=torch.tensor([[5, 9, 11]])).logits.square().sum().backward()
        stepper.step()
        stepper.zero_grad()
    assert generation.generate(student, [[5, 9, 11]], max_new_tokens=8) != before


# --- hybrid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["qwen", "llama"])
def test_one_layer_in_n_keeps_its_attention_and_the_others_begin_with_its_matrices(folder, student):
    model = loaded(folder, student)
    own = hybrid.attentions(model.causal, 2.0)
    assert list(own) == ["model.layers.1.self_attn"]
    assert hybrid.kept_layers(4, 4.0) == [1] and hybrid.kept_layers(6, 3.0) == [1, 4]
    mixer, attention = hybrid.linear(model.causal, own["model.layers.1.self_attn"]), [*own.values()][0]
    query, key, value = mixer.in_proj_qkv.weight.split([mixer.key_dim, mixer.key_dim, mixer.value_dim])
    assert torch.equal(query, attention.q_proj.weight)
    assert torch.equal(mixer.out_proj.weight, attention.o_proj.weight)
    width, times = attention.head_dim, query.shape[0] // attention.k_proj.out_features
    for found, part in ((key, attention.k_proj), (value, attention.v_proj)):
        heads = part.weight.view(-1, width, part.in_features)
        for head, weights in enumerate(found.view(-1, width, part.in_features)):
            assert torch.equal(weights, heads[head // times])  # the one that its query heads look at
    x = spread((1, 5, model.causal.config.hidden_size))
    seen = {}

    def convolved(inputs, weight, bias, activation, **_):
        made = causal_conv1d_fn(inputs, weight, bias, activation)
        return seen.setdefault("made", made)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        causal_conv1d_fn = modeling_qwen3_5.causal_conv1d_fn
        patch.setattr(modeling_qwen3_5, "causal_conv1d_fn", convolved)
        mixer(x)
    torch.testing.assert_close(seen["made"], mixer.in_proj_qkv(x).mT)  # a token's own, and nothing done to it
    steps = F.softplus(mixer.dt_bias)
    assert ((steps > 0.9e-3) & (steps < 0.11)).all() and ((mixer.A_log >= 0) & (mixer.A_log.exp() < 16)).all()


def test_aligned_layers_put_out_more_of_what_the_attention_did(folder, monkeypatch):
    monkeypatch.setattr(hybrid, "ALIGN_STEPS", 60)
    model, spec = loaded(folder), a_spec(folder, "hybrid")
    before = {name: w.clone() for name, w in model.causal.named_parameters()}
    with seeded(key_of(spec.seed, "hybrid")):
        made = hybrid.mixers(model.causal, 2.0)
    errors = hybrid.align(model, made, spec, sources.load_items(spec, "train"))
    assert len(errors) == 60 and np.mean(errors[-5:]) < 0.6 * np.mean(errors[:5])
    assert all(torch.equal(w, before[name]) for name, w in model.causal.named_parameters())
    assert not any(module._forward_hooks for module in model.causal.modules())
    found, [aligned] = make(spec).causal.model.layers[1].self_attn, made.values()  # `build` aligns, too
    assert all(torch.equal(w, found.state_dict()[name]) for name, w in aligned.state_dict().items())


def test_a_token_of_padding_is_in_no_error_of_alignment(folder):
    model, spec = loaded(folder), a_spec(folder, "hybrid")
    items = sources.load_items(spec, "train")
    errors = []
    for pad in (2, 9):  # a token of padding, one that means something
        model.tokenizer.pad_token_id = pad
        with torch.random.fork_rng():
            torch.manual_seed(0)
            errors.append(hybrid.align(model, hybrid.mixers(model.causal, 2.0), spec, items))
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_distilled_it_predicts_as_the_model_did_with_its_embeddings_head_and_attention(folder, monkeypatch):
    monkeypatch.setattr(hybrid, "DISTIL_STEPS", 40)
    spec = a_spec(folder, "hybrid_distilled")
    items, before = sources.load_items(spec, "train"), loaded(folder)
    student = built.build(loaded(folder), dataclasses.replace(spec, student_build="hybrid"), items=items)
    old = {name: w.clone() for name, w in student.causal.named_parameters()}
    nats = hybrid.distil(student, before, spec, items)
    assert len(nats) == 40 and np.mean(nats[-5:]) < 0.6 * np.mean(nats[:5])
    new = dict(student.causal.named_parameters())
    same = {name for name, w in new.items() if torch.equal(w, old[name])}
    kept = {name for name in new if "layers.0.self_attn" in name or "embed" in name or "lm_head" in name}
    assert same == kept and any("q_proj" in name for name in kept)
    assert all(w.grad is None for w in new.values())
    assert all(map(torch.equal, before.causal.parameters(), loaded(folder).causal.parameters()))
    own = torch.nn.Parameter(torch.zeros(1))
    drawn = [
        iter(hybrid._updates(student, spec, items, [own], 1.0, 1, what)) for what in ("items", "distilled")
    ]
    assert (
        len({tuple(next(batches).ids) for batches in drawn}) == 2
    )  # it does not read the same batches again
    whole = make(spec).causal.named_parameters()  # `build` aligns and distils
    assert all(torch.equal(w, new[name]) for name, w in whole)


def test_a_layer_that_puts_out_nothing_leaves_the_others_finite(folder):
    model = loaded(folder)
    model.causal.model.layers[1].self_attn.o_proj.weight.data.zero_()
    spec = a_spec(folder, "hybrid")
    student = built.build(model, spec, items=sources.load_items(spec, "train"))
    assert torch.isfinite(logits(student)).all()


@pytest.mark.parametrize("kind", ["qwen", "llama"])
@torch.no_grad()
def test_a_hybrid_reads_padded_prompts_and_writes_with_its_cache_as_without(folder, tmp_path, kind):
    tiny.save_model(tmp_path / kind, kind=kind, layers=4, spread=0.2)
    spec = a_spec(folder, "hybrid", build_compression=4.0)  # the first layer is linear
    model = models.load(str(tmp_path / kind), trains_all=True)
    model.causal.get_input_embeddings().weight[model.pad_id].normal_(0, 0.2)  # else padding is zero anyway
    model = built.build(model, spec, items=sources.load_items(spec, "train"))
    prompts = [[5, 9, 11, 14, 7, 12, 20, 21], [5, 9], [5, 9, 6]]  # padding never follows what all begin with
    references = [[6, 7], [20, 8, 11, 5], [9]]
    both = answers.texts_and_likeliest(model, prompts, references, max_new_tokens=12)
    for prompt, reference, text, likeliest in zip(prompts, references, *both, strict=True):
        states_BTH = model.hidden_states(torch.tensor([prompt + reference]))[:, len(prompt) - 1 : -1]
        assert model.head.logits(states_BTH)[0, :, : model.vocabulary_size].argmax(-1).tolist() == likeliest
        ids = list(prompt)
        for token in text.token_ids:  # from the whole text anew
            states_BTH = model.hidden_states(torch.tensor([ids]))
            assert int(model.head.logits(states_BTH)[0, -1, : model.vocabulary_size].argmax()) == token
            ids.append(token)
    options = [[[5, 6], [7]], [[8]], [[9, 10, 11], [6]]]
    scored = ranking.option_logprobs(model, prompts, options)
    for prompt, own, found in zip(prompts, options, scored, strict=True):
        for option, logprob in zip(own, found, strict=True):
            hidden_TH = model.hidden_states(torch.tensor([prompt + option]))[0, len(prompt) - 1 : -1]
            logits_TV = model.head.logits(hidden_TH)[:, : model.vocabulary_size]
            expected = logits_TV.log_softmax(-1).gather(1, torch.tensor(option)[:, None]).sum()
            assert logprob == pytest.approx(float(expected), abs=1e-4)


def test_a_hybrid_that_no_model_can_be_is_refused_before_work(folder):
    network = loaded(folder).causal
    for n, build in ((1.0, "hybrid"), (2.5, "hybrid_distilled")):
        with pytest.raises(ModelError, match=rf"build_compression={n}: give a whole number from 2"):
            built.check(None, a_spec(folder, build, build_compression=n))
    with pytest.raises(ModelError, match=r"build_compression=3.0, and the layers are 2: give one of \[2\]"):
        specs = [a_spec(folder, "hybrid", "fkl", build_compression=n) for n in (2.0, 3.0)]
        inputs.check(*[Inputs.of(sources.resolved(spec), tiny.EVALUATION) for spec in specs])
    network.config.model_type = "qwen3"
    with pytest.raises(ModelError, match="does not know the layers of a qwen3; use a llama or qwen2"):
        built.check(network, a_spec(folder, "hybrid"))
    with pytest.raises(ModelError, match="by place, which linear attention lacks; use 'features'"):
        terms.check(a_spec(folder, "hybrid", penalty="perturbation", penalty_strength=1.0), network)
    with pytest.raises(ModelError, match="has linear attention, so no dense form"):
        built.dense(make(a_spec(folder, "hybrid")))


@pytest.mark.parametrize(
    "fields",
    [
        {"frozen": "attention"},
        {"penalty": "features", "penalty_strength": 1.0},
        {"frozen": "attention", "student_build": "hybrid_distilled"},
    ],
)
def test_a_hybrid_is_trained_stored_and_read_back(folder, tmp_path, fields):
    fields = {"student_build": "hybrid"} | fields
    spec = a_spec(folder, "hybrid", "opd", "llama", epochs=1, max_new_tokens=8)
    spec = dataclasses.replace(spec, **fields)
    run = experiment.run(spec, out=tmp_path, evaluation=tiny.EVALUATION)
    stored = students.load_trained(run.spec, run.folder)
    items = sources.test_items(spec, tiny.EVALUATION)
    ((rows, _),) = answers.rows_of(stored, items, [tiny.EVALUATION], spec)
    assert rows["text"].tolist() == run.items["text"].tolist()
    assert run.result["file_bytes"] == pytest.approx(4 * run.result["stored_parameters"], abs=20_000)
    assert "with linear attention" in (run.folder.model / "README.md").read_text()
    begun = students.student_to_train(Inputs.of(run.spec, None), Store(tmp_path))
    mixers = [each.causal.model.layers[1].self_attn.state_dict() for each in (begun, stored)]
    same = [torch.equal(w, mixers[1][name]) for name, w in mixers[0].items()]
    assert all(same) if fields.get("frozen") else not any(same)  # aligned as at first, then trained or not


# --- all ----------------------------------------------------------------------------------------------------


class HaltedError(Exception):
    pass


def halting_after(step):
    def progress(entry):
        if entry.get("step") == step:
            raise HaltedError

    return progress


@pytest.mark.parametrize("build", BUILDS)
def test_a_training_goes_on_from_its_checkpoint_bit_for_bit(folder, tmp_path, build):
    spec = a_spec(folder, build)
    items, how = sources.load_items(spec, "train"), {"rate": 0.01, "compute": Compute(checkpoint_seconds=0.0)}
    straight, halted, resumed = make(spec), make(spec), make(spec)
    training.train(straight, items, spec, **how)
    with pytest.raises(HaltedError):
        training.train(halted, items, spec, checkpoint=tmp_path / "c", progress=halting_after(4), **how)
    training.train(resumed, items, spec, checkpoint=tmp_path / "c", **how)
    pairs = zip(straight.trained().items(), resumed.trained().items(), strict=True)
    assert all(one == two and torch.equal(v, w) for (one, v), (two, w) in pairs)
    assert not torch.equal(logits(straight), logits(make(spec)))
    assert build != "pruned" or all(not w[~mask].any() for w, mask in resumed.masks)


RUNS = [
    ("low_rank", "gkd", "qwen", {"max_new_tokens": 8}),
    ("low_rank_plain", "fkl", "llama", {"student_start": "sft"}),
    ("pruned", "revkd", "llama", {"student_start": "sft"}),
    ("shared", "opd", "llama", {"max_new_tokens": 8}),
    ("shared", "seqkd", "qwen", {"max_new_tokens": 8, "shrink": 0.9}),
]


@pytest.mark.parametrize(("build", "method", "student", "fields"), RUNS)
def test_a_run_is_stored_read_back_and_made_dense(folder, tmp_path, build, method, student, fields):
    spec = a_spec(folder, build, method, student, epochs=1, **fields)
    run = experiment.run(spec, out=tmp_path, evaluation=tiny.EVALUATION)
    assert run.result["status"] == "trained" and run.result["effective_rank"] is None
    stored = students.load_trained(run.spec, run.folder)
    items = sources.test_items(spec, tiny.EVALUATION)
    ((rows, _),) = answers.rows_of(stored, items, [tiny.EVALUATION], spec)
    assert rows["text"].tolist() == run.items["text"].tolist()
    dense = loaded(folder, student).causal
    n_layers = sum(layer.weight.numel() for layer in built.linear_layers(dense).values())
    stored_layers = run.result["stored_parameters"] - (dense.num_parameters() - n_layers)
    assert n_layers / 2 * (0.9 if "low" in build else 0.999) <= stored_layers <= n_layers / 2 + 1
    if build != "pruned":
        assert run.result["file_bytes"] == pytest.approx(4 * run.result["stored_parameters"], abs=20_000)
        assert run.result["trainable"] == run.result["stored_parameters"]
    assert run.spec.teacher_spec.student_build == ""
    start = students.student_to_train(Inputs.of(run.spec, None), Store(tmp_path))
    assert not torch.equal(logits(start), logits(stored))
    before = logits(stored)
    trainable.merged(stored).save_pretrained(tmp_path / "dense")
    again = type(dense).from_pretrained(tmp_path / "dense").eval()
    found = (
        dataclasses.replace(stored, network=again)
        if build == "pruned"
        else models.LoadedModel("dense", again, stored.tokenizer, stored.policy)
    )
    torch.testing.assert_close(logits(found), before, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("build", ["shared", "pruned"])
def test_the_card_says_how_to_load_it(folder, tmp_path, monkeypatch, build):
    run = experiment.run(a_spec(folder, build, epochs=1), out=tmp_path, evaluation=tiny.EVALUATION)
    card = (run.folder.model / "README.md").read_text()
    assert "made smaller" in card and f"`student_build`: {build}" in card
    assert ("library_name: kdutils" in card) == (build == "shared")
    monkeypatch.chdir(run.folder.model)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        values = {}
        exec(card.split("```python\n")[1].split("```")[0], values)
    ids = torch.tensor([[5, 9, 11, 14, 7, 12]])
    stored = students.load_trained(run.spec, run.folder)
    found = values["model"](input_ids=ids).logits[..., : stored.vocabulary_size]
    torch.testing.assert_close(found, logits(stored)[..., : stored.vocabulary_size], rtol=0, atol=ROUNDING)


def test_what_cannot_be_built_is_refused_before_work(folder):
    with pytest.raises(ValueError, match="frozen='mlp': shared weights belong to no module"):
        a_spec(folder, "shared", frozen="mlp")
    with pytest.raises(launch.DevicesError, match="student_build='shared' needs whole matrices"):
        launch.check_devices(a_spec(folder, "shared", devices=2))
    network = torch.nn.ModuleDict({"experts": torch.nn.ParameterDict({"w": torch.ones(2, 3, 4)})})
    network.get_output_embeddings = lambda: None
    with pytest.raises(ModelError, match="experts.w is neither a linear layer's nor an embedding's"):
        built.linear_layers(network)


# --- connectivity -------------------------------------------------------------------------------------------


def test_a_line_has_its_ends_and_a_barrier_where_a_hill_is_between(folder):
    spec, items = a_spec(folder, "pruned"), sources.load_items(a_spec(folder, "pruned"), "train")
    first, second = make(spec), make(spec)
    found = connectivity.line(first, second, items, spec)
    assert found == pytest.approx(found[0]) and connectivity.barrier(found) == pytest.approx(0, abs=1e-5)
    for w in second.trained().values():  # its logits have the other sign, so that both ends are far from 0
        w.data.mul_(0.5)
    before = {name: w.clone() for name, w in first.trained().items()}
    found = connectivity.line(first, second, items, spec)
    assert all(torch.equal(w, before[name]) for name, w in first.trained().items())
    assert found[0] == pytest.approx(connectivity.scores(first, items, spec).nll)
    assert found[-1] == pytest.approx(connectivity.scores(second, items, spec).nll)
    middle = make(spec)
    for name, w in middle.trained().items():
        w.data.copy_((before[name] + second.trained()[name]) / 2)
    assert found[5] == pytest.approx(connectivity.scores(middle, items, spec).nll, rel=1e-5)
    assert connectivity.barrier(np.array([1.0, 2, 5, 1, 3])) == -3
    slope = np.linspace(1.0, 2.0, 11)  # a worse end is no barrier
    assert connectivity.barrier(slope) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="zeros differ"):
        connectivity.line(first, make(a_spec(folder, "pruned", build_compression=4.0)), items, spec)


def test_features_have_the_inner_products_of_the_logits(folder):
    spec, items = a_spec(folder, "pruned"), sources.load_items(a_spec(folder, "pruned"), "train")
    student = make(spec)
    features_NH = connectivity.logit_features(student, connectivity.scores(student, items, spec).hidden_NH)
    encoded = encoding.encode(items, student.tokenizer, **spec.encoding)
    batch = encoding.collate(encoded, range(len(items)), pad_id=student.pad_id)
    with torch.no_grad():
        logits_NV = student.head.cut(student.vocabulary_size).logits(student.scoring_states(batch))
    torch.testing.assert_close(features_NH @ features_NH.T, logits_NV @ logits_NV.T, rtol=1e-4, atol=1e-3)


def test_cka_is_blind_to_rotation_and_scale_and_falls_with_noise():
    x = spread((200, 6)).double()
    rotation = torch.linalg.qr(spread((6, 6), seed=1).double()).Q
    assert connectivity.linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)
    kernels = [each - each.mean(0) for each in (x, spread((200, 4), seed=2).double() + x[:, :4])]
    k, m = (each @ each.T for each in kernels)  # the definition, by kernels of the items
    expected = float((k * m).sum() / (k.norm() * m.norm()))
    assert connectivity.linear_cka(x, spread((200, 4), seed=2).double() + x[:, :4]) == pytest.approx(expected)
    assert 0.05 < expected < 0.9
