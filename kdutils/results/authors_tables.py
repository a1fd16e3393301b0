"""The tables that the paper's authors released, as cells.

They ship with the package as authors_tables.csv, made by `import_authors_tables` from the ten files of
github.com/LCS2-IIITD/KD_generalization, folder `results/`, at COMMIT (Apache-2.0).
"""

import hashlib
import io
from pathlib import Path

import pandas as pd

from kdutils.constants import AVERAGE
from kdutils.grid import cell_table

COMMIT = "a5fed92e2c749ee5dda78aa26f61cce4529f2157"
TABLE = Path(__file__).with_suffix(".csv")
SHA256 = "b5fa97c2eccd81280bf784eac60118095d4b8c742b72c2af6b1f945eef42c116"
PROVENANCE = ("accuracy_file", "accuracy_line", "likeness_line", "likeness_sft_line")  # not in cells()


def cells() -> pd.DataFrame:
    """The released results as a cell table (cell_table.SCHEMA): 74 runs a domain, tasks and average.

    Agreement and fidelity stand on every KD row with a tuned teacher of their pair, as the authors'
    analysis uses them (joined on teacher and student alone); those rows carry `agreement_reused`.

    Raises:
        ValueError: if the file is not the one that belongs to this version of the package.
    """
    content = TABLE.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{TABLE} is damaged: SHA-256 {found[:12]}… ({len(content):,} bytes) instead of {SHA256[:12]}…; "
            "restore it with git or install kdutils again"
        )
    rows = pd.read_csv(io.BytesIO(content), comment="#")
    return cell_table.cell_table(rows.drop(columns=[*PROVENANCE]).to_dict("records"))


NOISE_PAIR = ("Qwen2.5-3B", "Qwen2.5-0.5B")  # teacher and student of the one noise value that is known


def noise_results() -> pd.DataFrame:
    """All that is known of the paper's noise study: Qwen2.5-3B to 0.5B, forward KL, math average.

    Columns sigma, accuracy, origin. sigma = 0 is released; sigma = 5 is read off a summary that the
    authors' lab published and is good to about one decimal; nothing is known for sigma 1 and 2.
    """
    clean = cells().query(
        "teacher == @NOISE_PAIR[0] and student == @NOISE_PAIR[1] and method == 'fkl' and teacher_tuned "
        f"and temperature == 1 and domain == 'math' and task == {AVERAGE!r}"
    )
    rows = [(0.0, clean["accuracy"].item(), "released table"), (5.0, 5.9, "second-hand summary")]
    return pd.DataFrame(rows, columns=["sigma", "accuracy", "origin"])


def float32_share(values: pd.Series) -> float:
    """Share of percentages that are exactly 100 x a 32-bit float, to double rounding.

    Scores computed in Python are 64-bit; a share of 1 says the numbers left a neural network or GPU.
    """
    exact = values.to_numpy("float64") / 100
    return float((abs(exact.astype("float32").astype("float64") - exact) < 1e-15).mean())
