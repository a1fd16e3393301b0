"""Each adapter does what its paper says, trains no more than it may, and is read back as it was."""

import copy
import dataclasses
from pathlib import Path

import adaptertable
import pytest
import tiny
import torch

from kdutils import encoding, models, training
from kdutils.adapters import facts, masked, sensitivity, side_network, trainable
from kdutils.compute import Compute
from kdutils.constants import ADAPTERS, MASKS
from kdutils.data import sources
from kdutils.data.model_files import ModelError
from kdutils.devices import launch
from kdutils.runs import answers, experiment, students

BUDGETS = {"shadow": 9_000}  # of values; a rank has 704, and the adapted matrices 12,288 entries
N_ENTRIES, EXACT, ROUNDING = 12_288, 1e-5, 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tiny.save_study(tmp_path_factory.mktemp("models"))
    for kind in ("qwen", "llama"):  # far from flat, so that differences show
        tiny.save_model(root / f"{kind}-20k", kind=kind, spread=0.2)
    return root


def a_spec(folder, adapter, method="sft", student="qwen-20k", **fields):
    if adapter != "full":
        fields = {"adapter_parameters": BUDGETS.get(adapter, 2_000)} | fields
    if adapter == "lora":
        fields = {"lora_dropout": 0.0} | fields
    if method != "sft":
        fields = {"teacher": str(folder / "tiny-40k")} | fields
    how = {"method": method, "adapter": adapter, "weight_decay": 0.0} | fields
    return tiny.spec(str(folder / student), str(folder / "data"), **how)


def fit(spec, **options):
    """(student, outcome) of a training by SFT."""
    items = sources.load_items(spec, "train")
    student = models.load(spec.student, trains_all=spec.adapter == "full")
    student = trainable.make_trainable(student, spec, seed=spec.seed, items=items)
    return student, training.train(student, items, spec, rate=spec.peak_rate, **options)


