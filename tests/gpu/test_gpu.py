"""What a GPU computes is what a CPU does: `./run_all.sh --test gpu`.

KDUTILS_TEST_DEVICE names another device of torch, so that the tests themselves can be tried without a GPU.
"""

import dataclasses
import os

import pytest
import tiny
import torch
from conftest import missing
from textbook import dense_rows

from kdutils import encoding, generation, losses, models, training
from kdutils.bench import gpu
from kdutils.compute import Compute
from kdutils.constants import LOGIT_METHODS
from kdutils.data import sources
from kdutils.grid.cost import Estimate
from kdutils.grid.machines import GPUS
from kdutils.head import Head
from kdutils.runs import experiment
from kdutils.spec import RunSpec
from kdutils.teacher import CachedTeacher, Teacher, states_of

DEVICE = os.environ.get("KDUTILS_TEST_DEVICE", "cuda")
ON_CPU, ON_DEVICE = Compute(device="cpu"), Compute(device=DEVICE)
QWEN_ROWS, QWEN_TOKENS = 151_936, 151_665  # of the output head, and of the tokenizer
KINDS = [(kind, 0.3 if kind == "jsd" else None) for kind in losses.DIVERGENCES]
# Stated rounding against float64: of the value, and of the gradients in norm.
ROUNDING = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (5e-3, 3e-2)}
# Two devices add in other orders, and large models are in other number formats on them.
LOSS, WEIGHTS = 2e-2, 5e-2
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _device():
    if torch.device(DEVICE).type == "cuda" and not torch.cuda.is_available():
        missing("gpu", "no GPU here: torch.cuda.is_available() is false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_study(tmp_path_factory.mktemp("gpu"))


def a_spec(folder, method="fkl", **fields):
    if method != "sft":
        fields = {"teacher": str(folder / "tiny-40k")} | fields
    return tiny.spec(str(folder / "tiny-20k"), str(folder / "data"), method=method, **fields)


def exact(model):
    """The model computing in float32, so that two devices differ by the order of sums alone."""
    policy = dataclasses.replace(model.policy, weights=torch.float32, autocast=None)
    return dataclasses.replace(model, network=model.network.float(), policy=policy)


def fit(spec, compute, **options):
    """(student, outcome) after training in float32."""
    student = exact(models.load(spec.student, trains_all=True, compute=compute))
    teacher = None
    if spec.method in LOGIT_METHODS:
        teacher = Teacher(exact(models.load(spec.teacher, compute=compute)), spec.noise_sigma, spec.seed)
        teacher.model.network.requires_grad_(False)
    items = sources.load_items(spec, "train")
    how = {"rate": spec.learning_rate, "teacher": teacher, "compute": compute}
    return student, training.train(student, items, spec, **how | options)


def losses_of(outcome):
    return [entry["loss"] for entry in outcome.curve if "loss" in entry]


def apart(one, other):
    """Difference of two students' weights, relative in norm."""
    left, right = (
        torch.cat([w.detach().cpu().flatten() for w in m.network.parameters()]) for m in (one, other)
    )
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("compiled", ["", "inductor"])
def test_divergences_at_qwens_vocabulary_are_those_of_float64(kind, beta, dtype, compiled):
    if compiled and DEVICE == "cpu":
        pytest.skip("on a CPU inductor is tested in tests/core")
    rng = torch.Generator().manual_seed(0)
    shapes = (24, 64), (QWEN_ROWS, 64), (24, 96), (QWEN_ROWS, 96)
    made = [(0.2 * torch.randn(shape, generator=rng)).to(DEVICE, dtype) for shape in shapes]
    hidden, head, teacher_hidden, teacher_head = made
    ours = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    loss = losses.divergence(
        ours[0],
        Head(ours[1]),
        teacher_hidden,
        Head(teacher_head),
        kind=kind,
        beta=beta,
        temperature=2.0,
        vocabulary_size=QWEN_TOKENS,
        scale_by_temperature_squared=False,
        compile_backend=compiled,
    )
    loss.total.backward()
    theirs = [x.double().requires_grad_() for x in (hidden, head)]
    teacher_NV = teacher_hidden.double() @ teacher_head.double()[:QWEN_TOKENS].T
    student_NV = theirs[0] @ theirs[1][:QWEN_TOKENS].T
    total = dense_rows(student_NV, teacher_NV, kind, beta, 2.0).sum()
    total.backward()
    of_value, of_gradient = ROUNDING[dtype]
    assert float(loss.total) == pytest.approx(float(total), rel=of_value)
    for own, other in zip(ours, theirs, strict=True):
        assert (own.grad.double() - other.grad).norm() <= of_gradient * other.grad.norm()


@pytest.mark.parametrize("method", ["sft", *LOGIT_METHODS])
def test_an_epoch_of_every_method_is_that_of_a_cpu(folder, method):
    spec = a_spec(folder, method, epochs=1, noise_sigma=0.5 if method == "fkl" else 0.0)
    spec = dataclasses.replace(spec, on_policy_share=0.0) if method == "gkd" else spec  # samples may differ
    (on_cpu, first), (on_device, second) = (fit(spec, compute) for compute in (ON_CPU, ON_DEVICE))
    assert losses_of(second) == pytest.approx(losses_of(first), rel=LOSS)
    assert apart(on_device, on_cpu) < WEIGHTS


def test_a_student_trains_on_its_own_samples(folder):
    _, outcome = fit(a_spec(folder, "gkd", epochs=1, on_policy_share=1.0, max_new_tokens=12), ON_DEVICE)
    assert outcome.status == "trained" and all(entry["on_policy"] for entry in outcome.curve)


def test_passes_of_other_lengths_and_padding_change_nothing(folder):
    spec = a_spec(folder, epochs=1)
    whole, _ = fit(spec, ON_DEVICE)
    for how in ({"micro_batch_rows": 3}, {"pass_tokens": 0}):
        parts, _ = fit(spec, dataclasses.replace(ON_DEVICE, **how))
        assert apart(parts, whole) < 1e-3


def test_states_on_disk_are_the_teacher_online(folder, tmp_path):
    spec = a_spec(folder, epochs=1)
    teacher = exact(models.load(spec.teacher, compute=ON_DEVICE))
    teacher.network.requires_grad_(False)
    states = states_of(tmp_path, {"of": "test"})
    items = sources.load_items(spec, "train")
    states.write(teacher, encoding.encode(items, teacher.tokenizer, **spec.encoding))
    cached = CachedTeacher(states.open(), lambda: teacher, DEVICE)
    (online, first), (read, second) = fit(spec, ON_DEVICE), fit(spec, ON_DEVICE, teacher=cached)
    assert losses_of(second) == pytest.approx(losses_of(first), rel=1e-4)
    assert apart(read, online) < 1e-3


class Interrupt(Exception):  # noqa: N818 - stands for Ctrl-C
    pass


@pytest.mark.parametrize("begun_on", ["cpu", "device"])
def test_a_checkpoint_of_one_device_goes_on_on_the_other(folder, tmp_path, begun_on):
    spec = a_spec(folder, epochs=2)
    straight, _ = fit(spec, ON_CPU)

    def stop(entry):
        if entry.get("step") == 5:
            raise Interrupt

    begins, ends = (ON_CPU, ON_DEVICE) if begun_on == "cpu" else (ON_DEVICE, ON_CPU)
    begins = dataclasses.replace(begins, checkpoint_seconds=0.0)
    with pytest.raises(Interrupt):
        fit(spec, begins, checkpoint=tmp_path / "c", progress=stop)
    resumed, outcome = fit(spec, ends, checkpoint=tmp_path / "c")
    assert [entry["step"] for entry in outcome.curve if "step" in entry] == [1, 2, 3, 4, 5, 6]
    assert apart(resumed, straight) < WEIGHTS


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_in_a_batch_are_those_one_by_one(folder, temperature):
    """Prompts of unequal length, padded on the left."""
    spec = a_spec(folder)
    model = exact(models.load(spec.student, compute=ON_DEVICE))
    questions = [item.question for item in sources.load_items(spec, "train")][:6]
    prompts = encoding.prompt_ids(questions, model.tokenizer)
    prompts = [ids[n:] for n, ids in enumerate(prompts)]
    how = {"max_new_tokens": 16, "temperature": temperature}
    keys = [f"item-{n}" for n in range(len(prompts))]
    together = generation.generate(model, prompts, keys=keys, **how)
    alone = [generation.generate(model, [p], keys=[k], **how)[0] for p, k in zip(prompts, keys, strict=True)]
    assert [text.token_ids for text in together] == [text.token_ids for text in alone]


def test_memory_that_runs_out_halves_the_passes(folder, monkeypatch):
    """A tensor that no GPU has room for, in each pass of more than two rows."""
    true_loss = training._Training._loss

    def loss(self, batch):
        if len(batch.ids) > 2:
            if DEVICE == "cpu":
                raise torch.OutOfMemoryError("injected")
            torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)
        return true_loss(self, batch)

    spec = a_spec(folder, epochs=1)
    whole, _ = fit(spec, ON_DEVICE)
    monkeypatch.setattr(training._Training, "_loss", loss)
    squeezed, outcome = fit(spec, ON_DEVICE)
    assert outcome.micro_batch_size == 2
    assert apart(squeezed, whole) < 1e-3


