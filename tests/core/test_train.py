"""The loop: what is divided by what, what cannot change a result, and that it learns."""

import dataclasses
import json
import math

import pytest
import tiny
import torch

from kdutils import constants, encoding, generation, models, rollouts, training
from kdutils.adapters import trainable
from kdutils.checkpoint import TrainingState
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.data.model_files import ModelError
from kdutils.process_group import ALONE
from kdutils.teacher import Teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tiny.save_model(root / "student-20k", seed=0)
    tiny.save_model(root / "teacher-40k", hidden=48, rows=96, seed=1)  # more padding rows than the student
    tiny.save_model(root / "llama-20k", kind="llama", seed=2)
    tiny.write_data(root / "data")
    return root


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_spec(folder, method="sft", **fields):
    if method != "sft":
        fields = {"teacher": str(folder / "teacher-40k")} | fields
    return tiny.spec(str(folder / "student-20k"), str(folder / "data"), method=method, **fields)


def a_teacher(folder, spec):
    if not spec.recipe.divergence:
        return None
    model = models.load(spec.teacher)
    with torch.no_grad():
        model.head.weight_VH.mul_(8)  # far from flat, so that noise and temperature matter
    model.network.requires_grad_(False)
    return Teacher(model, spec.noise_sigma, spec.seed)


def fit(folder, spec, *, items=None, validation=(), **options):
    """(student, outcome) after training as a run does."""
    student = models.load(spec.student, trains_all=spec.adapter == "full")
    student = trainable.make_trainable(student, spec, seed=spec.seed)
    items = items if items is not None else sources.load_items(spec, "train")
    how = {"rate": spec.peak_rate, "teacher": a_teacher(folder, spec)}
    return student, training.train(student, items, spec, validation=validation, **how | options)


def weights(student):
    return {name: w.detach().clone() for name, w in student.network.named_parameters() if w.requires_grad}


def same(left, right, **tolerance):
    if tolerance:
        return all(torch.allclose(w, right[name], **tolerance) for name, w in left.items())
    return all(torch.equal(w, right[name]) for name, w in left.items())


def losses_of(outcome):
    return [entry["loss"] for entry in outcome.curve if "loss" in entry]


METHODS = ["sft", "fkl", "revkd", "gkd"]


