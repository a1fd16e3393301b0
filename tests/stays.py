"""How a spec travels through the files in one run: `python tests/stays.py`.

One `kdutils.run` of a mini pair (forward KL, tuned teacher) under sys.setprofile. Of the calls of
functions of kdutils that are handed the RunSpec, or what it was resolved into (alone or in a tuple, list or
PlannedRun), the first 200 are followed. A property or method of the spec itself is not: it reads, and hands
nothing on. Consecutive calls in one file are one stay; a stay in a file that was visited before is a return.
It runs on the flat modules of the first edition too.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import kdutils

N_CALLS = 200
PACKAGE = str(Path(kdutils.__file__).parent)
HOLDERS = ("RunSpec", "PlannedRun", "Inputs")  # by name, since editions keep them in different modules


def holds_spec(value: Any) -> bool:
    """Whether an argument is the spec, or a short sequence with it."""
    if isinstance(value, list | tuple):
        return any(type(part).__name__ in HOLDERS for part in value[:10])
    return type(value).__name__ in HOLDERS


def followed(work: Callable[[], Any]) -> list[str]:
    """The files of the first N_CALLS calls that get the spec, in order."""
    files: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or len(files) >= N_CALLS or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_filename.endswith("spec_checks.py"):  # a method of the spec by another name
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(holds_spec(frame.f_locals.get(name)) for name in names if name != "self"):
            files.append(str(Path(code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return files


def main() -> None:
    """Print the stays, the returns, and the files that are returned to."""
    spec = kdutils.RunSpec(
        student="mini-qwen-0.5B", teacher="mini-qwen-1.5B", method="fkl", domain="math",
        train_items=24, validation_items=6, epochs=1, batch_size=8,
    )  # fmt: skip
    evaluation = kdutils.EvalSpec(tasks=("addsub", "aqua"), items_per_task=4, max_new_tokens=8)
    run = kdutils.run  # imported before anything is followed
    with tempfile.TemporaryDirectory() as out:
        files = followed(lambda: run(spec, out=out, evaluation=evaluation))
    stays = [file for file, _ in groupby(files)]
    returns = Counter(stays)
    print(
        f"calls {len(files)}, files {len(returns)}, stays {len(stays)}, returns {len(stays) - len(returns)}"
    )
    for file, count in returns.most_common():
        print(f"{count - 1:4d} returns to {file}")


if __name__ == "__main__":
    main()
