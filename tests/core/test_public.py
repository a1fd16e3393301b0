"""What `import kdutils` offers."""

import subprocess
import sys
from pathlib import Path

import pytest

import kdutils

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