@pytest.mark.parametrize("protocol", ["careful", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_of_unequal_lengths_change_nothing(folder, method, protocol):
    spec = a_spec(folder, method, protocol=protocol, epochs=1)
    whole, first = fit(folder, spec)
    for how in ({"micro_batch_rows": 3}, {"pass_tokens": 0}):  # passes of three rows; of one length each
        parts, second = fit(folder, spec, compute=Compute(**how))
        assert losses_of(first) == pytest.approx(losses_of(second), rel=1e-5)
        assert same(weights(whole), weights(parts), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_spec_gives_the_same_weights(folder, method):
    spec = a_spec(folder, method, noise_sigma=0.0 if method == "sft" else 1.0, epochs=1)
    (one, _), (two, _) = fit(folder, spec), fit(folder, spec)
    assert same(weights(one), weights(two))


def test_another_seed_gives_others(folder):
    (one, _), (two, _) = (fit(folder, a_spec(folder, epochs=1, seed=seed)) for seed in (0, 1))
    assert not same(weights(one), weights(two))


class Interrupt(Exception):  # noqa: N818 - stands for Ctrl-C
    pass


INTERRUPTED = [("sft", {}), ("fkl", {}), ("gkd", {}), ("opd", {"rollout_steps": 3})]
INTERRUPTED += [("sft", {"optimiser": "muon"}), ("fkl", {"optimiser": "muon_spectral"})]


@pytest.mark.parametrize(("method", "fields"), INTERRUPTED)
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_interrupted_and_resumed_is_bit_equal(folder, tmp_path, method, fields, adapter):
    spec = a_spec(folder, method, adapter=adapter, epochs=2, select_best=True, **fields)
    validation = sources.load_items(spec, "validation")
    straight, _ = fit(folder, spec, validation=validation)

    def stop(entry):
        if entry.get("step") == 5:
            raise Interrupt

    checkpoint, compute = tmp_path / "checkpoint", Compute(checkpoint_seconds=0.0)  # after every step
    with pytest.raises(Interrupt):
        fit(folder, spec, validation=validation, checkpoint=checkpoint, progress=stop, compute=compute)
    assert json.loads((checkpoint / "state.json").read_text())["done_steps"] == 4
    resumed, outcome = fit(folder, spec, validation=validation, checkpoint=checkpoint)
    assert same(weights(straight), weights(resumed))
    assert [entry["step"] for entry in outcome.curve if "step" in entry] == [1, 2, 3, 4, 5, 6]


def test_what_a_checkpoint_holds_is_read_into_the_layout_of_its_weight():
    weight = torch.zeros(32, 8).t()  # of an SVD, say; fused AdamW pairs memory, not entries
    found = ALONE.like(values := torch.arange(256.0).view(8, 32), weight)
    assert found.stride() == weight.stride() != values.stride()
    assert torch.equal(found, values)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "another run", "missing"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside(folder, tmp_path, damage):
    spec, checkpoint = a_spec(folder, epochs=1), tmp_path / "checkpoint"
    straight, _ = fit(folder, spec, checkpoint=checkpoint, compute=Compute(checkpoint_seconds=0.0))
    state = checkpoint / "state.json"
    if damage == "truncated":
        tensors = checkpoint / "state.safetensors"
        tensors.write_bytes(tensors.read_bytes()[:1000])
    elif damage == "one bit":
        tensors = checkpoint / "state.safetensors"
        content = tensors.read_bytes()
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "another run":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"run_id": "other"}))
    else:
        state.unlink()
    entries = []
    anew, _ = fit(folder, spec, checkpoint=checkpoint, progress=entries.append)
    assert "set aside as checkpoint.aside-1" in entries[0]["warning"]
    assert same(weights(straight), weights(anew))


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_no_number(folder, monkeypatch):
    spec = a_spec(folder, "fkl", epochs=1)
    plain, first = fit(folder, spec)
    true_loss, calls = training._Training._loss, []

    def loss(self, batch):
        calls.append(len(batch.ids))
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("injected")
        return true_loss(self, batch)

    monkeypatch.setattr(training._Training, "_loss", loss)
    squeezed, second = fit(folder, spec)
    assert second.micro_batch_size == 2
    assert calls[:3] == [8, 4, 2]
    assert losses_of(first) == pytest.approx(losses_of(second), rel=1e-5)
    assert same(weights(plain), weights(squeezed), rtol=1e-3, atol=2e-5)


