"""Sizes equal those of the models, FLOPs those that torch counts; plans are priced without any of them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import peft
import pytest
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from kdutils import encoding, models, training
from kdutils.adapters import trainable
from kdutils.bench.decoding_state import cache_bytes
from kdutils.builds import hybrid
from kdutils.constants import LORA_TARGETS
from kdutils.data import model_files, sources
from kdutils.grid import cost, dry_run, fill, machines, model_shapes, plan
from kdutils.grid.cost import Estimate
from kdutils.grid.machines import GPUS, PROCESSORS, Machine
from kdutils.grid.model_shapes import SHAPES, architecture_of
from kdutils.report import cli
from kdutils.runs import inputs
from kdutils.spec import EvalSpec, RunSpec

ROOT = Path(__file__).parents[2]
A100 = GPUS["A100-80GB"]
COLUMNS = [
    *("run_id", "teacher", "student", "method", "domain", "temperature", "noise_sigma", "teacher_tuned"),
    *("protocol", "seed", "released_pair", "tokens", "flops", "gpu_memory_gb", "gpu_hours", "status"),
]
ON_THE_HUB = {  # parameters, as the hub counts those of the safetensors files
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student and a teacher wide enough that products are all the work, and items."""
    root = tmp_path_factory.mktemp("estimate")
    student = tiny.save_model(root / "tiny-60k", hidden=64)
    teacher = tiny.save_model(root / "tiny-200k", hidden=96, rows=96, tied=False)
    return {"student": student, "teacher": teacher, "data": tiny.write_data(root / "data")}


def spec_of(folders, **fields):
    teacher = (
        {"teacher": folders["teacher"]} if fields.get("method") in ("fkl", "revkd", "gkd", "seqkd") else {}
    )
    return tiny.spec(folders["student"], folders["data"], **teacher, **fields)


def hub_spec(**fields):
    fields = {"student": "Qwen/Qwen2.5-0.5B", "method": "sft", "domain": "math", "adapter": "lora"} | fields
    return RunSpec(**{"data": "llm-adapters", "max_tokens": 256, "batch_size": 16} | fields)


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_parameters_are_those_of_the_hub_and_of_transformers(name):
    shape = architecture_of(name)
    kind, network = (
        (Qwen2Config, Qwen2ForCausalLM) if name.startswith("Qwen") else (LlamaConfig, LlamaForCausalLM)
    )
    config = kind(
        vocab_size=shape.rows,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        tie_word_embeddings=shape.is_tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device("meta"):
        built = network(config)
    assert shape.parameters == built.num_parameters() == ON_THE_HUB[name]


def test_shapes_are_read_from_folders(folders):
    for name in (folders["student"], folders["teacher"], "mini-qwen-14B", "mini-llama-1B"):
        assert architecture_of(name).parameters == models.load(name).network.num_parameters()


def test_a_hybrid_has_the_weights_and_the_cache_that_transformers_gives_it(tmp_path):
    sizes = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "vocab_size": 50,
        "num_hidden_layers": 5,
        "head_dim": 8,
    }
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "linear_conv_kernel_dim": 3}
    sizes |= {"linear_num_key_heads": 2, "linear_num_value_heads": 6}
    sizes |= {"linear_key_head_dim": 5, "linear_value_head_dim": 7}
    config = Qwen3_5TextConfig(**sizes, tie_word_embeddings=True)
    config.save_pretrained(tmp_path)
    shape, network = architecture_of(str(tmp_path)), Qwen3_5ForCausalLM(config)
    assert shape.parameters == network.num_parameters()
    matrices = {w for name, w in network.named_parameters() if w.ndim > 1 and "embed" not in name}
    assert shape.body == sum(w.numel() for w in matrices)
    cache = DynamicCache(config=config)
    network(input_ids=torch.tensor([[1, 2, 3, 4, 5, 6, 7]] * 2), past_key_values=cache)
    assert cache_bytes(cache) == 2 * 4 * shape.cached(7)  # rows, bytes a number
    adapted = peft.get_peft_model(network, peft.LoraConfig(r=3, target_modules=list(LORA_TARGETS)))
    assert shape.adapter(3) == adapted.get_nb_trainable_parameters()[0]