@pytest.mark.parametrize("student", ["qwen-20k", "llama-20k"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_student_is_read_merged_and_decoded_as_it_was_trained(folder, student, adapter):
    spec = a_spec(folder, adapter, student=student, learning_rate=0.02)
    row = adaptertable.row(spec)
    assert row.start < (0.05 if adapter == "unilora" else EXACT)  # whose vector begins at random
    assert row.reload == 0
    assert row.cached
    assert (row.merge is None) == (adapter == "shadow")
    assert row.merge is None or row.merge < ROUNDING
    if adapter == "pissa":  # what is left is the model without its largest directions
        assert row.disabled > 0.01
    else:
        assert row.disabled in (0, None)
    assert adapter == "full" or row.trainable <= spec.adapter_parameters


@pytest.mark.parametrize("adapter", trainable.COUNTS)
def test_counts_are_the_formulas_and_one_rank_more_is_too_much(folder, adapter):
    spec = a_spec(folder, adapter)
    model = models.load(spec.student)
    shapes = [tuple(w.shape) for w in trainable.matrices(model.causal).values()]
    size = trainable.size_of(model.causal, spec)
    count, ranks = trainable.COUNTS[adapter], list(trainable._sizes(spec, shapes))
    student = trainable.make_trainable(model, spec, seed=0)
    assert sum(w.numel() for w in student.trained().values()) == count(shapes, size) <= 2_000
    assert count(shapes, ranks[ranks.index(size) + 1]) > 2_000


def test_a_side_network_has_the_width_that_its_budget_allows(folder):
    student = trainable.make_trainable(
        models.load(str(folder / "qwen-20k")), a_spec(folder, "shadow"), seed=0
    )
    width = student.side.config.intermediate_size
    assert facts.of_training(student, 1)["trainable"] == side_network.count(student.causal, 8, width) <= 9_000
    assert side_network.count(student.causal, 8, width + 1) > 9_000


@pytest.mark.parametrize(
    ("adapter", "fields", "says"),
    [
        ("lora", {"adapter_parameters": 703}, "trains at least 704 values"),
        ("dora", {"adapter_parameters": 1_000}, "trains at least 1024 values"),
        ("shadow", {"adapter_parameters": 500}, "trains at least "),
        ("pissa", {"adapter_parameters": N_ENTRIES + 1}, "has 12288 entries at most"),
        ("id3", {"adapter_parameters": N_ENTRIES + 1}, "has 12288 entries at most"),
        ("miss_bat", {"adapter_parameters": 12_000}, "trains at most 5120 values"),
        ("miss_bat", {"adapter_parameters": None, "lora_rank": 5}, r"has ranks \[1, 2, 4, 8, 16\] here"),
        ("pissa", {"adapter_parameters": None, "lora_rank": 17}, "has ranks 1 to 16 here"),
        ("osf", {"adapter_parameters": None, "lora_rank": 16}, "has ranks 1 to 15 here"),
    ],
)
def test_a_size_that_the_model_cannot_have_is_refused_before_work(folder, tmp_path, adapter, fields, says):
    with pytest.raises(ModelError, match=says):
        experiment.run(a_spec(folder, adapter, **fields), out=tmp_path / "out", evaluation=tiny.EVALUATION)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_whole_matrices_is_refused_on_two_devices(folder):
    with pytest.raises(launch.DevicesError, match="devices=2: adapter='id3' needs whole matrices"):
        launch.check_devices(a_spec(folder, "id3", devices=2))


@pytest.mark.parametrize("adapter", ["lora", "pissa"])
def test_a_lora_is_multiplied_in_bfloat16_but_in_training(monkeypatch, folder, adapter):
    spec, place = a_spec(folder, adapter), folder / f"bfloat16-{adapter}"
    exact, _ = fit(spec)
    trainable.stored(exact).save_pretrained(place)
    monkeypatch.setattr(models, "LARGE_PARAMETERS", 0)
    model = models.load(spec.student, compute=Compute(cpu_bfloat16=True))
    ids_BT = torch.arange(24).view(2, 12) % model.vocabulary_size
    wanted = exact.hidden_states(ids_BT)
    for is_trained_on, numbers in ((True, {torch.bfloat16, torch.float32}), (False, {torch.bfloat16})):
        base, seen = dataclasses.replace(model, network=copy.deepcopy(model.network)), []
        student = trainable.loaded(base, spec, place, is_trained_on=is_trained_on)
        linear = [module for module in student.network.modules() if isinstance(module, torch.nn.Linear)]
        for module in linear:
            module.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1].dtype))
        found = student.hidden_states(ids_BT)
        assert (found - wanted).abs().max() < 0.05 * wanted.abs().max() and set(seen) == numbers
        assert {m.weight.dtype for m in linear} == {torch.float32, torch.bfloat16}


def test_teachers_are_the_same_whatever_the_adapter(folder):
    full = a_spec(folder, "full", "fkl").teacher_spec
    for adapter in ADAPTERS:
        fields = {"teacher_adapter": "full"} if adapter == "lora" else {}
        assert a_spec(folder, adapter, "fkl", **fields).teacher_spec == full
    assert a_spec(folder, "lora", "fkl").teacher_spec.adapter == "lora"


# --- masks --------------------------------------------------------------------------------------------------


def masks_by_step(monkeypatch, spec):
    """The student, and the list of entries after each step."""
    found, settle = [], masked.Mask.settle

    def noted(self):
        settle(self)
        found.append(self.index[: self.n].tolist())

    monkeypatch.setattr(masked.Mask, "settle", noted)
    return fit(spec)[0], found