def test_one_row_that_does_not_fit_says_what_to_do(folder, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 TB")

    monkeypatch.setattr(training._Training, "_loss", loss)
    with pytest.raises(MemoryError, match="lower max_tokens, use adapter='lora'"):
        fit(folder, a_spec(folder, epochs=1))


def test_other_errors_are_not_taken_for_memory(folder, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(training._Training, "_loss", loss)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(folder, a_spec(folder, epochs=1))


def test_a_loss_that_turns_nan_is_an_outcome(folder, monkeypatch):
    spec = a_spec(folder, epochs=2)
    true_loss, calls = training._Training._loss, []

    def loss(self, batch):
        calls.append(0)
        found = true_loss(self, batch)
        return found._replace(total=found.total * math.nan) if len(calls) == 3 else found

    monkeypatch.setattr(training._Training, "_loss", loss)
    student, outcome = fit(folder, spec)
    assert (outcome.status, outcome.steps) == ("diverged", 3)
    assert "nan at step 3" in outcome.reason
    assert all(torch.isfinite(w).all() for w in weights(student).values())


def test_sft_overfits_ten_items_and_learns_to_stop(folder):
    spec = a_spec(folder, train_items=10, epochs=160, batch_size=10, learning_rate=1e-2)
    items = sources.load_items(spec, "train")
    student, outcome = fit(folder, spec, items=items)
    assert losses_of(outcome)[-1] < 0.05
    prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer)
    texts = generation.generate(student, prompts, max_new_tokens=40)
    assert all(text.ended for text in texts)
    assert generation.decode(student, texts) == [item.response for item in items]


@pytest.mark.parametrize("method", ["fkl", "revkd", "gkd"])
def test_kd_drives_a_student_of_the_same_size_to_its_teacher(folder, method):
    spec = a_spec(folder, method, epochs=30, batch_size=24, learning_rate=1e-2)
    if method == "gkd":
        spec = dataclasses.replace(spec, max_new_tokens=16)
    student, outcome = fit(folder, spec)
    found = losses_of(outcome)
    assert found[-1] < found[0] / 4
    teacher = a_teacher(folder, spec)
    batch = encoding.collate(
        encoding.encode(
            sources.load_items(spec, "train"), student.tokenizer, max_tokens=96, protocol="careful"
        ),
        range(24),
        pad_id=student.pad_id,
    )
    mine = Teacher(student).hidden_NH(batch) @ student.head.weight_VH[: student.vocabulary_size].T
    its = teacher.hidden_NH(batch) @ teacher.head.weight_VH[: student.vocabulary_size].T
    assert (mine.argmax(-1) == its.argmax(-1)).float().mean() > 0.9


def test_noise_is_the_same_for_an_item_whatever_its_batch(folder):
    spec = a_spec(folder, "fkl", noise_sigma=2.0)
    teacher = a_teacher(folder, spec)
    table = encoding.encode(
        sources.load_items(spec, "train"), teacher.model.tokenizer, max_tokens=96, protocol="careful"
    )
    together = encoding.collate(table, [3, 1, 2], pad_id=2)
    alone = encoding.collate(table, [1], pad_id=2)
    keys = teacher.noise(together).keys
    start = int(together.scored_BT[0].sum())
    n = int(alone.scored_BT.sum())
    assert torch.equal(keys[start : start + n], teacher.noise(alone).keys)
    assert len(set(keys.tolist())) == len(keys)
    assert a_teacher(folder, a_spec(folder, "fkl")).noise(together) is None


def test_paper_weighs_sequences_and_careful_weighs_tokens(folder):
    """One long and one short sequence: under `paper` each has weight one half, under `careful` its tokens."""
    for method in ("fkl", "revkd"):
        found = {}
        for protocol in ("careful", "paper"):
            spec = a_spec(folder, method, protocol=protocol, train_items=2, batch_size=2, epochs=1)
            items = sources.load_items(spec, "train")
            alone = [losses_of(fit(folder, dataclasses.replace(spec), items=[item])[1])[0] for item in items]
            both = losses_of(fit(folder, spec, items=items)[1])[0]
            tokenizer = models.load_tokenizer(spec.student)
            table = encoding.encode(items, tokenizer, max_tokens=96, protocol=protocol)
            batch = encoding.collate(table, [0, 1], pad_id=2)
            counts = batch.scored_BT.sum(1).double()
            shares = counts / counts.sum() if protocol == "careful" else torch.tensor([0.5, 0.5]).double()
            found[protocol] = (both, float(shares @ torch.tensor(alone).double()))
        for both, expected in found.values():
            assert both == pytest.approx(expected, rel=1e-5)


ALL_FACTORS = {"sft": {}, "gkd": {}} | dict.fromkeys(("fkl", "revkd"), {"mean_by_sequence": True})


@pytest.mark.parametrize("method", METHODS)
def test_all_factors_together_are_the_paper_bit_for_bit(folder, method):
    noise = {} if method == "sft" else {"noise_sigma": 1.0, "max_new_tokens": 8} if method == "gkd" else {}
    paper = a_spec(folder, method, protocol="paper", epochs=2, **noise)
    apart = a_spec(folder, method, prompt_in_loss=True, epochs=2, **ALL_FACTORS[method], **noise)
    assert paper.run_id != apart.run_id
    (one, first), (two, second) = fit(folder, paper), fit(folder, apart)
    assert losses_of(first) == losses_of(second)
    assert same(weights(one), weights(two))
    careful, third = fit(folder, a_spec(folder, method, epochs=2, **noise))
    assert losses_of(third) != losses_of(first)  # otherwise this test could not fail
    assert not same(weights(careful), weights(one))


def logits_of(model, batch):
    """Of the one sequence of a batch, at every position."""
    hidden_TH = model.hidden_states(batch.input_ids_BT)[0]
    return hidden_TH @ model.head.weight_VH[: model.vocabulary_size].T


def a_step(folder, spec):
    """(gradients by name, the mean loss, batch) of the first step of a training."""
    student = models.load(spec.student, trains_all=True)
    items = sources.load_items(spec, "train")
    own = {"teacher": a_teacher(folder, spec), "compute": Compute(micro_batch_rows=3)}
    run = training._Training(student, items, spec, rate=1e-3, **own)
    student.network.train()
    batch, _ = run.batch(0)
    loss = run.gradients(batch, 0)
    found = {name: w.grad.clone() for name, w in student.network.named_parameters()}
    student.network.zero_grad()
    return found, loss, batch, student


FACTORS = [{}, {"prompt_in_loss": True}, {"mean_by_sequence": True}]
FACTORS.append({"prompt_in_loss": True, "mean_by_sequence": True})
FACTORS += [{"kd_weight": 0.3}, {"kd_weight": 0.3, "mean_by_sequence": True}]


@pytest.mark.parametrize("factors", FACTORS, ids=lambda factors: "+".join(factors) or "careful")
@pytest.mark.parametrize("method", ["fkl", "revkd"])
def test_each_factor_divides_by_what_it_says_and_scores_what_it_says(folder, method, factors):
    """By hand in float64: which tokens count, and each token's share of the loss, then plain autograd."""
    spec = a_spec(folder, method, train_items=8, batch_size=8, epochs=1, **factors)
    found, loss, batch, student = a_step(folder, spec)
    prompts = encoding.prompt_ids([i.question for i in sources.load_items(spec, "train")], student.tokenizer)
    ids = [item.id for item in sources.load_items(spec, "train")]
    total, share, teacher = torch.zeros(()), {}, a_teacher(folder, spec).model
    for model in (teacher, student):
        model.network.double()
    for row, name in enumerate(batch.ids):
        n_tokens = int(batch.attention_BT[row].sum())
        first = 1 if "prompt_in_loss" in factors else len(prompts[ids.index(name)])
        share[row] = range(first, n_tokens)
    n_all = sum(map(len, share.values()))
    for row, scored in share.items():
        tensors = (batch.input_ids_BT, batch.attention_BT, batch.scored_BT)
        one = encoding.Batch([batch.ids[row]], *(x[row : row + 1] for x in tensors))
        log_p, log_q = (logits_of(model, one).log_softmax(-1) for model in (teacher, student))
        left, right = (log_p, log_q) if method == "fkl" else (log_q, log_p)
        gold = -log_q[:-1].gather(1, one.input_ids_BT[0, 1:, None])[:, 0]
        by_token = spec.kd_weight * (left.exp() * (left - right)).sum(-1)[:-1] + (1 - spec.kd_weight) * gold
        weight = 1 / (len(batch.ids) * len(scored)) if "mean_by_sequence" in factors else 1 / n_all
        total = total + weight * sum(by_token[token - 1] for token in scored)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-4)
    for name, w in student.network.named_parameters():
        assert torch.allclose(found[name].double(), w.grad, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize(("part", "module"), [("attention", "self_attn"), ("mlp", "mlp")])
def test_frozen_modules_are_to_the_bit_what_they_were_and_all_else_moves(folder, part, module):
    spec = a_spec(folder, "fkl", frozen=part, epochs=1)
    before = dict(models.load(spec.student).network.named_parameters())
    student, _ = fit(folder, spec)
    after = {name: w.detach() for name, w in student.network.named_parameters()}
    stayed = {name for name, w in after.items() if torch.equal(w, before[name])}
    assert stayed == {name for name in after if module in name.split(".")} != set()


def test_a_model_without_such_modules_cannot_have_them_frozen(folder):
    model = models.load(str(folder / "student-20k"))
    model.network = torch.nn.ModuleDict({"block": model.network.lm_head})
    with pytest.raises(ModelError, match="frozen='mlp' has no effect on .*leave it out"):
        trainable.make_trainable(model, a_spec(folder, frozen="mlp"), seed=0)


def test_the_prompt_is_scored_in_gold_and_in_own_texts_where_it_is_asked_for(folder):
    for own in ({"on_policy_share": 0.0}, {"on_policy_share": 1.0, "max_new_tokens": 8}):
        spec = a_spec(folder, "gkd", epochs=1, **own)
        plain, asked = (
            [e["n_tokens"] for e in fit(folder, one)[1].curve if "loss" in e][0]
            for one in (spec, dataclasses.replace(spec, prompt_in_loss=True))
        )
        items, tokenizer = sources.load_items(spec, "train"), models.load_tokenizer(spec.student)
        rows = training._Training(
            models.load(spec.student), items, spec, rate=1e-3, teacher=a_teacher(folder, spec)
        ).rows(0)
        prompts = encoding.prompt_ids([items[row].question for row in rows], tokenizer)
        assert asked - plain == sum(len(prompt) - 1 for prompt in prompts)  # the first has nothing before it


def test_gkd_mixes_by_its_share_and_scores_its_own_texts(folder):
    for share, policies in ((0.0, {False}), (1.0, {True})):
        own = {"max_new_tokens": 8} if share else {}
        _, outcome = fit(folder, a_spec(folder, "gkd", on_policy_share=share, epochs=1, **own))
        assert {entry["on_policy"] for entry in outcome.curve if "loss" in entry} == policies
    _, mixed = fit(folder, a_spec(folder, "gkd", on_policy_share=0.5, epochs=8, max_new_tokens=8))
    own = [entry["on_policy"] for entry in mixed.curve if "loss" in entry]
    assert 0.2 < sum(own) / len(own) < 0.8
    assert max(entry["n_tokens"] for entry in mixed.curve if entry.get("on_policy")) <= 8 * 9  # texts and EOS


def test_samples_of_several_steps_are_drawn_at_once_from_the_student_before_the_first(folder, monkeypatch):
    drawn, sampled = [], rollouts.generate

    def watched(student, prompts, **how):
        texts = sampled(student, prompts, **how)
        drawn.append(dict(zip(how["keys"], texts, strict=True)))
        return texts

    monkeypatch.setattr(rollouts, "generate", watched)
    spec = a_spec(folder, "gkd", epochs=2, on_policy_share=1.0, learning_rate=0.1)
    outcomes = {n: fit(folder, dataclasses.replace(spec, rollout_steps=n))[1] for n in (1, 4)}
    one_by_one, at_once = drawn[:6], drawn[6:]
    sizes = [len(texts) for texts in one_by_one]
    assert [len(texts) for texts in at_once] == [sum(sizes[:4]), sum(sizes[4:])]
    stale = {key: text for texts in at_once for key, text in texts.items()}
    exact = {key: text for texts in one_by_one for key, text in texts.items()}
    assert stale.keys() == exact.keys()  # the same items in the same steps
    assert [stale[key] == text for key, text in one_by_one[0].items()] == [True] * len(one_by_one[0])
    assert any(stale[key] != text for key, text in one_by_one[3].items())  # of a student three steps younger
    first, *_ = zip(losses_of(outcomes[1]), losses_of(outcomes[4]), strict=True)
    assert first[0] == pytest.approx(first[1], rel=1e-6)


def test_best_on_validation_restores_the_lowest(folder):
    spec = a_spec(folder, train_items=2, batch_size=2, epochs=40, learning_rate=1e-2, select_best=True)
    validation = sources.load_items(spec, "validation")
    student, outcome = fit(folder, spec, validation=validation)
    by_epoch = [entry["validation_loss"] for entry in outcome.curve if "validation_loss" in entry]
    run = training._Training(student, validation, spec, rate=1e-3, validation=validation)
    assert run.validation_loss() == pytest.approx(min(by_epoch), rel=1e-6)
    assert min(by_epoch) < by_epoch[-1]  # otherwise this test could not fail


def test_validation_reads_four_times_the_rows_of_a_training_pass_at_once(folder, monkeypatch):
    spec = a_spec(folder, batch_size=2)
    validation = sources.load_items(spec, "validation")
    student, sizes, losses = models.load(spec.student, trains_all=True), [], []
    run = training._Training(student, validation, spec, rate=1e-3, validation=validation)
    states = student.scoring_states
    monkeypatch.setattr(
        student, "scoring_states", lambda batch: sizes.append(len(batch.input_ids_BT)) or states(batch)
    )
    assert len(validation) == 6
    for rows, expected in ((2, [6]), (1, [4, 2])):
        run.state.micro_batch_rows = rows
        sizes.clear()
        losses.append(run.validation_loss())
        assert sorted(sizes, reverse=True) == expected
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_every_epoch_is_another_permutation_of_all_items(folder):
    spec = a_spec(folder, epochs=2, batch_size=4)
    items = sources.load_items(spec, "train")
    run = training._Training(models.load(spec.student, trains_all=True), items, spec, rate=1e-3)
    first, second = (
        [row for step in range(run.steps_per_epoch) for row in run.rows(epoch * run.steps_per_epoch + step)]
        for epoch in range(2)
    )
    assert sorted(first) == sorted(second) == list(range(len(items)))
    assert first != second


def test_schedule_warms_up_and_falls_to_zero(folder):
    spec = a_spec(folder, epochs=10, warmup_share=0.2)
    _, outcome = fit(folder, spec)
    rates = [entry["learning_rate"] for entry in outcome.curve if "loss" in entry]
    assert rates.index(max(rates)) in (5, 6)
    assert max(rates) == pytest.approx(3e-3)
    assert rates[0] == pytest.approx(3e-3 / 6)
    assert rates[-1] == pytest.approx(3e-3 / 24)


def test_lora_trains_the_adapter_alone(folder):
    spec = a_spec(folder, "fkl", adapter="lora", epochs=1)
    student, _ = fit(folder, spec)
    names = set(weights(student))
    assert names
    assert all("lora_" in name for name in names)
    kinds = {name.split(".")[-4] for name in names}
    assert kinds == set(constants.LORA_TARGETS)
    base = models.load(spec.student)
    frozen = {
        n.replace(".base_layer", ""): w for n, w in student.causal.named_parameters() if "lora_" not in n
    }
    assert same(dict(base.network.named_parameters()), frozen)


def test_padding_rows_get_no_gradient(folder):
    spec = a_spec(folder, "fkl", epochs=1, weight_decay=0.0)
    before = models.load(spec.student).head.weight_VH.clone()
    student, _ = fit(folder, spec)
    size = student.vocabulary_size
    assert torch.equal(student.head.weight_VH[size:], before[size:])
    assert not torch.equal(student.head.weight_VH[:size], before[:size])


def test_a_llama_student_trains_too(folder):
    spec = tiny.spec(str(folder / "llama-20k"), str(folder / "data"), epochs=4)
    _, outcome = fit(folder, spec)
    assert losses_of(outcome)[-1] < losses_of(outcome)[0]


def test_teacher_and_method_must_fit(folder):
    spec = a_spec(folder, "fkl")
    student = models.load(spec.student)
    with pytest.raises(ValueError, match="method 'fkl' needs teacher: give"):
        training.train(student, sources.load_items(spec, "train"), spec, rate=1e-3)


def test_opd_is_the_reverse_kl_on_the_texts_that_the_student_samples(folder, monkeypatch):
    spec, batches = a_spec(folder, "opd", epochs=1, max_new_tokens=8), []
    sampled = rollouts.Rollouts.batch

    def kept(self, step, known):
        batches.append(sampled(self, step, known))
        return batches[-1]

    monkeypatch.setattr(rollouts.Rollouts, "batch", kept)
    _, outcome = fit(folder, spec)
    assert [entry["on_policy"] for entry in outcome.curve] == [True] * 3
    ids, scored = batches[0].input_ids_BT, batches[0].scored_BT[:, 1:]
    both = models.load(spec.student), a_teacher(folder, spec).model
    with torch.no_grad():
        logits = (own.network(ids).logits[:, :-1][scored][:, : own.vocabulary_size] for own in both)
        log_student, log_teacher = (each.double().log_softmax(-1) for each in logits)
    by_hand = (log_student.exp() * (log_student - log_teacher)).sum(-1).mean()
    assert losses_of(outcome)[0] == pytest.approx(float(by_hand), rel=1e-5)


def test_a_weight_that_lies_transposed_in_memory_resumes_to_the_same_values(tmp_path):
    """Fused AdamW pairs a weight and its moments by their place in memory."""

    def state():
        w = torch.nn.Parameter(torch.arange(35.0).reshape(7, 5).T)
        return TrainingState({"w": w}, torch.optim.AdamW([w], lr=0.1, fused=True), 1)

    def step(of, seed):
        of.weights["w"].grad = torch.rand(5, 7, generator=torch.Generator().manual_seed(seed))
        of.optimiser.step()

    straight, resumed = state(), state()
    step(straight, 0)
    straight.save(tmp_path / "checkpoint", "a-run", ALONE)
    resumed.resume(tmp_path / "checkpoint", "a-run", ALONE, warn=pytest.fail)
    for of in (straight, resumed):
        step(of, 1)
    assert torch.equal(straight.weights["w"], resumed.weights["w"])