def test_a_model_that_is_not_on_this_disk_has_the_shape_of_its_name_or_size(tmp_path):
    assert architecture_of(str(tmp_path / "Qwen2.5-7B.gguf")) == SHAPES["Qwen2.5-7B"]
    assert architecture_of("some/model-9B") == SHAPES["Llama-3.1-8B"]
    with pytest.raises(ValueError, match="'some/model' does not end in a size: give one that ends in"):
        architecture_of("some/model")


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(model_files.ModelError, match="qwen2 and llama, not 'gpt2'"):
        architecture_of(str(tmp_path))


def test_an_adapter_has_the_weights_that_peft_gives_it(folders):
    spec = spec_of(folders, adapter="lora")
    model = trainable.make_trainable(models.load(spec.student), spec, seed=0)
    trained = sum(w.numel() for w in model.network.parameters() if w.requires_grad)
    assert architecture_of(spec.student).adapter(spec.lora_rank) == trained


# --- FLOPs -------------------------------------------------------------------------------------------------


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def batch_of(spec, model):
    items = sources.load_items(spec, "train")
    encoded = encoding.encode(items, model.tokenizer, max_tokens=spec.max_tokens, protocol=spec.protocol)
    return encoding.collate(encoded, range(8), pad_id=model.pad_id)


def test_flops_of_a_forward_pass_are_those_that_torch_counts(folders):
    model = models.load(folders["student"])
    model.network.set_attn_implementation("eager")
    batch = batch_of(spec_of(folders), model)
    (rows, context), scored = batch.input_ids_BT.shape, 17
    hidden = torch.zeros(scored, 64)
    with torch.no_grad():
        found = counted(lambda: model.hidden_states(batch.input_ids_BT))
        found += counted(lambda: hidden @ model.head.weight_VH.T)
    expected = model_shapes.forward_flops(
        architecture_of(folders["student"]), rows * context, context=context, scored=scored
    )
    assert found == pytest.approx(expected, rel=0.005)  # the rest is the rotation's angles


@pytest.mark.parametrize("method", ["sft", "fkl"])
def test_flops_of_a_training_step_are_those_that_torch_counts(folders, method):
    spec = spec_of(folders, method=method)
    model = models.load(spec.student)
    model.network.set_attn_implementation("eager")
    teacher = models.load(spec.teacher) if spec.teacher else None
    if teacher:
        teacher.network.set_attn_implementation("eager")
    signal = training.Teacher(teacher) if teacher else None
    loop = training._Training(model, sources.load_items(spec, "train"), spec, rate=1e-3, teacher=signal)
    batch = batch_of(spec, model)
    (rows, context), scored = batch.input_ids_BT.shape, int(batch.scored_BT.sum())
    model.network.train()
    found = counted(lambda: loop.gradients(batch, 0))
    shape = architecture_of(spec.student)
    how = {"context": context, "scored": scored * len(model.tokenizer) / shape.rows}  # heads are cut to it
    expected = model_shapes.training_flops(shape, rows * context, **how)
    if teacher:
        above = architecture_of(spec.teacher)
        how["scored"] = scored * len(model.tokenizer) / above.rows
        expected += model_shapes.forward_flops(above, rows * context, **how)
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("adapter", "a_weight"), [("full", 6), ("lora", 4)])
def test_a_known_training_costs_so_much_a_weight_and_token(adapter, a_weight):
    fields = {"student": "meta-llama/Llama-3.1-8B", "adapter": adapter, "validation_items": 0, "epochs": 1}
    own, shape = Estimate(hub_spec(**fields), A100), SHAPES["Llama-3.1-8B"]
    weights, tokens = shape.parameters - shape.head, own.spec.train_items * own.mean * own.padding
    assert own.training().flops == pytest.approx(a_weight * weights * tokens, rel=0.001)


