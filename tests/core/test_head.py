"""Models with a bias, a scale or a soft cap after the head, against what they compute themselves."""

import datasets
import pytest
import tiny
import torch
from heads import KINDS, MORE_KINDS, network_of
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from kdutils import encoding, generation, losses, models
from kdutils import teacher as teachers
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.data.logit_checks import error_of_head
from kdutils.data.model_files import ModelError
from kdutils.head import head_of
from kdutils.runs import answers, experiment, ranking, students
from kdutils.teacher import CachedTeacher, Teacher

IDS = torch.tensor([[20, 4, 31, 9, 11, 40, 8, 17], [5, 33, 12, 50, 7, 7, 29, 3]])
PROMPTS, OPTIONS = [IDS[0].tolist(), IDS[1, :5].tolist()], [[[6, 9], [14]], [[22], [8, 30, 41]]]


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A student and a teacher of one kind."""
    loaded = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(request.param)
        network_of(request.param, seed).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        loaded.append(models.load(str(folder), compute=Compute(device="cpu")))
    return loaded


@pytest.fixture(scope="module")
def encoded():
    return datasets.Dataset.from_dict({"id": ["a", "b"], "input_ids": IDS.tolist(), "n_unscored": [1, 3]})


def own_logits(model, ids_BT):
    return model.network(input_ids=ids_BT).logits[..., : model.vocabulary_size]


def loss_and_gradients(model, loss):
    """The loss and every weight's gradient by it."""
    names, weights = zip(*model.network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights)
    return {"loss": loss.detach()} | dict(zip(names, gradients, strict=True))


def assert_same(found, expected):
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()))


def test_cross_entropy_and_its_gradients_are_those_of_the_models_own_logits(both):
    student, _ = both
    hidden_NH = student.hidden_states(IDS)[:, :-1].flatten(0, 1)
    size, targets_N = student.vocabulary_size, IDS[:, 1:].flatten()
    loss = losses.cross_entropy(hidden_NH, student.head, targets_N, vocabulary_size=size)
    dense = F.cross_entropy(own_logits(student, IDS)[:, :-1].flatten(0, 1), targets_N, reduction="sum")
    assert_same(loss_and_gradients(student, loss.total), loss_and_gradients(student, dense))


def test_forward_kl_and_its_gradients_are_those_of_the_models_own_logits(both):
    states_of = [model.hidden_states(IDS).flatten(0, 1) for model in both]
    student, teacher = both
    loss = losses.divergence(
        states_of[0],
        student.head,
        states_of[1],
        teacher.head,
        kind="forward_kl",
        temperature=2.0,
        vocabulary_size=student.vocabulary_size,
        scale_by_temperature_squared=False,
    )
    log_s, log_t = ((own_logits(model, IDS) / 2).log_softmax(-1) for model in both)
    dense = (log_t.exp() * (log_t - log_s)).sum()
    assert_same(loss_and_gradients(student, loss.total), loss_and_gradients(student, dense))


@torch.no_grad()
def test_options_likeliest_tokens_and_greedy_texts_are_those_of_the_models_own_logits(both):
    model, _ = both
    found = ranking.option_logprobs(model, PROMPTS, OPTIONS)
    for prompt, options, logprobs in zip(PROMPTS, OPTIONS, found, strict=True):
        for option, logprob in zip(options, logprobs, strict=True):
            log_p = own_logits(model, torch.tensor([prompt + option]))[0].log_softmax(-1)
            dense = log_p[len(prompt) - 1 : -1].gather(1, torch.tensor(option)[:, None]).sum()
            assert logprob == pytest.approx(float(dense), rel=1e-4)
    likeliest = own_logits(model, IDS).argmax(-1)
    expected = [likeliest[0, :-1].tolist(), likeliest[1, 2:-1].tolist()]
    heads, references = [[20], [5, 33, 12]], [IDS[0, 1:].tolist(), IDS[1, 3:].tolist()]
    assert answers.texts_and_likeliest(model, heads, references, max_new_tokens=1)[1] == expected
    for prompt, text in zip(PROMPTS, generation.generate(model, PROMPTS, max_new_tokens=8), strict=True):
        seen = list(prompt)
        for token in text.token_ids + [model.tokenizer.eos_token_id] * text.ended:
            seen.append(int(own_logits(model, torch.tensor([seen]))[0, -1].argmax()))
            assert seen[-1] == token


@torch.no_grad()
def test_a_teacher_from_disk_has_the_logits_of_the_teacher_itself(both, encoded, tmp_path):
    _, teacher = both
    kept = teachers.states_of(tmp_path, {"teacher": teacher.name})
    kept.write(teacher, encoded)
    cached = CachedTeacher(kept.open(), load=lambda: pytest.fail("no body is needed"), device="cpu")
    batch = encoding.collate(encoded, [1, 0], pad_id=teacher.pad_id)
    found = cached.head.logits(cached.hidden_NH(batch))
    online = Teacher(teacher)
    torch.testing.assert_close(
        found, online.head.cut(teacher.vocabulary_size).logits(online.hidden_NH(batch))
    )
    own = torch.cat([own_logits(teacher, IDS)[1, 2:-1], own_logits(teacher, IDS)[0, :-1]])
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


def test_a_bias_is_trained_and_saved_with_the_student(tmp_path):
    folder = tiny.save_study(tmp_path)
    network_of("phi").save_pretrained(folder / "tiny-20k")
    spec = tiny.spec(str(folder / "tiny-20k"), str(folder / "data"), epochs=1)
    run = experiment.run(sources.resolved(spec), out=tmp_path / "out", evaluation=tiny.EVALUATION)
    before, after = models.load(spec.student), students.load_trained(run.spec, run.folder)
    moved_V = after.head.bias_V != before.head.bias_V
    assert moved_V[: after.vocabulary_size].all() and not moved_V[after.vocabulary_size :].any()


@pytest.mark.parametrize("kind", MORE_KINDS)
def test_scale_and_cap_go_the_way_they_go_in_their_architecture(kind):
    network = network_of(kind)
    head = head_of(network)
    assert kind == "mpt" or head.bias_V is not None or head.scale in (0.25, 4) or head.soft_cap == 4
    error, rounding = error_of_head(network, IDS[0].tolist(), n_rows=70)
    assert error <= rounding < 1e-3


@pytest.mark.parametrize("change", [lambda x: 3 * x, lambda x: x + 0.01 * x.abs().max() * (x == x[..., :1])])
def test_a_forward_that_does_what_no_head_knows_is_refused_on_load(tmp_path, monkeypatch, change):
    folder, plain = tiny.save_model(tmp_path / "model", spread=0.3), Qwen2ForCausalLM.forward

    def forward(self, *args, **kwargs):
        output = plain(self, *args, **kwargs)
        output.logits = change(output.logits)
        return output

    models.load(folder)
    monkeypatch.setattr(Qwen2ForCausalLM, "forward", forward)
    with pytest.raises(ModelError, match=r"qwen2 does more to its logits .* by up to \d.* give a model"):
        models.load(folder)