def test_id3_takes_an_equal_share_at_every_step_and_gives_none_up(folder, monkeypatch):
    spec = a_spec(folder, "id3", adapter_parameters=1_001)
    student, lists = masks_by_step(monkeypatch, spec)
    assert [len(each) for each in lists] == [1_001 * step // 6 for step in range(1, 7)]
    assert all(later[: len(own)] == own for own, later in zip(lists, lists[1:], strict=False))
    assert len(set(lists[-1])) == 1_001
    told = facts.of_training(student, 6)
    student.mask.counts[0] = 500  # an earlier epoch is kept
    assert told == facts.of_training(student, 6)
    assert facts.of_storage(student, Path("no folder"))["stored_parameters"] == 500
    assert told == {"trainable": 1_001, "coordinate_updates": sum(map(len, lists))}


def test_id3_makes_half_the_updates_of_a_static_mask(folder):
    n_steps, budget = 12, 1_200
    spec = a_spec(folder, "id3", adapter_parameters=budget, epochs=4)
    updates = [
        facts.of_training(fit(dataclasses.replace(spec, adapter=name))[0], n_steps)["coordinate_updates"]
        for name in ("id3", "static_mask", "random_mask")
    ]
    assert updates == [budget * (n_steps + 1) // 2, budget * n_steps, budget * n_steps]


@pytest.mark.parametrize("adapter", MASKS)
def test_what_is_not_in_the_list_stays_bit_for_bit(folder, adapter):
    spec = a_spec(folder, adapter, adapter_parameters=1_500, weight_decay=0.1)
    student, _ = fit(spec)
    before = dict(models.load(spec.student).network.named_parameters())
    changed = 0
    for name, w in student.causal.named_parameters():
        if "lora" not in name:
            changed += int((w != before[name.replace(".base_layer", "")]).sum())
    assert 0 < changed <= student.mask.n <= 1_500


def test_entries_are_chosen_by_gradient_and_small_weights_win_with_an_exponent():
    w = torch.nn.Parameter(torch.tensor([[4.0, 0.5], [1.0, 0.25]]))
    other = torch.nn.Parameter(torch.tensor([[2.0], [8.0]]))
    w.grad, other.grad = torch.tensor([[4.0, -1.0], [3.0, 1.0]]), torch.tensor([[5.0], [-2.0]])
    for exponent, wanted in ((0.0, [4, 0, 2]), (1.0, [3, 2, 4])):  # |g| / (|w| + eps): 1 2 3 4, 2.5 .25
        mask = masked.Mask({"w": w, "other": other}, budget=3)
        mask.grow(3, exponent)
        assert mask.index.tolist() == wanted
        mask = masked.Mask({"w": w, "other": other}, budget=3)
        for _ in range(3):
            mask.grow(1, exponent)
        assert mask.index.tolist() == wanted


def test_a_mask_of_all_entries_is_full_training_of_these_matrices(folder):
    spec = a_spec(folder, "static_mask", adapter_parameters=N_ENTRIES, weight_decay=0.1)
    sparse, _ = fit(spec)
    dense = models.load(spec.student)
    dense.network.requires_grad_(False)
    for w in trainable.matrices(dense.causal).values():
        w.requires_grad_(True)
    training.train(dense, sources.load_items(spec, "train"), spec, rate=spec.peak_rate)
    for name, w in trainable.matrices(dense.causal).items():
        assert torch.allclose(trainable.matrices(sparse.causal)[name], w, atol=1e-6)


class Interrupt(Exception):  # noqa: N818 - stands for Ctrl-C
    pass


@pytest.mark.parametrize("adapter", ["id3", "static_mask", "spt", "shadow", "dora"])
def test_interrupted_and_resumed_is_bit_equal(folder, tmp_path, monkeypatch, adapter):
    rising = property(lambda self: lambda: float(self.state.done_steps))  # the first epoch is the best
    monkeypatch.setattr(training._Training, "validation_loss", rising)
    spec = a_spec(folder, adapter, epochs=2, select_best=True)
    how = {"validation": sources.load_items(spec, "validation")}
    straight, _ = fit(spec, **how)

    def stop(entry):
        if entry.get("step") == 5:
            raise Interrupt

    checkpoint, every = tmp_path / "checkpoint", Compute(checkpoint_seconds=0.0)
    with pytest.raises(Interrupt):
        fit(spec, checkpoint=checkpoint, progress=stop, compute=every, **how)
    resumed, outcome = fit(spec, checkpoint=checkpoint, **how)
    assert [entry["step"] for entry in outcome.curve if "step" in entry] == [1, 2, 3, 4, 5, 6]
    told = [facts.of_training(student, 6)["coordinate_updates"] for student in (straight, resumed)]
    most = facts.of_training(straight, 0)["trainable"]  # what a mask grows to; its updates are 3.5 times that
    assert told[0] == told[1] > (3 if adapter == "id3" else 4) * most  # also of steps set back
    again = dict(resumed.network.named_parameters())
    assert all(torch.equal(w, again[name]) for name, w in straight.network.named_parameters())
    if adapter == "id3":  # entries of the second epoch are as they were
        assert straight.mask.n == 1_000
        base = dict(models.load(spec.student).network.named_parameters())
        assert sum(int((w != base[name]).sum()) for name, w in straight.network.named_parameters()) <= 1_000


# --- SPT ----------------------------------------------------------------------------------------------------


def test_spt_adapts_matrices_with_many_sensitive_entries_within_the_budget():
    draws = torch.Generator().manual_seed(0)
    measured = {name: torch.rand(40, 40, generator=draws) for name in ("dense", "sparse", "idle")}
    measured["dense"] += 1.0  # any of it is above all else
    measured["sparse"][:1] += 0.9  # 40 entries
    measured["idle"] *= 0.1
    for budget in (200, 80 + 30, 20):
        adapted, index = sensitivity.allocated(measured, rank=1, budget=budget)
        assert len(adapted) * 80 + len(index) <= budget
    assert (adapted, len(index)) == ([], 20)
    adapted, index = sensitivity.allocated(measured, rank=1, budget=80 + 30)
    assert adapted == ["dense"]
    assert len(index) == 30
    assert all(place < 1_600 for place in index.tolist())  # of `sparse`, since `dense` is not among them


def test_spt_has_both_kinds_in_a_model(folder):
    student, _ = fit(a_spec(folder, "spt", adapter_parameters=1_000, lora_rank=2))
    adapted = [name for name in student.trained() if "lora_A" in name]
    assert adapted
    assert 0 < student.mask.n < facts.of_training(student, 1)["trainable"] <= 1_000
    with pytest.raises(ModelError, match="'spt' trains at most [0-9]+ values of this model"):
        fit(a_spec(folder, "spt", adapter_parameters=12_000, lora_rank=2))


# --- side networks ------------------------------------------------------------------------------------------


def test_a_detached_student_is_the_side_network_and_not_the_student(folder):
    student, _ = fit(a_spec(folder, "shadow"))
    with torch.no_grad():
        alone, ids = side_network.detached(student), torch.arange(3, 13)[None]
        batch = encoding.batch_of(["a"], [ids[0].tolist()], [1], pad_id=student.pad_id)
        attached = student.scoring_states(batch)
        assert torch.allclose(alone.scoring_states(batch), student.side_states(batch), atol=EXACT)
        assert not torch.allclose(alone.scoring_states(batch), attached, atol=0.01)


def test_the_epoch_of_a_detached_student_is_chosen_by_the_side_network(folder):
    spec = a_spec(folder, "shadow", detached=True)
    items, validation = (sources.load_items(spec, split) for split in ("train", "validation"))
    student, _ = fit(spec)
    alone = side_network.detached(student)
    asked = {"detached": (student, spec), "attached": (student, dataclasses.replace(spec, detached=False))}
    asked["alone"] = alone, a_spec(folder, "full")
    losses = {
        name: training._Training(model, items, own, rate=1e-3, validation=validation).validation_loss()
        for name, (model, own) in asked.items()
    }
    assert losses["detached"] == pytest.approx(losses["alone"], rel=1e-5)
    assert losses["attached"] != pytest.approx(losses["alone"], rel=1e-2)


@pytest.mark.parametrize("factors", [{}, {"kd_weight": 0.5}, {"mean_by_sequence": True}])
@pytest.mark.parametrize("kind", training.SHADOW_LOSSES)
def test_a_side_network_has_a_loss_of_its_own(folder, kind, factors):
    spec = a_spec(folder, "shadow", "fkl", shadow_loss=kind, **factors)
    student = trainable.make_trainable(models.load(spec.student), spec, seed=0)
    teacher = training.Teacher(models.load(spec.teacher))
    items = sources.load_items(spec, "train")
    run = training._Training(student, items, spec, rate=1e-3, teacher=teacher)
    batch, _ = run.batch(0)
    size = student.vocabulary_size
    found = run._loss(batch)
    found.total.backward()
    assert all(w.grad is not None for w in student.trained().values())
    with torch.no_grad():
        states = [student.scoring_states(batch), student.side_states(batch), teacher.hidden_NH(batch)]
        heads = [student.head, student.head, teacher.head]
        own, side, taught = (
            head.logits(x)[:, :size].log_softmax(-1) for head, x in zip(heads, states, strict=True)
        )
        n_of_row = batch.scored_BT.sum(1, keepdim=True).expand_as(batch.scored_BT)[batch.scored_BT]
        weights = 1 / n_of_row if "mean_by_sequence" in factors else torch.ones(len(own))
        main, of_teacher = ((weights * (taught.exp() * (taught - one)).sum(-1)).sum() for one in (own, side))
        gold = batch.input_ids_BT[batch.scored_BT][:, None]
        main_gold, of_gold = (-(weights * one.gather(1, gold)[:, 0]).sum() for one in (own, side))
    main = spec.kd_weight * main + (1 - spec.kd_weight) * main_gold
    side_losses = {"cross_entropy": 0.05 * of_gold, "cross_entropy_full": of_gold, "teacher": of_teacher}
    wanted = main + side_losses[kind]
    assert float(found.total.detach()) == pytest.approx(float(wanted), rel=1e-4)


# --- whole runs ---------------------------------------------------------------------------------------------

WHOLE = [  # every method, with the teacher's states kept on disk
    ("dora", "sft", {}),
    ("pissa", "fkl", {}),
    ("miss", "seqkd", {"max_new_tokens": 8}),
    ("miss_bat", "revkd", {"student_start": "sft"}),
    ("osf", "sft", {"student_start": "sft"}),
    ("unilora", "fkl", {}),
    ("id3", "gkd", {"max_new_tokens": 8}),
    ("spt", "opd", {"max_new_tokens": 8}),
    ("static_mask", "kd", {"prefix": "teacher", "divergence": "forward_kl", "max_new_tokens": 8}),
    ("random_mask", "fkl", {"protocol": "careful"}),
    ("shadow", "revkd", {"shadow_loss": "teacher"}),
    ("shadow", "opd", {"shadow_loss": "teacher", "detached": True, "max_new_tokens": 8}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "method", "fields"), WHOLE)
def test_a_run_is_stored_with_its_facts_and_read_back(folder, tmp_path_factory, adapter, method, fields):
    spec = a_spec(folder, adapter, method, epochs=1, **fields)
    out = folder / "out"
    run = experiment.run(spec, out=out, evaluation=tiny.EVALUATION)
    assert run.result["status"] == "trained"
    assert run.result["trainable"] <= spec.adapter_parameters
    assert run.result["file_bytes"] > 0
    rank = run.result["effective_rank"]
    assert (rank is None) == (adapter == "shadow")
    assert rank is None or 1 <= rank <= 32
    stored = students.load_trained(run.spec, run.folder)
    items = sources.test_items(spec, tiny.EVALUATION)
    ((rows, _),) = answers.rows_of(stored, items, [tiny.EVALUATION], spec)
    assert rows["text"].tolist() == run.items["text"].tolist()
    assert stored.causal.config.num_hidden_layers == (1 if spec.detached else 2)


@pytest.mark.parametrize("adapter", ["lora", "shadow"])
def test_a_model_in_bfloat16_is_read_as_it_was_trained(folder, tmp_path, monkeypatch, adapter):
    monkeypatch.setattr(models, "LARGE_PARAMETERS", 1)
    compute, trained = Compute(cpu_bfloat16=True), []
    noted = lambda student: trained.append(student) or student.network  # noqa: E731
    monkeypatch.setattr(trainable, "stored", noted)
    spec = a_spec(folder, adapter, learning_rate=0.02)
    run = experiment.run(spec, out=tmp_path, evaluation=tiny.EVALUATION, compute=compute)
    stored = students.load_trained(run.spec, run.folder, compute=compute)
    assert stored.policy.weights == torch.bfloat16
    pairs = zip(trained[0].network.parameters(), stored.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    if adapter == "lora":  # whose merged weights would be rounded
        assert run.result["effective_rank"] <= 2


def test_the_effective_rank_of_equal_singular_values_is_their_number():
    assert facts.rank_of(torch.eye(6)[:4]) == pytest.approx(4)
    assert facts.rank_of(torch.ones(5, 3)) == pytest.approx(1)