# --- a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "fkl", "revkd", "gkd"])
def test_costs_rise_with_size_and_tokens(method):
    teacher = {} if method == "sft" else {"teacher": "Qwen/Qwen2.5-7B"}
    spec = hub_spec(method=method, **teacher)
    larger = [
        replace(spec, student="Qwen/Qwen2.5-3B"),
        replace(spec, train_items=3_000),
        replace(spec, epochs=6),
    ]
    if teacher:
        larger.append(replace(spec, teacher="Qwen/Qwen2.5-14B"))
    for other in larger:
        less, more = (Estimate(each, A100).training() for each in (spec, other))
        assert more.flops > less.flops
        assert more.seconds >= less.seconds
        assert more.tokens >= less.tokens
    longer = Estimate(replace(spec, max_tokens=1_024), A100).training_gb(4)
    four, two = (Estimate(spec, A100).training_gb(rows) for rows in (4, 2))
    assert longer > four > two


def test_costs_add_up_over_epochs():
    once, thrice = (Estimate(hub_spec(epochs=n), A100).training() for n in (1, 3))
    assert thrice.flops == pytest.approx(3 * once.flops)
    assert thrice.tokens == pytest.approx(3 * once.tokens)
    assert thrice.disk_bytes == once.disk_bytes


def test_linear_attention_is_priced_with_its_alignment():
    assert cost.ALIGNED_ITEMS == hybrid.ALIGN_STEPS * hybrid.ROWS == hybrid.DISTIL_STEPS * hybrid.ROWS
    plain = hub_spec(adapter="full", train_items=cost.ALIGNED_ITEMS, epochs=1, validation_items=0)
    built = replace(plain, student_build="hybrid", build_compression=4.0)
    once, aligned = (Estimate(spec, A100).training() for spec in (plain, built))
    assert aligned.flops == pytest.approx(2 * once.flops)


def test_hidden_states_are_made_once_for_all_that_read_the_same():
    spec = hub_spec(method="fkl", teacher="Qwen/Qwen2.5-7B")
    alike = [
        replace(spec, student="Qwen/Qwen2.5-3B"), replace(spec, temperature=5.0),
        replace(spec, noise_sigma=2.0), replace(spec, seed=2), replace(spec, method="revkd"),
    ]  # fmt: skip
    (key,) = cost.teacher_keys(spec)
    assert all(cost.teacher_keys(each) == [key] for each in alike)
    other = [
        replace(spec, teacher="Qwen/Qwen2.5-3B"), replace(spec, teacher_tuned=False),
        replace(spec, domain="commonsense"), replace(spec, protocol="paper"),
    ]  # fmt: skip
    assert len({each for own in [spec, *other] for each in cost.teacher_keys(own)}) == 5
    kept = Estimate(spec, A100).teacher_cost(key).disk_bytes
    assert kept == pytest.approx(spec.train_items * cost.lengths_of(spec).response * 3_584 * 2)
    own_samples_alone = replace(spec, method="gkd", on_policy_share=1.0)
    assert cost.teacher_keys(own_samples_alone) == []
    texts, states = cost.teacher_keys(replace(spec, method="kd", prefix="teacher", divergence="jsd"))
    assert cost.teacher_keys(replace(spec, method="seqkd")) == [texts]
    assert states != key  # of other texts


def test_memory_is_what_arithmetic_says():
    full = Estimate(hub_spec(adapter="full", student="Qwen/Qwen2.5-7B"), A100)
    assert full.training_gb(1) > 16 * 7.6  # with gradients and Adam's moments in float32
    lora = hub_spec(student="Qwen/Qwen2.5-7B")
    alone = Estimate(lora, A100).training_gb(1)
    assert 15.2 < alone < 25  # the weights in bf16 and little else
    assert Estimate(lora, A100).training_gb(Estimate(lora, A100).micro_batch()) <= 80
    online = replace(lora, method="gkd", teacher="Qwen/Qwen2.5-14B")
    assert Estimate(online, A100).training_gb(1) > alone + 2 * 14.7
    cached = replace(lora, method="fkl", teacher="Qwen/Qwen2.5-14B")
    assert Estimate(cached, A100).training_gb(1) == pytest.approx(alone)


