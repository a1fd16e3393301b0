"""What is computed from the item rows of finished runs, kept on disk.

Measuring the likeness of texts takes a good part of a second a pair, so it is kept under `out`/cache/cells,
named by the digests of everything that went in.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils import evaluate
from kdutils.io import disk, environment
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec


class Scored:
    """The item rows of a run, read only when `rows` is called."""

    def __init__(self, folder: store.RunFolder, evaluation: EvalSpec, digest: str) -> None:
        self._folder, self._evaluation = folder, evaluation
        self.name = f"{folder.path.name} {digest}"

    @classmethod
    def of(cls, out: Path, spec: RunSpec, evaluation: EvalSpec) -> Scored | None:
        """None if the run is not finished or not evaluated so."""
        folder = store.folder_of(out, spec.run_id)
        digest = None if folder.result() is None else folder.items_digest(evaluation)
        return None if digest is None else cls(folder, evaluation, digest)

    @classmethod
    def reader(cls, out: Path) -> Callable[[RunSpec, EvalSpec], Scored | None]:
        """`of` for one reading of a store: a run that many are compared with is looked at once."""
        return cache(partial(cls.of, out))

    def rows(self) -> pd.DataFrame:
        return self._folder.evaluation(self._evaluation)


def kept(out: Path, compute: Callable[..., list[dict[str, Any]]], *scored: Scored) -> list[dict[str, Any]]:
    """The records that were kept for these item rows, else those computed now, and kept.

    NaN is None in them. They are computed again where the code of `compute`'s module has changed.
    """
    inputs = [compute.__name__, *(each.name for each in scored), _code_digest(compute.__module__)]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    path = Path(out) / f"cache/cells/{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["sha256"] == _digest(kept["records"]):
            return kept["records"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: computed again
        pass
    computed = compute(*(each.rows() for each in scored))
    records = [{name: _or_none(value) for name, value in record.items()} for record in computed]
    with contextlib.suppress(OSError):  # a store that is only read from has no cache, and is slower
        disk.write_json(path, {"records": records, "sha256": _digest(records)})
    return records


def _digest(records: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(records, allow_nan=False).encode()).hexdigest()


def _or_none(value: Any) -> Any:
    """JSON has no NaN; a cell table reads null as NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


@cache
def _code_digest(computing: str) -> str:
    """Of the code that computes: that module and ours, and the packages that measure texts."""
    modules = dict.fromkeys([evaluate, sys.modules[__name__], sys.modules[computing]])
    texts = [inspect.getsource(module) for module in modules]
    texts += [f"{name} {environment.installed_version(name)}" for name in ("sacrebleu", "numpy", "pandas")]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