def test_a_run_goes_from_items_to_scored_answers(folder, tmp_path):
    """In the number formats of the device: all is loaded, cached, trained, saved, read again and asked."""
    for method, adapter in (("fkl", "full"), ("gkd", "lora")):
        spec = a_spec(folder, method, epochs=1, adapter=adapter)
        run = experiment.run(spec, out=tmp_path, evaluation=tiny.EVALUATION, compute=ON_DEVICE)
        assert run.result["status"] == "trained" and len(run.items) == len(run.teacher_items) == 5


def test_no_more_memory_is_taken_than_planned():
    """A student of Qwen2.5-0.5B's shape with the states of a 7B teacher, against the dry run's estimate."""
    if torch.device(DEVICE).type != "cuda":
        pytest.skip("the memory of a GPU is what is measured")
    case = gpu.case_of("0.5B from 7B", 4, 512)
    found = next(gpu.measure(case, gpu.CONTENDERS["kdutils, cached states"], DEVICE))
    sizes = {"student": "Qwen/Qwen2.5-0.5B", "teacher": "Qwen/Qwen2.5-7B", "data": "benchmark"}
    how = {"method": "fkl", "domain": "math", "batch_size": case.rows, "max_tokens": case.length}
    planned = Estimate(RunSpec(**sizes, **how), GPUS["H200-141GB"]).training_gb(case.rows)
    assert found["peak_gb"] <= planned