def test_devices_divide_what_does_not_fit_one():
    spec = hub_spec(method="gkd", student="Qwen/Qwen2.5-14B", teacher="Qwen/Qwen2.5-32B")
    peaks = [Estimate(replace(spec, devices=n), A100).training_gb(1) for n in (1, 2, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)
    student, teacher = (architecture_of(name) for name in (spec.student, spec.teacher))
    assert peaks[0] - peaks[1] == pytest.approx(
        (student.parameters + teacher.parameters) / 1e9  # half of two bytes each, but for what is gathered
        + 8 * student.adapter(spec.lora_rank) / 1e9
        - sum(2 * (s.parameters - s.body * (1 - 2 / s.layers)) for s in (student, teacher)) / 1e9
    )
    evaluation = EvalSpec(tasks=("addsub",))
    one, two = (Estimate(replace(spec, devices=n), A100).memory_gb([evaluation]) for n in (1, 2))
    assert one > 80 >= two
    assert cost.devices_for([(spec, [evaluation])], A100) == (2, two)
    tiny = replace(A100, memory_gb=3.0)
    assert cost.devices_for([(replace(spec, batch_size=4), [evaluation])], tiny) is None


def test_a_micro_batch_is_halved_until_it_fits():
    small = replace(A100, memory_gb=24)
    spec = hub_spec(student="Qwen/Qwen2.5-3B")
    rows = Estimate(spec, small).micro_batch()
    assert rows in (1, 2, 4, 8)
    fits, does_not = (Estimate(spec, small).training_gb(n) for n in (rows, 2 * rows))
    assert fits <= 24 < does_not
    assert Estimate(hub_spec(student="Qwen/Qwen2.5-32B"), small).micro_batch() == 1


def test_decoding_is_never_faster_than_reading_the_weights():
    own = Estimate(hub_spec(student="meta-llama/Llama-3.1-70B"), A100)
    one, many = (own.texts(own.student, n, limit=100, new=100) for n in (1, 64))
    assert one.seconds > 100 * 2 * (own.student.body + own.student.head) / A100.bytes_per_second
    assert one.seconds < many.seconds < 8 * one.seconds


def test_estimates_are_near_what_was_measured_on_two_cores(monkeypatch):
    """Qwen2.5 0.5B, before this module was written: tokens/s with LoRA and all weights, seconds of 32 texts.

    The shares of processors come from these numbers, so this holds the formulas to them and proves no more.
    They are of cores with AMX, which compute large models in bfloat16; without, in float32, it takes longer.
    """
    monkeypatch.setenv("KDUTILS_CPU_BFLOAT16", "1")
    rates = {"flops": 2.2e12, "flops_float32": 0.37e12, "bytes_per_second": 14e9}
    here = Machine(name="here", memory_gb=24, **rates, **PROCESSORS)
    for adapter, measured in (("lora", 175), ("full", 235)):
        spec = hub_spec(adapter=adapter, batch_size=8, validation_items=0, epochs=1, max_tokens=160)
        found = Estimate(spec, here).training()
        assert found.tokens / found.seconds == pytest.approx(measured, rel=0.35)
    own = Estimate(hub_spec(), here)
    assert own.texts(own.student, 32, limit=110, new=110).seconds == pytest.approx(45, rel=0.25)
    trained = Estimate(spec, here).training().seconds
    monkeypatch.setenv("KDUTILS_CPU_BFLOAT16", "0")
    assert Estimate(spec, here).training().seconds > 2 * trained


def test_a_ranking_is_priced_by_its_options():
    spec = hub_spec(domain="commonsense")
    evaluation = EvalSpec(tasks=("arc_e", "boolq"), items_per_task=100)
    ranked = Estimate(spec, A100).evaluations([evaluation.ranking()])
    prompt, option = cost.lengths_of(spec)[:2]
    assert ranked.tokens == pytest.approx(200 * prompt + (100 * 4 + 100 * 2) * option)  # once a prompt


def test_a_prompt_and_its_gold_response_are_priced_once_for_all_decodings():
    spec, greedy = hub_spec(), EvalSpec(tasks=("svamp",), items_per_task=100, max_new_tokens=200)
    sampled, shorter = replace(greedy, temperature=1.0, samples=3), replace(greedy, max_new_tokens=150)
    prompt, response = cost.lengths_of(spec)[:2]
    assert response < 150
    for asked, n_read, n_written in (
        ([greedy], 100, 100),
        ([greedy, sampled], 100, 400),
        ([greedy, sampled, shorter], 200, 500),
    ):
        found = Estimate(spec, A100).evaluations(asked).tokens
        assert found == pytest.approx(n_read * (prompt + response) + n_written * response)


# --- lengths -----------------------------------------------------------------------------------------------


def test_tokens_are_counted_where_items_and_tokenizer_are(folders):
    spec = spec_of(folders)
    found, model = cost.lengths_of(spec), models.load_tokenizer(spec.student)
    encoded = encoding.encode(sources.load_items(spec, "train"), model, max_tokens=10_000, protocol="careful")
    totals = [len(ids) for ids in encoded["input_ids"]]
    assert found.how == "counted"
    assert found.longest == max(totals)
    assert found.padded == pytest.approx(np.quantile(totals, 0.95))
    assert found.prompt == pytest.approx(np.mean(encoded["n_unscored"]))
    assert found.prompt + found.response == pytest.approx(np.mean(totals))
    by_characters = cost.lengths_of(replace(spec, student="some/model-1B"))
    assert by_characters.how == "at 4 characters a token"
    assert by_characters.longest != found.longest


def test_where_items_are_missing_lengths_are_assumed():
    found = cost.lengths_of(hub_spec())
    assert found.how == "assumed"
    assert found.prompt + found.response == pytest.approx(185, rel=0.03)  # of GSM8K and AQuA, uncut


# --- a plan ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper():
    asked = plan.plan("00", {"profile": "paper", "out": "outputs"})
    cells = dry_run.cells_of(asked.runs, Path("nowhere"))
    return cells, dry_run.costs(cells, A100)


def test_the_paper_profile_is_priced_cell_by_cell(paper):
    _, table = paper
    assert len(table) == 2_916
    assert table["run_id"].nunique() == 2_896
    assert set(table["status"]) == {"missing"}
    assert (table[["tokens", "flops", "gpu_memory_gb", "gpu_hours"]] > 0).all().all()
    assert set(table["unknown"]) == {"items of 'llm-adapters'"}
    parts = table[list(dry_run.STAGES)].sum(axis=1).map(lambda total: total.seconds / 3_600)
    assert parts.to_numpy() == pytest.approx(table["gpu_hours"].to_numpy())
    released = table[(table["teacher"] != "") & table["released_pair"]]
    assert released.groupby(["teacher", "student"]).ngroups == 11
    text = dry_run.report(table, A100)
    assert "2896 runs (2916, those of two protocols counted twice): 2916 missing" in text
    assert "released pairs and their models: 1580 runs" in text
    assert "Qwen2.5-32B → 14B *" in text
    assert "Llama-3.1-8B → 1B  " in text
    assert "-p devices 5 gives a run 5 of it, of which it then needs at most 79 GB each" in text


def test_a_cache_is_charged_once_in_all(paper):
    cells, table = paper
    keys = {key: cell.spec for cell in cells for key in cost.teacher_keys(cell.spec)}
    once = sum(Estimate(spec, A100).teacher_cost(key).flops for key, spec in keys.items())
    assert len(keys) == 8 * 2 * 2 * 2  # teachers, tuned or not, domains, protocols
    assert table["caches"].sum().flops == pytest.approx(once)


def test_a_faster_gpu_takes_less_time_for_the_same_work(paper):
    cells, table = paper
    faster = dry_run.costs(cells, GPUS["H100-80GB"])
    assert faster["gpu_hours"].sum() < table["gpu_hours"].sum()
    assert faster["tokens"].tolist() == table["tokens"].tolist()


def test_status_is_what_the_store_says(tmp_path, inline):
    planned = tiny.plan(tmp_path / "models")
    out = tmp_path / "out"
    statuses = [cell.status for cell in dry_run.cells_of(planned, out)]
    assert statuses == ["missing"] * 5  # the teacher's SFT is among them
    fill.fill(planned, out, workers=1)
    cells = dry_run.cells_of(planned, out)
    assert [cell.status for cell in cells] == ["done"] * 5
    assert [cell.is_teacher for cell in cells].count(True) == 1
    (fkl,) = tiny.run_ids(planned, "fkl")
    (seqkd,) = tiny.run_ids(planned, "seqkd")
    (sft,) = tiny.run_ids(planned, "sft")
    (out / "runs" / fkl / "result.json").unlink()
    (out / "runs" / fkl / "checkpoint").mkdir()
    (out / "runs" / seqkd / "result.json").unlink()
    (out / "runs" / seqkd / "failure.json").write_text(json.dumps({"reason": "x", "run_token": None}))
    other = [replace(run, evaluation=replace(run.evaluation, max_new_tokens=3)) for run in planned]
    statuses = {cell.spec.run_id: cell.status for cell in dry_run.cells_of(planned, out)}
    assert (statuses[fkl], statuses[seqkd], statuses[sft]) == ("partial", "failed", "done")
    statuses = {cell.spec.run_id: cell.status for cell in dry_run.cells_of(other, out)}
    assert statuses[sft] == "partial"  # trained, but not evaluated so
    text = "\n".join(dry_run.brief(dry_run.costs(dry_run.cells_of(planned, out), A100), A100))
    assert "3 done, 1 partial, 1 failed" in text


def test_without_digests_a_run_of_the_same_settings_counts(tmp_path, inline):
    planned = tiny.plan(tmp_path / "models")
    fill.fill(planned, tmp_path / "out", workers=1)
    Path(planned[0].spec.data, "test.jsonl").rename(tmp_path / "elsewhere.jsonl")
    cells = dry_run.cells_of(planned, tmp_path / "out")
    assert [cell.status for cell in cells] == ["done"] * 5
    assert {cell.unknown for cell in cells} == {f"items of {planned[0].spec.data!r}"}


def test_this_machine_has_a_memory_and_rates_and_an_unknown_one_is_refused():
    here = machines.machine_of("this machine")
    assert min(here.flops, here.bytes_per_second, here.memory_gb) > 0
    assert here.name == "this machine"
    with pytest.raises(ValueError, match="unknown GPU 'K80'; choose one of .'A100-40GB'"):
        machines.machine_of("K80")


# --- the command line ------------------------------------------------------------------------------------


def dry_run_of(*arguments, **variables):
    """As a user without GPU, hub, network and items; torch and hub may not even be imported."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'huggingface_hub']))"
    code = f"{blocked}; from kdutils.report import cli; sys.exit(cli.main({[str(a) for a in arguments]}))"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV", "KDUTILS"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("profile", ["paper", "mini"])
def test_a_dry_run_needs_nothing_and_leaves_a_table(profile, tmp_path):
    run = dry_run_of(profile, "--dry-run", "--out", tmp_path)
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(tmp_path / profile / "plan.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == {"paper": 2_916, "mini": 170}[profile]
    assert f"profile {profile}: {table['run_id'].nunique()} runs" in run.stdout
    assert "on A100-80GB" in run.stdout
    assert not (tmp_path / "runs").exists()


def test_parameters_and_gpu_narrow_and_price_a_dry_run(tmp_path, capsys):
    arguments = ["paper", "--dry-run", "--gpu", "H100-80GB", "--out", str(tmp_path)]
    narrow = ["-p", "students", '["Qwen2.5-0.5B"]', "-p", "teachers", '["Qwen/Qwen2.5-3B"]']
    assert cli.main([*arguments, *narrow]) == 0
    table = pd.read_csv(tmp_path / "paper" / "plan.csv")
    # 11 variants x 3 seeds x 2 domains x 2 protocols; SFT: 3 student and 1 teacher seed; both as they are.
    assert len(table) == (11 * 3 + 3 + 1 + 2) * 4
    assert set(table["teacher"].dropna()) == {"Qwen/Qwen2.5-3B"}
    assert table["released_pair"].all()
    assert "on H100-80GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["published", "--dry-run"], "profile 'published' trains nothing"),
        (["paper", "--dry-run", "--gpu", "K80"], "unknown GPU 'K80'"),
        (["smoke", "--gpu", "L4-24GB"], "--gpu L4-24GB is for --dry-run alone"),
    ],
)
def test_a_dry_run_that_makes_no_sense_is_one_line(arguments, complaint, tmp_path, capsys):
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


# --- models that cannot be had ---------------------------------------------------------------------------


def refused_by(error):
    def ask(url, timeout):
        raise error

    return ask


def http_error(kind, status):
    import httpx2

    request = httpx2.Request("HEAD", "https://huggingface.co/x")
    return kind("no", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("name", "status", "remedy"),
    [
        (
            "GatedRepoError",
            403,
            "accept its licence at https://huggingface.co/meta-llama/Llama-3.2-1B, then `hf",
        ),
        ("RepositoryNotFoundError", 404, "check the name, or `hf auth login`"),
        ("", 0, "hub cannot be asked .OSError: no route.: connect and .* KDUTILS_MODELS"),
    ],
)
def test_a_model_that_cannot_be_had_comes_with_its_remedy(monkeypatch, tmp_path, name, status, remedy):
    import huggingface_hub

    error = http_error(getattr(huggingface_hub.errors, name), status) if name else OSError("no route")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refused_by(error))
    with pytest.raises(model_files.ModelError, match=remedy):
        model_files.check_models([("meta-llama/Llama-3.2-1B", "")])


def test_all_missing_models_of_a_plan_are_in_one_message_before_anything_is_trained(monkeypatch, folders):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refused_by(OSError("no route")))
    specs = [
        hub_spec(),
        hub_spec(method="fkl", teacher="Qwen/Qwen2.5-7B"),
        hub_spec(student="/nowhere/x-1B"),
        spec_of(folders),
    ]
    with pytest.raises(model_files.ModelError) as caught:
        inputs.check(*(inputs.Inputs.of(spec, tiny.EVALUATION) for spec in specs))
    assert str(caught.value).startswith("3 models cannot be had: Qwen/Qwen2.5-0.5B is not downloaded")
    assert "`hf download Qwen/Qwen2.5-7B`" in str(caught.value)
    assert "unknown model '/nowhere/x-1B'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_says_plan_and_cost_and_then_what_is_missing(monkeypatch, tmp_path, capsys):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refused_by(OSError("no route")))
    monkeypatch.setattr(cli.machines, "this_machine", lambda: A100)
    monkeypatch.setattr(sources, "resolved", lambda spec: spec)  # it would look for the items first
    out = tmp_path / "out"
    arguments = ["paper", "--only", "06", "--out", str(out)]
    arguments += ["-p", "seeds", "[0]", "-p", "domains", '["math"]']
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.index(" runs") < said.index("left to do, estimated") < said.index("models cannot be had")
    assert not (out / "runs").exists()


def test_a_cost_is_a_sum():
    one = cost.Cost(tokens=1, flops=2, seconds=4, disk_bytes=8)
    assert one + one == one * 2 == cost.Cost(2, 4, 8, 16)
