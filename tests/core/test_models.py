"""Models are found, read and paired; nothing a model brings along is run or obeyed."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from peft import PeftModel

from kdutils import generation, models, noise
from kdutils.adapters import trainable
from kdutils.compute import Compute
from kdutils.data import model_files, networks, sources
from kdutils.data.attention import GROUPED
from kdutils.data.model_files import Location, ModelError
from kdutils.mini.family import MINI_MODELS
from kdutils.runs import experiment, inputs
from kdutils.spec import RunSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Path(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-20k"))


def test_a_folder_with_a_generic_tokenizer_is_read_as_it_was_written(folder):
    """AutoTokenizer reads it with Qwen2's own rules, and words become unknown."""
    text = "Below is an instruction that describes a task. What is 1 plus 2 ?"
    read, written = models.load_tokenizer(str(folder)), tiny.tokenizer()
    assert read(text)["input_ids"] == written(text)["input_ids"]
    assert read.unk_token_id not in read(text)["input_ids"]


def test_a_tiny_model_computes_in_float32_on_a_cpu(folder):
    model = models.load(str(folder), compute=Compute(device="cpu"))
    assert model.policy == models.Policy("cpu", torch.float32, None, "sdpa")
    assert not model.network.training
    assert (model.vocabulary_size, model.head.weight_VH.shape[0]) == (51, 80)


@pytest.mark.parametrize(
    ("parameters", "device", "trains_all", "expected"),
    [
        (10**5, "cpu", True, models.Policy("cpu", torch.float32, None, "sdpa")),
        (10**9, "cpu", False, models.Policy("cpu", torch.bfloat16, None, GROUPED)),
        (10**9, "cpu", True, models.Policy("cpu", torch.float32, torch.bfloat16, GROUPED)),
        (10**5, "cuda", False, models.Policy("cuda", torch.bfloat16, None, "sdpa")),
        (10**9, "cuda", True, models.Policy("cuda", torch.float32, torch.bfloat16, "sdpa")),
    ],
)
def test_numbers_follow_size_device_and_what_is_trained(parameters, device, trains_all, expected):
    compute = Compute(device=device, cpu_bfloat16=True)
    assert models.policy_for(parameters, compute=compute, trains_all=trains_all) == expected
    if device == "cpu":
        compute = Compute(device=device, cpu_bfloat16=False)
        exact = models.Policy("cpu", torch.float32, None, expected.attention)
        assert models.policy_for(parameters, compute=compute, trains_all=trains_all) == exact


def test_bf16_autocast_stays_within_stated_rounding(folder):
    """Hidden states within 3 % of float32 in norm."""
    model = models.load(str(folder))
    ids = torch.arange(3, 23)[None]
    exact = model.hidden_states(ids)
    model.policy = models.Policy("cpu", torch.float32, torch.bfloat16, "sdpa")
    rounded = model.hidden_states(ids).float()
    assert (rounded - exact).norm() < 0.03 * exact.norm()
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody", "unknown model 'nobody': give one of .*mini-qwen-0.5B.*a hub id"),
        ("./not/there", "unknown model './not/there'"),
    ],
)
def test_unknown_models_are_refused(name, says):
    with pytest.raises(ModelError, match=says):
        model_files.locate(name)


def test_a_hub_id_is_taken_at_its_word():
    assert model_files.locate("Qwen/Qwen2.5-0.5B").source == "Qwen/Qwen2.5-0.5B"


@pytest.mark.parametrize("share", [None, 0.0, 0.001, 0.5, 0.999])
def test_damaged_weights_are_refused_with_a_remedy(tmp_path, share):
    folder = Path(tiny.save_model(tmp_path / "tiny-20k"))
    cut_short(folder / "model.safetensors", share)
    with pytest.raises(ModelError, match=r"cannot be loaded .*half downloaded.* fetch it again") as caught:
        models.load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.02, 0.5, 0.999])
