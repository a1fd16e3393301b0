"""The tables that the paper's authors released, as cells.

Source: github.com/LCS2-IIITD/KD_generalization, folder `results/`, at COMMIT (Apache-2.0). Nothing is
repaired: what is odd about a value is a flag on its row.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.constants import AVERAGE, CONTAMINATED_TASKS, DOMAIN_TASKS, TEST_ITEMS
from kdutils.grid import cell_table as cell_rows
from kdutils.io import disk

COMMIT = "a5fed92e2c749ee5dda78aa26f61cce4529f2157"
BASE_URL = f"https://raw.githubusercontent.com/LCS2-IIITD/KD_generalization/{COMMIT}/results/"
SHA256 = {
    "math_results_main.csv": "375c370b37297f572841851e46d6b54986126a27f0b7d1cc58bd65760a17183a",
    "llama_math_results.csv": "7247b92659f581b7122d6cb2855a09532a540b4b3b51a7bd7986232c173f6357",
    "cs_results_main.csv": "6bec3505cbf71e5e41162accdc6b82f42f61b2203690da0ded8f7e66a4b134ed",
    "llama_cs_results.csv": "8ac66d3ada5ac24e68d74796f7991757f2e7eab8863822820d7f857844979e7e",
    "EM1.csv": "389ae4fc196e654e4de803371126e1a167be5eb912cceaa20d17decd5c90f73a",
    "EM2.csv": "c40d109b45e51a2e317c951ece469c3fa0331560f4776dc391fe5ab834ab2b83",
    "EM1_cs.csv": "748e0ba4ab83411396802d75d10d87f4d9acabb737558122f888ceaefe16a709",
    "EM2_cs.csv": "e669ff492d5a52c51ebeb0c7ab1b59840c0b04c64e868c9d4b678297161f818f",
    "BLEU.csv": "c391034c126bca03e6839f598d97d3ff7ab325d2cd78a7104f3742b563be985a",
    "BLEU2.csv": "ef2052e3793db1b86f8d2cda6d0d0018e173580f3a350a394d8e37a8e9221e58",
}
TASK_COLUMNS = {  # the authors' spelling -> ours
    "AQuA": "aqua",
    "AddSub": "addsub",
    "gsm8k": "gsm8k",
    "MultiArith": "multiarith",
    "SVAMP": "svamp",
    "SingleEq": "singleeq",
    "ARC-Challenge": "arc_c",
    "ARC-Easy": "arc_e",
    "boolq": "boolq",
    "hellaswag": "hellaswag",
    "openbookqa": "obqa",
    "piqa": "piqa",
    "social_i_qa": "siqa",
    "winogrande": "winogrande",
    "Average": AVERAGE,
}
ACCURACY_FILES = {
    "math": ("math_results_main.csv", "llama_math_results.csv"),
    "commonsense": ("cs_results_main.csv", "llama_cs_results.csv"),
}
# Cell column -> file with one SFT and one KD row a pair. Which KD student it was is not released.
PAIR_FILES = {
    "math": {
        "agreement": "EM1.csv",
        "agreement_em2": "EM2.csv",
        "fidelity": "BLEU.csv",
        "fidelity_bleu2": "BLEU2.csv",
    },
    "commonsense": {"agreement": "EM1_cs.csv", "agreement_em2": "EM2_cs.csv"},
}
METHOD_KEYS = {"BaseModel": "base", "SFT": "sft", "KD": "fkl", "RevKD": "revkd", "GKD": "gkd"}
SEED = 6  # of training and decoding, in the authors' argument files
CHECKPOINT = "_ckpt2400"  # after the name of one teacher
# The poster gives AddSub 89.1 and MultiArith 94.5 to the 0.5B and 1.5B students of the 14B teacher.
POSTER_AGREEMENT = {"addsub": 89.1, "multiarith": 94.5}
OWN_FOLDER = f"set KDUTILS_DATA to a folder whose published/ holds the files of {BASE_URL}"


class ReleasedTablesError(RuntimeError):
    """The released tables are missing or are not the ones the authors released."""


def fetch() -> Path:
    """Folder with the ten released tables, each equal to its SHA-256.

    `$KDUTILS_DATA/published` if KDUTILS_DATA is set; else the user's cache, downloaded on first use.

    Raises:
        ReleasedTablesError: names what is wrong with which file and both ways to mend it.
    """
    if data := os.environ.get("KDUTILS_DATA"):
        folder = Path(data).expanduser().resolve() / "published"
        remedy = f"put the files of {BASE_URL} there, or unset KDUTILS_DATA "
        remedy += "to download them once into the user's cache"
    else:
        folder = disk.cache_path(f"published-{COMMIT[:12]}")
        remedy = f"delete {folder} and run again with a network, or {OWN_FOLDER}"
        if not folder.is_dir():
            _download(folder)
    for name, expected in SHA256.items():
        path = folder / name
        if not path.is_file():
            raise ReleasedTablesError(f"{path} is missing; {remedy}")
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ReleasedTablesError(
                f"{path} is not the released file: SHA-256 {found[:12]}… instead of {expected[:12]}… "
                f"({len(content):,} bytes); {remedy}"
            )
    return folder


def _download(folder: Path) -> None:
    import pooch

    try:
        with disk.folder_in_one_step(folder, replaces=False) as partial:
            for name, sha256 in SHA256.items():
                pooch.retrieve(BASE_URL + name, known_hash=f"sha256:{sha256}", fname=name, path=partial)
    except Exception as error:  # pooch raises requests', urllib3's and its own: all mean "not obtained"
        if folder.is_dir():  # another process was faster; fetch() judges what it left
            return
        reason = str(error).split("\n", 1)[0][:200]
        raise ReleasedTablesError(
            f"cannot download the released tables ({type(error).__name__}: {reason}); "
            f"run again with a network, or {OWN_FOLDER}"
        ) from error


def cells() -> pd.DataFrame:
    """The released results as a cell table (cell_table.SCHEMA): 74 runs a domain, tasks and average.

    Agreement and fidelity stand on every KD row with a tuned teacher of their pair, as the authors'
    analysis uses them (joined on teacher and student alone); those rows carry `agreement_reused`.
    """
    folder = fetch()
    rows: list[dict[str, Any]] = []
    for domain, names in ACCURACY_FILES.items():
        likeness = _likeness(folder, domain)
        for name in names:
            for record in pd.read_csv(folder / name).to_dict("records"):
                rows += _run(record, domain, likeness)
    sft = {_place(row): row["accuracy"] for row in rows if row["method"] == "sft"}
    for row in rows:
        if row.get("teacher") and row["accuracy"] < sft[_place(row)] / 2:
            row["flags"].append("collapsed")
        row["flags"] = cell_rows.join_flags(row["flags"])
    return cell_rows.cell_table(rows)


def _place(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["student"], row["domain"], row["task"]


NOISE_PAIR = ("Qwen2.5-3B", "Qwen2.5-0.5B")  # teacher and student of the one noise value that is known


def noise_results() -> pd.DataFrame:
    """All that is known of the paper's noise study: Qwen2.5-3B to 0.5B, forward KL, math average.

    Columns sigma, accuracy, origin. sigma = 0 is released; sigma = 5 is read off a summary that the
    authors' lab published and is good to about one decimal; nothing is known for sigma 1 and 2.
    """
    clean = cells().query(
        "teacher == @NOISE_PAIR[0] and student == @NOISE_PAIR[1] and method == 'fkl' and teacher_tuned "
        "and temperature == 1 and domain == 'math' and task == @AVERAGE"
    )
    rows = [(0.0, clean["accuracy"].item(), "released table"), (5.0, 5.9, "second-hand summary")]
    return pd.DataFrame(rows, columns=["sigma", "accuracy", "origin"])


def float32_share(values: pd.Series) -> float:
    """Share of percentages that are exactly 100 x a 32-bit float, to double rounding.

    Scores computed in Python are 64-bit; a share of 1 says the numbers left a neural network or GPU.
    """
    exact = values.to_numpy("float64") / 100
    return float((abs(exact.astype("float32").astype("float64") - exact) < 1e-15).mean())


def _likeness(folder: Path, domain: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """(teacher, student, task) -> agreement and fidelity columns of the cell schema."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for column, name in PAIR_FILES[domain].items():
        for record in pd.read_csv(folder / name).to_dict("records"):
            suffix = {"KD": "", "SFT": "_sft"}[record["Method"]]
            for task, value in _of_tasks(record).items():
                key = (record["Teacher"], record["Student"], task)
                values.setdefault(key, {})[column + suffix] = value
    return values


