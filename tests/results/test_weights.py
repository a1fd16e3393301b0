"""Which weights stand behind a name: GGUF heads, safetensors, and what is said of them."""

import json

import numpy as np
import pytest

from kdutils.data import model_facts, model_files
from kdutils.grid import plan
from kdutils.results import released_comparison

gguf = pytest.importorskip("gguf")


@pytest.fixture
def gguf_file(tmp_path):
    """A GGUF file as gguf writes it, with a vocabulary, which is skipped, before and after what is read."""
    path = tmp_path / "some-coder-0.5b-instruct-q4_k_m.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_token_list(["a", "bc", "def"])
    writer.add_name("Some Coder 0.5B Instruct")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_token_types([1, 1, 3])
    writer.add_array("nested.numbers", [1.5, 2.5])
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_head_of_a_gguf_file_is_what_gguf_reads(gguf_file):
    header, other = model_facts.read_gguf(gguf_file), gguf.GGUFReader(gguf_file)
    assert header["general.name"] == other.fields["general.name"].contents()
    assert header["general.file_type"] == other.fields["general.file_type"].contents()
    assert header["parameters"] == sum(int(tensor.n_elements) for tensor in other.tensors) == 4 * 32
    assert "tokenizer.ggml.tokens" not in header


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK\x03\x04 and more", "is not a GGUF file"), (b"GGUF\x09" + bytes(40), "GGUF version 9")],
)
def test_what_is_no_gguf_file_is_refused(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        model_facts.read_gguf(path)
    with pytest.raises(model_files.ModelError, match="does not say what it is"):
        model_facts.describe(str(path))


def test_half_a_head_is_refused(gguf_file):
    gguf_file.write_bytes(gguf_file.read_bytes()[:60])
    with pytest.raises(ValueError, match="ends within its head"):
        model_facts.read_gguf(gguf_file)


def test_a_gguf_file_that_stands_in_says_what_it_calls_itself(gguf_file, monkeypatch):
    monkeypatch.setenv(model_files.MODEL_FILES, f"Some/Some-0.5B={gguf_file}")
    facts = model_facts.describe("Some/Some-0.5B")
    assert facts["name"] == "Some/Some-0.5B"
    assert (facts["file"], facts["quantisation"], facts["parameters"]) == (gguf_file.name, "Q4_K_M", 128)
    assert facts["digest"] == model_files.files_digest(str(gguf_file))
    assert facts["note"] == "the file calls itself Some Coder 0.5B Instruct"


def test_a_mini_model_is_its_own_files():
    facts = model_facts.describe("mini-qwen-1.5B")
    assert facts["source"] == "embedded mini family"
    assert facts["parameters"] == 181_184
    assert facts["digest"] == model_files.files_digest("mini-qwen-1.5B") != ""
    assert facts["note"] == "stands for Qwen2.5-1.5B, 64 wide"
    assert facts["file"] == ""


def test_a_folder_is_read_off_its_safetensors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    tensors = {
        "__metadata__": {},
        "a": {"dtype": "F32", "shape": [2, 3]},
        "b": {"dtype": "BF16", "shape": [4]},
    }
    head = json.dumps(tensors).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    facts = model_facts.describe(str(tmp_path))
    assert (facts["source"], facts["quantisation"], facts["parameters"]) == (str(tmp_path), "F32, BF16", 10)


def test_a_hub_model_that_is_not_here_is_not_guessed(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    facts = model_facts.describe("Nobody/Nothing-1B")
    assert facts["source"] == "Nobody/Nothing-1B, not downloaded"
    assert (facts["quantisation"], facts["parameters"], facts["digest"]) == ("", None, "")


def test_table_and_line_name_the_models_of_the_runs(tmp_path):
    asked = plan.plan("01", {"profile": "smoke", "out": str(tmp_path)})
    table = released_comparison.weights(asked)
    assert table["asked for"].tolist() == ["mini-qwen-1.5B", "mini-qwen-14B"]  # the student first
    assert table["file"].tolist() == ["—", "—"]
    line = released_comparison.weights_line(asked)
    digest = model_files.files_digest("mini-qwen-1.5B")
    assert line.startswith(
        f"Weights of the live results: mini-qwen-1.5B is embedded mini family (BF16, digest {digest}"
    )


def test_nothing_live_has_no_weights(tmp_path):
    asked = plan.plan("01", {"profile": "published", "out": str(tmp_path)})
    assert released_comparison.weights(asked).empty
    assert released_comparison.weights_line(asked) == ""
