"""How a run is computed is said in one place, and only there the environment is asked."""

import ast
import math
import re
from pathlib import Path

import pytest

from kdutils import compute
from kdutils.compute import Compute

PACKAGE = Path(compute.__file__).parent
# File -> variables that it may name: those that decide how a run is computed belong to compute.py; the
# others say where data lies, or tie a notebook to the runner that started it.
READERS = {
    "compute.py": {
        f"KDUTILS_{name}" for name in ("COMPILE", "CHECKPOINTING", "TEACHER_STATES", "CPU_BFLOAT16")
    },
    "bench/gpu.py": {"KDUTILS_COMPILE"},  # set for processes that it starts, not read
    "bench/side_by_side.py": {"KDUTILS_COMPILE"},  # the same
    "bench/whole_runs.py": {"KDUTILS_TEACHER_STATES"},  # the same
    "data/llm_adapters.py": {"KDUTILS_DATA"},
    "grid/cost.py": {"KDUTILS_DATA"},
    "data/model_files.py": {"KDUTILS_MODELS"},
    "io/environment.py": {"KDUTILS_RUN_TOKEN"},
    "io/text_safety.py": {"KDUTILS_RUN_TOKEN"},  # a name that may stand in a report
}


def variables_of(path: Path) -> set[str]:
    """The KDUTILS_* variables that the code of a file names; docstrings and messages are longer."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return {node.value for node in nodes if re.fullmatch("KDUTILS_[A-Z0-9_]+", str(node.value))}


def test_no_other_file_names_a_variable():
    found = {str(path.relative_to(PACKAGE)): variables_of(path) for path in PACKAGE.rglob("*.py")}
    assert {name: variables for name, variables in found.items() if variables} == READERS


def test_the_table_holds_every_variable():
    listed = {line.split("`")[1] for line in compute.__doc__.splitlines() if line.startswith("| `")}
    assert listed == set().union(*READERS.values())


def test_the_environment_is_read_as_the_table_says(monkeypatch):
    for name in READERS["compute.py"]:
        monkeypatch.delenv(name, raising=False)
    assert Compute.from_environment() == Compute() == compute.DEFAULT
    monkeypatch.setenv("KDUTILS_COMPILE", "eager")
    monkeypatch.setenv("KDUTILS_CHECKPOINTING", "1")
    monkeypatch.setenv("KDUTILS_CPU_BFLOAT16", "0")
    monkeypatch.setenv("KDUTILS_TEACHER_STATES", "never")
    expected = {"compile_backend": "eager", "activation_checkpointing": True, "keeps_teacher_states": False}
    assert Compute.from_environment() == Compute(**expected, cpu_bfloat16=False)


@pytest.mark.parametrize(
    ("has_amx", "has_avx512_bf16"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_cpu_computes_in_bfloat16_where_it_multiplies_so(monkeypatch, has_amx, has_avx512_bf16):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_avx512_bf16)
    assert Compute().uses_bfloat16("cpu") is (has_amx or has_avx512_bf16)
    assert Compute().uses_bfloat16("cuda:1")
    for forced in (True, False):
        assert Compute(cpu_bfloat16=forced).uses_bfloat16("cpu") is forced


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KDUTILS_CHECKPOINTING", "yes", "KDUTILS_CHECKPOINTING='yes' is unknown: use 0 or 1"),
        ("KDUTILS_CPU_BFLOAT16", "yes", "KDUTILS_CPU_BFLOAT16='yes' is unknown: use auto or 0 or 1"),
        ("KDUTILS_TEACHER_STATES", "sometimes", "'sometimes' is unknown: use always or never"),
        ("KDUTILS_COMPILE", "gcc", r"'gcc' \(KDUTILS_COMPILE\) is none of .* use one of \[.*'inductor'"),
    ],
)
def test_an_unknown_value_is_refused_with_the_known_ones(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Compute.from_environment()


BAD = [("micro_batch_rows", 0), ("pass_tokens", -1), ("checkpoint_seconds", -1.0)]
BAD.append(("checkpoint_seconds", math.nan))


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_field_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        Compute(**{name: value})
