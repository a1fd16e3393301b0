"""The cell table: what happened, one tidy row a cell, whatever its source.

A cell is one source x protocol x pair x method x temperature x noise x task x seed. The released
results reach this table directly, live runs through their item rows; from here on no code knows
where a row came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import pandas as pd

from kdutils.constants import SOURCE_LABELS

# Column -> pandas dtype. Accuracies, agreement and fidelity are in percent.
SCHEMA = {
    "source": "str",  # published | live
    "protocol": "str",  # paper | careful
    "domain": "str",  # math | commonsense
    "task": "str",  # a task key, or "average": the mean over the domain's tasks
    "family": "str",  # Qwen2.5 | Llama-3 | ...
    "teacher": "str",  # "" for base and sft, which have none
    "student": "str",
    "teacher_parameters": "Int64",  # nominal, as in the model's name
    "student_parameters": "Int64",
    "method": "str",  # base | sft | fkl | seqkd | revkd | gkd
    "teacher_tuned": "boolean",  # was the teacher fine-tuned on the domain; NA without teacher
    "temperature": "float64",  # of the divergence; NaN without teacher
    "noise_sigma": "float64",  # standard deviation of the noise on the teacher's logits
    "seed": "Int64",
    "n": "Int64",  # items behind the accuracy; for "average" the sum over the tasks
    "accuracy": "float64",
    "accuracy_se": "float64",  # standard error from the n items, in points
    "n_clean": "Int64",  # items whose question does not occur in the training set; NA where not known
    "accuracy_clean": "float64",  # of those items
    "accuracy_ranked": "float64",  # of the likeliest option, where options were ranked; NaN elsewhere
    "accuracy_ranked_normalised": "float64",  # of the likeliest by character
    "unparsed": "float64",  # texts in which no answer was found; NaN where texts were not released
    "truncated": "float64",  # texts that were cut at the limit of their length
    "agreement": "float64",  # items on which student and teacher give the same answer
    "agreement_sft": "float64",  # the same for the SFT student beside the same teacher
    "agreement_em2": "float64",  # the authors' second, undocumented agreement table
    "agreement_em2_sft": "float64",
    "fidelity": "float64",  # likeness of student and teacher rationale
    "fidelity_sft": "float64",
    "fidelity_bleu2": "float64",  # the authors' second fidelity table
    "fidelity_bleu2_sft": "float64",
    "fidelity_correct_r": "float64",  # over items, of being right and BLEU with the teacher's text
    "flags": "str",  # ";"-joined keys of FLAGS, in that order; "" where nothing is odd
}

MODEL_WORLD = "mini-"  # how the names of the mini family begin

FLAGS = {
    "contaminated": "the task's test questions occur in the training set",
    "not_a_single_pass": "no whole number of right answers out of n gives this accuracy",
    "collapsed": "below half of the same student's SFT accuracy on this task",
    "average_differs": "the released average is not the mean of the released tasks (0.01 tolerance)",
    "teacher_checkpoint_named": "the file names a checkpoint of the teacher, the others do not",
    "agreement_reused": "one released agreement value per pair stands for every method and temperature",
    "fidelity_measure_unclear": "which of the two released fidelity tables is BLEU is not documented",
    "poster_misattributed": "the poster prints this agreement for smaller students than it belongs to",
}


def accuracy_se(accuracy: float, n: int) -> float:
    """Standard error in points of an accuracy in percent over n independent items; NaN for n < 1."""
    if n < 1:
        return math.nan
    share = accuracy / 100
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / n)


def short_name(model: str) -> str:
    """A model's name in tables and labels: `Qwen/Qwen2.5-0.5B` gives `Qwen2.5-0.5B`.

    The owner on the hub goes, or the folder of a local model, and `.gguf`.
    """
    return model.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


@cache
def model_parameters(model: str) -> int:
    """Nominal parameter count in a model's name: `Qwen2.5-0.5B` gives 500,000,000.

    Nominal on purpose: the authors rank students by the number in the name, so Qwen2.5-3B and
    Llama-3.2-3B tie although one has 3.09 and the other 3.21 billion.

    Raises:
        ValueError: if the name does not end in a size such as 0.5B or 28k.
    """
    match = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)([kMB])$", short_name(model))
    if match is None:
        raise ValueError(
            f"model name {model!r} does not end in a size: give one that ends in -0.5B, -135M or -28k, say"
        )
    return round(float(match[1]) * {"k": 1e3, "M": 1e6, "B": 1e9}[match[2]])


def size_label(parameters: int) -> str:
    """A parameter count as names write it: 500,000,000 gives `0.5B`, 38,000 gives `38k`."""
    unit, one = ("B", 1e9) if parameters >= 1e8 else ("M", 1e6) if parameters >= 1e6 else ("k", 1e3)
    return f"{parameters / one:g}{unit}"


def model_family(model: str) -> str:
    """`Qwen2.5` or `Llama-3` (3.1 and 3.2 are one family in the paper); else the name before its size."""
    stem = short_name(model).rsplit("-", 1)[0]
    return "Llama-3" if stem.startswith("Llama-3") else stem


def source_labels(families: Iterable[str]) -> dict[str, str]:
    """What results of each source are called where those that ran live are of these families.

    Real models are named by their family, `Live, Qwen2.5`; the model world is `Live`, as nothing is.
    """
    named = [family for family in dict.fromkeys(families) if family and not family.startswith(MODEL_WORLD)]
    live = f"{SOURCE_LABELS['live']}, {' and '.join(named)}" if named else SOURCE_LABELS["live"]
    return SOURCE_LABELS | {"live": live}


def is_model_world(cells: pd.DataFrame) -> bool:
    """Whether the models of all cells are of the embedded mini family, which no real model resembles."""
    return len(cells) > 0 and bool(cells["family"].str.startswith(MODEL_WORLD).all())


def join_flags(flags: Iterable[str]) -> str:
    """The `flags` column for a set of flag keys: in the order of FLAGS, joined by ";".

    Raises:
        KeyError: for a key that FLAGS does not declare.
    """
    wanted = set(flags)
    if unknown := wanted - set(FLAGS):
        raise KeyError(f"undeclared flags {sorted(unknown)}; declare them in cells.FLAGS")
    return ";".join(flag for flag in FLAGS if flag in wanted)


def has_flag(cells: pd.DataFrame, flag: str) -> pd.Series:
    """True where a cell carries the flag (a key of FLAGS)."""
    if flag not in FLAGS:
        raise KeyError(f"unknown flag {flag!r}; there are {list(FLAGS)}")
    return cells["flags"].str.split(";").map(lambda flags: flag in flags).astype(bool)


def cell_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a cell table: every column of SCHEMA in its order and dtype, missing ones NA.

    Raises:
        KeyError: for a column that SCHEMA does not have.
        ValueError: if two rows are the same cell.
    """
    frame = pd.DataFrame(list(rows))
    if unknown := set(frame.columns) - set(SCHEMA):
        raise KeyError(f"columns {sorted(unknown)} are not in the cell schema {list(SCHEMA)}")
    frame = frame.reindex(columns=list(SCHEMA))
    strings = [column for column, dtype in SCHEMA.items() if dtype == "str"]
    frame[strings] = frame[strings].astype("object").where(frame[strings].notna(), "")
    frame = frame.astype(SCHEMA)
    keys = list(SCHEMA)[: list(SCHEMA).index("n")]
    if (twice := frame.duplicated(keys)).any():
        raise ValueError(f"two rows for one cell: {frame.loc[twice, keys].iloc[0].to_dict()}")
    return frame
