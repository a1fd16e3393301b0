"""Pairs of one vocabulary whose tokenizers use it otherwise: refused before any work, or one meaning."""

import json
import shutil
from pathlib import Path

import pytest
import tiny

from kdutils.constants import LOGIT_METHODS
from kdutils.data.model_files import ModelError
from kdutils.runs import experiment
from kdutils.runs.inputs import Inputs, check

BEGUN = {  # every text with <unk>, which here stands for a BOS token
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<unk>": {"id": "<unk>", "ids": [1], "tokens": ["<unk>"]}},
}
CUT = {  # digits stand alone
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "Whitespace"}],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student, its items, and teachers of the same vocabulary, each with one difference."""
    root = tmp_path_factory.mktemp("pairs")
    tiny.write_data(root / "data")
    tiny.save_model(root / "student-20k")
    plain = Path(tiny.save_model(root / "plain-40k", hidden=48, seed=1))

    def other(name, file_name, **values):
        shutil.copytree(plain, root / name)
        path = root / name / file_name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    other("eos-40k", "tokenizer_config.json", eos_token="<pad>")
    other("cut-40k", "tokenizer.json", pre_tokenizer=CUT)
    other("bos-40k", "tokenizer.json", post_processor=BEGUN)
    path = root / "bos-40k" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<unk>"}))
    return root


def pair(folders, teacher, method, student="student-20k", **fields):
    student, teacher = (str(folders / name) for name in (student, teacher))
    return tiny.spec(student, str(folders / "data"), method=method, teacher=teacher, **fields)


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("method", LOGIT_METHODS)
@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ("eos-40k", "student-20k ends texts with '<eos>', .*eos-40k with '<pad>': "),
        ("bos-40k", "student-20k begins texts with no BOS, .*bos-40k with '<unk>': "),
        ("cut-40k", r"make other tokens of item 'addsub-\d+' \(\['1\d'.*\], \['1', '\d'.*\]\): "),
    ],
    ids=["eos", "bos", "cut"],
)
def test_another_use_of_the_vocabulary_is_refused_before_any_work(
    folders, tmp_path, teacher, method, tuned, says
):
    spec = pair(folders, teacher, method, teacher_tuned=tuned)
    with pytest.raises(ModelError, match=says + f"{method} compares .*or use method='seqkd'") as caught:
        experiment.run(spec, out=tmp_path / "out", evaluation=tiny.EVALUATION)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("teacher", ["eos-40k", "bos-40k", "cut-40k"])
def test_the_remedies_work(folders, tmp_path, teacher):
    check(Inputs.of(pair(folders, teacher, "seqkd"), tiny.EVALUATION))
    shutil.copytree(folders / "student-20k", tmp_path / "student-20k")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders / teacher / name, tmp_path / "student-20k")
    check(Inputs.of(pair(folders, teacher, "fkl", str(tmp_path / "student-20k")), tiny.EVALUATION))