def test_a_gguf_file_that_is_cut_short_is_refused_with_a_remedy(tmp_path, share):
    folder = Path(tiny.save_model(tmp_path / "tiny-20k", rows=98, tied=False))
    whole = tiny.save_gguf(folder, tmp_path / "tiny.gguf")
    cut_short(Path(whole), share)
    for load in (models.load, models.load_tokenizer):  # the latter is what is loaded before any training
        with pytest.raises(ModelError, match=r"tiny.gguf cannot be loaded .*half downloaded") as caught:
            load(whole)
        assert "\n" not in str(caught.value)


def cut_short(path, share):
    """Keep that share of a file's bytes; None removes it."""
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(share * len(content))])


def test_pickled_weights_are_not_read(tmp_path):
    folder = Path(tiny.save_model(tmp_path / "tiny-20k"))
    weights = models.load(str(folder)).network.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded .*without weights in safetensors"):
        models.load(str(folder))


def test_a_head_shorter_than_the_tokenizer_is_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "tiny-20k", rows=40)
    with pytest.raises(ModelError, match=r"tokenizer has 51 entries, the output head fewer rows \(40\)"):
        models.load(folder)


def test_padding_rows_may_differ_and_vocabularies_may_not(tmp_path, folder):
    more_rows = tiny.save_model(tmp_path / "more-rows-20k", rows=96)
    other_words = tiny.save_model(tmp_path / "other-words-20k", extra=("minus",))
    items = tiny.write_data(tmp_path / "data")
    pair = partial(tiny.spec, str(folder), items)
    inputs.check_pair(inputs.Inputs.of(pair(method="fkl", teacher=more_rows), None))
    other = inputs.Inputs.of(pair(method="revkd", teacher=other_words), None)
    with pytest.raises(
        ModelError, match=r"different vocabularies \(1 tokens, such as 'minus'\).*use method='seqkd'"
    ):
        inputs.check_pair(other)
    inputs.check(inputs.Inputs.of(pair(method="seqkd", teacher=other_words), None))


def test_remote_code_is_never_run(tmp_path):
    folder = Path(tiny.save_model(tmp_path / "tiny-20k"))
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load(str(folder))


def test_learning_rates():
    spec = tiny.spec("owner/model-1B", "data", learning_rate=None)
    assert spec.peak_rate == 2e-5
    assert tiny.spec("owner/model-1B", "data", learning_rate=None, adapter="lora").peak_rate == 3e-4
    assert tiny.spec("owner/model-1B", "data").peak_rate == 3e-3


def test_the_global_generator_is_as_before():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    with noise.seeded(7):
        torch.rand(3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_gguf_file_computes_what_its_weights_say_and_can_be_saved(tmp_path):
    folder = Path(tiny.save_model(tmp_path / "tiny-20k", rows=98, seed=3, spread=0.3, tied=False))
    model = models.load(tiny.save_gguf(folder, tmp_path / "tiny.gguf"))
    ids = torch.arange(3, 40)[None]
    original = models.load(str(folder))
    left, right = (m.hidden_states(ids) @ m.head.weight_VH.T for m in (model, original))
    assert torch.allclose(left, right, atol=1e-4)
    model.network.save_pretrained(tmp_path / "saved")
    again = models.load(str(folder)).network.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.get_input_embeddings().weight, model.network.get_input_embeddings().weight)


def test_what_was_read_from_gguf_is_kept_and_not_read_again(tmp_path, monkeypatch):
    folder = Path(tiny.save_model(tmp_path / "tiny-20k", rows=98, seed=3, spread=0.3, tied=False))
    file = tiny.save_gguf(folder, tmp_path / "tiny.gguf")
    first = models.load(file, trains_all=True)
    read = []
    original = networks.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        networks.AutoModelForCausalLM,
        "from_pretrained",
        lambda source, **how: read.append(how["gguf_file"]) or original(source, **how),
    )
    again = models.load(file, trains_all=True)
    assert read == [None] and again.name == first.name == file
    assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    text = "What is 1 plus 2 ?"
    assert again.tokenizer(text)["input_ids"] == first.tokenizer(text)["input_ids"]
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name]) and weight.dtype == torch.float32
    tiny.save_model(tmp_path / "other", rows=98, seed=4, spread=0.3, tied=False)
    tiny.save_gguf(tmp_path / "other", tmp_path / "tiny.gguf")  # other weights under the same name
    other = models.load(file, trains_all=True)
    assert read == [None, "tiny.gguf"]
    assert not torch.equal(other.head.weight_VH, first.head.weight_VH)


