"""What `import kdutils` offers."""

import subprocess
import sys
from pathlib import Path

import pytest

import kdutils
from kdutils.compute import Compute

NAMES = ("RunSpec", "EvalSpec", "run", "train", "divergence", "cross_entropy", "generate")


def test_these_names_are_offered():
    assert tuple(kdutils.__all__) == NAMES
    for name in NAMES:
        assert getattr(kdutils, name).__name__ == name
        assert getattr(kdutils, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        kdutils.distil  # noqa: B018


def test_no_module_hides_a_name():
    modules = {path.stem for path in Path(kdutils.__file__).parent.iterdir()}
    assert not modules & set(NAMES)


def test_specs_are_made_without_torch():
    code = "import sys, kdutils; kdutils.EvalSpec(tasks=('svamp',)); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"spec": {"student": "mini-qwen-0.5B"}}, "spec is dict: make one by RunSpec"),
        ({"evaluation": {"tasks": ["svamp"]}}, "evaluation is dict: make one by EvalSpec"),
        ({"compute": "cuda"}, "compute is str: give a kdutils.compute.Compute"),
        ({"progress": True}, "progress=True cannot be called"),
    ],
)
def test_arguments_of_another_type_are_refused_before_any_work(tmp_path, fields, says):
    spec = kdutils.RunSpec(student="mini-qwen-0.5B", method="base", domain="math")
    with pytest.raises(TypeError, match=says):
        kdutils.run(fields.pop("spec", spec), out=tmp_path / "out", **fields)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = kdutils.RunSpec(student="mini-qwen-0.5B", method="base", domain="math")
    with pytest.raises(ValueError, match="device='cuda': torch sees no GPU here"):
        kdutils.run(spec, out=tmp_path / "out", compute=Compute(device="cuda"))
    assert not (tmp_path / "out").exists()