def _of_tasks(record: dict[str, Any]) -> dict[str, float]:
    return {task: float(record[released]) for released, task in TASK_COLUMNS.items() if released in record}


def _run(record: dict[str, Any], domain: str, likeness: dict) -> list[dict[str, Any]]:
    """One released row (a run) as cells, one a task; an average's error treats the tasks as independent."""
    who, accuracies, members = _who(record), _of_tasks(record), DOMAIN_TASKS[domain]
    mean = sum(accuracies[task] for task in members) / len(members)
    errors = {task: cell_rows.accuracy_se(accuracies[task], TEST_ITEMS[task]) for task in members}
    errors[AVERAGE] = sum(errors[task] ** 2 for task in members) ** 0.5 / len(members)
    items = TEST_ITEMS | {AVERAGE: sum(TEST_ITEMS[task] for task in members)}
    rows = []
    for task, accuracy in accuracies.items():
        n = items[task]
        off = abs(100 * round(accuracy / 100 * n) / n - accuracy)
        key = (who.get("teacher"), who["student"], task)
        shared = likeness.get(key, {}) if who.get("teacher_tuned") else {}
        is_printed = bool(shared) and abs(shared["agreement"] - POSTER_AGREEMENT.get(task, math.inf)) < 0.05
        flags = {
            "contaminated": task in CONTAMINATED_TASKS,
            "not_a_single_pass": task != AVERAGE and off > 0.005 + 1e-9,  # released with two decimals
            "average_differs": task == AVERAGE and abs(accuracy - mean) > 0.01,
            "teacher_checkpoint_named": record["Teacher"].endswith(CHECKPOINT),
            "agreement_reused": bool(shared),
            "fidelity_measure_unclear": "fidelity" in shared,
            "poster_misattributed": is_printed and who["student_parameters"] >= 2e9,
        }
        rows.append(
            {"source": "published", "protocol": "paper", "decoding": "sampled", "domain": domain}
            | {"seed": SEED, "noise_sigma": 0.0}
            | {"task": task, "accuracy": accuracy, "n": n, "accuracy_se": errors[task]}
            | who
            | shared
            | {"flags": [flag for flag, is_so in flags.items() if is_so]}
        )
    return rows


def _who(record: dict[str, Any]) -> dict[str, Any]:
    """Model, method and temperature columns of a released row."""
    student, method = record["Student"], record["Method"]
    who = {"student": student, "student_parameters": cell_rows.model_parameters(student)}
    who["family"] = cell_rows.model_family(student)
    if method in ("BaseModel", "SFT"):
        return who | {"method": METHOD_KEYS[method]}
    match = re.fullmatch(r"student_(KD|RevKD|GKD)(_base_teacher)?_temp_(\d\.\d)", method)
    if match is None:
        raise ReleasedTablesError(f"unknown method {method!r} in the released tables")
    teacher = record["Teacher"].removesuffix(CHECKPOINT)
    return who | {
        "teacher": teacher,
        "teacher_parameters": cell_rows.model_parameters(teacher),
        "method": METHOD_KEYS[match[1]],
        "teacher_tuned": match[2] is None,
        "temperature": float(match[3]),
    }
