"""The hybrid model of the mini family: decoded, trained and planned as any other."""

import pytest
import torch
from transformers.models.qwen3_5 import modeling_qwen3_5

from kdutils import encoding, generation, models
from kdutils.bench import decoding_state
from kdutils.constants import MATH
from kdutils.grid import dry_run
from kdutils.grid.machines import GPUS
from kdutils.grid.model_shapes import architecture_of
from kdutils.grid.plan import plan
from kdutils.grid.profile import NEW_STUDY
from kdutils.mini.family import HYBRID
from kdutils.mini.items import build_data
from kdutils.mini.pretrain import build_model
from kdutils.runs import experiment, students
from kdutils.spec import EvalSpec, RunSpec

TEACHER = "mini-qwen-3B"


@pytest.fixture(scope="module")
def hybrid():
    return models.load(HYBRID.name)


@pytest.fixture(scope="module")
def prompts(hybrid):
    """Of unequal lengths; the longest with its text exceeds a chunk of linear attention (64 tokens)."""
    questions = [item.question for item in build_data(split="test", n_per_task=2, domain=MATH)]
    found = encoding.prompt_ids(questions, hybrid.tokenizer)
    assert len({len(ids) for ids in found}) > 4 and max(map(len, found)) + 40 > 64
    return found


def test_parameters_are_about_those_of_its_sibling_without_linear_attention(hybrid):
    n, sibling = hybrid.network.num_parameters(), architecture_of("mini-qwen-0.5B").parameters
    assert n == architecture_of(HYBRID.name).parameters and abs(n / sibling - 1) < 0.03
    assert hybrid.causal.config.layer_types == [
        "linear_attention",
        "full_attention",
        "linear_attention",
        "linear_attention",
    ]


@torch.inference_mode()
def test_texts_of_a_batch_with_the_cache_are_those_of_each_row_without(hybrid, prompts):
    texts = generation.generate(hybrid, prompts, max_new_tokens=40)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = torch.tensor([[*prompt, *text.token_ids, hybrid.tokenizer.eos_token_id]])
        logits_TV = hybrid.network(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        written = logits_TV[:, : hybrid.vocabulary_size].argmax(-1).tolist()
        assert written[: len(text.token_ids)] == text.token_ids
        assert not text.ended or written[-1] == hybrid.tokenizer.eos_token_id


@torch.inference_mode()
def test_padding_on_the_left_changes_logits_by_rounding_alone(hybrid, prompts):
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[hybrid.pad_id] * (width - len(ids)) + list(ids) for ids in prompts])
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    padded_BV = hybrid.network(ids_BT, attention_mask=mask_BT).logits[:, -1]
    alone_BV = torch.stack([hybrid.network(torch.tensor([ids])).logits[0, -1] for ids in prompts])
    torch.testing.assert_close(padded_BV, alone_BV, rtol=0, atol=1e-4)
    without_mask_BV = hybrid.network(ids_BT).logits[:, -1]
    assert (without_mask_BV - alone_BV).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["sft", "fkl"])
def test_it_is_trained_and_read_back_exactly(hybrid, tmp_path, monkeypatch, method):
    held, train = {}, experiment._train

    def watched(inputs, *rest):
        held[inputs.spec.student] = train(inputs, *rest)
        return held[inputs.spec.student]

    monkeypatch.setattr(experiment, "_train", watched)
    few = {"train_items": 16, "validation_items": 4, "epochs": 1, "batch_size": 8}
    teacher = {} if method == "sft" else {"teacher": TEACHER}
    spec = RunSpec(student=HYBRID.name, method=method, domain=MATH, **few, **teacher)
    evaluation = EvalSpec(tasks=("addsub",), items_per_task=4, max_new_tokens=12)
    run = experiment.run(spec, out=tmp_path, evaluation=evaluation)
    ids_BT = torch.arange(2, 102)[None]
    states = [
        model.hidden_states(ids_BT)
        for model in (held[HYBRID.name], students.load_trained(run.spec, run.folder), hybrid)
    ]
    assert torch.equal(*states[:2]) and not torch.equal(*states[1:])
    assert run.accuracies["n"].tolist() == [4]


def test_a_study_plans_it_as_a_student_of_the_larger_model_and_prices_it(tmp_path):
    text, pair = NEW_STUDY.read_text(), f'pairs = [["{TEACHER}", "{HYBRID.name}"]]'
    text = text.replace("mini-qwen-0.5B", HYBRID.name).replace("domains = [", f"{pair}\ndomains = [")
    study = tmp_path / "hybrid.toml"
    study.write_text(text)
    runs, gpu = plan("01", {"profile": str(study), "out": str(tmp_path)}).runs, GPUS["A100-80GB"]
    table = dry_run.costs(dry_run.cells_of(runs, tmp_path), gpu)
    distilled = table[table["teacher"] != ""]
    assert set(zip(distilled["teacher"], distilled["student"], strict=True)) == {(TEACHER, HYBRID.name)}
    assert (table["flops"] > 0).all() and f"{TEACHER} → {HYBRID.name}" in dry_run.report(table, gpu)


def test_what_is_measured_of_decoding_is_what_the_shape_says():
    table = decoding_state.table(["mini-qwen-0.5B", HYBRID.name], [20, 100])
    for row in table.itertuples():
        shape = architecture_of(row.model)
        assert row.parameters == shape.parameters and row.cache_bytes == 4 * shape.cached(row.tokens)
        assert min(row.first_token_seconds, row.next_token_seconds) > 0
    grows = table.groupby("model")["cache_bytes"].agg(lambda n: n.iloc[1] - n.iloc[0])
    assert grows[HYBRID.name] * 4 == grows["mini-qwen-0.5B"]  # one layer of four


@torch.no_grad()
def test_every_second_head_of_a_linear_layer_begins_by_asking_for_tokens_like_its_own(monkeypatch):
    network = build_model(HYBRID, pad=0, eos=1, generator=torch.Generator().manual_seed(0))
    asked, rule = [], modeling_qwen3_5.torch_chunk_gated_delta_rule
    monkeypatch.setattr(
        modeling_qwen3_5,
        "torch_chunk_gated_delta_rule",
        lambda query, key, *rest, **more: asked.append((query, key)) or rule(query, key, *rest, **more),
    )
    network(input_ids=torch.tensor([[7, 30, 31, 32, 33, 7]]))
    query_TAW, key_TAW = (each[0] for each in asked[0])
    assert torch.equal(query_TAW[5, ::2], key_TAW[0, ::2])
    assert not torch.allclose(query_TAW[5, 1], key_TAW[0, 1])