def test_a_file_may_stand_in_for_a_hub_model(folder, monkeypatch):
    name = "Qwen/Qwen2.5-0.5B"
    monkeypatch.setenv("KDUTILS_MODELS", f"{name}={folder},Other/Model-1B=/not/there")
    assert model_files.locate(name).source == str(folder.resolve())
    assert models.load(name).name == name
    spec = RunSpec(student=name, method="sft", domain="math")
    mapped = sources.resolved(spec)
    assert mapped.student == name and mapped.student_digest == model_files.files_digest(str(folder))
    monkeypatch.delenv("KDUTILS_MODELS")
    assert sources.resolved(spec).run_id != mapped.run_id


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("Qwen/Qwen2.5-0.5B", "is not NAME=PATH, such as Qwen/Qwen2.5-0.5B=/models/"),
        ("=/a", "is not NAME=PATH"),
        ("A/B-1B=", "is not NAME=PATH"),
        ("A/B-1B=/no/file.gguf", "GGUF file /no/file.gguf is missing"),
        ("A/B-1B=/no/folder", "unknown model '/no/folder'"),
    ],
)
def test_a_stand_in_that_cannot_be_is_refused(entries, message):
    with pytest.raises(ModelError, match=message):
        for name, source in model_files.model_files([entries]).items():
            model_files.locate(name, source)


def test_a_source_goes_before_that_of_the_environment(folder, monkeypatch):
    monkeypatch.setenv("KDUTILS_MODELS", "A/A-1B=/x,B/B-1B=/y")
    assert model_files.model_files() == {"A/A-1B": "/x", "B/B-1B": "/y"}
    assert model_files.locate("B/B-1B", str(folder)).source == str(folder.resolve())


def test_where_a_model_is_read_from_travels_with_its_spec(folder):
    spec = RunSpec(student="Qwen/Qwen2.5-0.5B", method="sft", domain="math", student_source=str(folder))
    found = sources.resolved(spec)
    assert found.student_digest == model_files.files_digest(str(folder))
    assert found == sources.resolved(RunSpec.from_dict(found.to_dict())) and found.student_source == str(
        folder
    )
    named = RunSpec(student="Qwen/Qwen2.5-0.5B", method="sft", domain="math")
    assert spec.run_id == named.run_id  # its digest names it, not its place
    distilled = RunSpec(
        student="A/A-1B",
        method="fkl",
        domain="math",
        teacher="B/B-7B",
        teacher_source="/b",
        student_source="/a",
    )
    assert distilled.teacher_spec.student_source == "/b" and distilled.sft_spec.student_source == "/a"


def test_only_models_of_some_size_are_large(folder, monkeypatch):
    assert model_files.is_large("Qwen/Qwen2.5-0.5B")
    assert not model_files.is_large(str(folder)) and not model_files.is_large("mini-qwen-14B")
    monkeypatch.setattr(model_files, "LARGE_MODEL_BYTES", 1000)
    assert model_files.is_large(str(folder))


@pytest.mark.parametrize("switch", [{"activation_checkpointing": True}, {"compile_backend": "eager"}])
def test_switches_for_speed_and_memory_change_no_number(tmp_path, switch):
    folder = tiny.save_model(tmp_path / "tiny-20k", seed=2)
    ids = torch.arange(3, 23)[None]

    def gradient(**switches):
        model = models.load(folder, compute=Compute(**switches))
        model.network.train()
        hidden_BTH = model.hidden_states(ids)
        hidden_BTH.square().sum().backward()
        return model.policy, model.causal.get_input_embeddings().weight.grad

    off, plain = gradient()
    on, switched = gradient(**switch)
    assert off != on
    assert torch.allclose(plain, switched, rtol=1e-5, atol=1e-6)


def test_a_compiled_model_writes_and_is_read_without_its_compiled_decoder():
    prompts, texts = [[5, 6, 7], [8, 9, 10, 11, 12]], []
    for backend in ("", "aot_eager"):
        model = models.load("mini-qwen-0.5B", compute=Compute(compile_backend=backend))
        before = torch._dynamo.utils.counters["frames"]["total"]
        texts.append(generation.generate(model, prompts, max_new_tokens=6))
    assert texts[0] == texts[1]
    assert torch._dynamo.utils.counters["frames"]["total"] == before


def test_the_mini_family_is_known_by_name():
    model = models.load("mini-qwen-0.5B")
    assert model.network.num_parameters() == 111_344
    assert model.vocabulary_size < model.head.weight_VH.shape[0]
    spec = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")
    assert spec.peak_rate == MINI_MODELS["mini-qwen-0.5B"].fine_tuning_rate


@pytest.fixture
def with_adapter(tmp_path):
    """A folder that holds a whole model and, in the same place, a LoRA that changes it."""
    base = tiny.save_model(tmp_path / "base-20k")
    spec = tiny.spec(base, tiny.write_data(tmp_path / "data"), adapter="lora")
    adapted = trainable.make_trainable(models.load(base), spec, seed=0).network
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            weight += 0.1 * ("lora_B" in name)
    shutil.copytree(base, tmp_path / "both-20k")
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, tmp_path / "both-20k" / name)
    return tmp_path


def test_an_adapter_in_the_folder_of_a_model_is_refused(with_adapter):
    both = str(with_adapter / "both-20k")
    spec = tiny.spec(str(with_adapter / "base-20k"), str(with_adapter / "data"), method="fkl", teacher=both)
    for fields in ({"student": both, "teacher": None, "method": "sft"}, {}):
        with pytest.raises(ModelError, match="both-20k holds a whole model and an adapter .*merge first"):
            experiment.run(replace(spec, **fields), out=with_adapter / "out", evaluation=tiny.EVALUATION)
    assert not (with_adapter / "out").exists()
    gguf = tiny.save_gguf(with_adapter / "base-20k", with_adapter / "both-20k" / "model.gguf")
    with pytest.raises(ModelError, match="both-20k holds a whole model and an adapter"):
        models.load(gguf)


def test_an_adapter_that_comes_from_the_hub_is_refused(with_adapter, monkeypatch):
    """Whether it is in the cache already, or transformers finds it when it loads the model."""
    both = with_adapter / "both-20k"
    monkeypatch.setattr(models, "locate", lambda name: Location(name, str(both)))
    with pytest.raises(ModelError, match="owner/both holds a whole model and an adapter"):
        models.load("owner/both")
    monkeypatch.setattr(
        model_files, "hub_file", lambda hub_id, name: both / name if (both / name).exists() else None
    )
    with pytest.raises(ModelError, match="owner/both holds a whole model and an adapter"):
        model_files.check_models([("owner/both", "")])


def test_a_model_merged_as_the_refusal_says_is_that_with_the_adapter(with_adapter):
    base = models.load(str(with_adapter / "base-20k"))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        bare = base.network(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base.network, with_adapter / "adapter").eval()
        expected = adapted(input_ids=ids).logits
        adapted.merge_and_unload().save_pretrained(with_adapter / "merged-20k")
        base.tokenizer.save_pretrained(with_adapter / "merged-20k")
        merged = models.load(str(with_adapter / "merged-20k")).network(input_ids=ids).logits
    assert torch.allclose(merged, expected, atol=1e-5)
    assert not torch.allclose(merged, bare, atol=1e-2)
