"""Makes authors_tables.csv, the released results as cells, from the ten files that the authors released.

`python -m kdutils.results.import_authors_tables [FOLDER]` writes it and prints its SHA-256. FOLDER holds the
files; without it they are downloaded. Nothing is repaired: what is odd about a value is a flag on its row.
"""

import argparse
import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from kdutils.constants import AVERAGE, CONTAMINATED_TASKS, DOMAIN_TASKS, TEST_ITEMS
from kdutils.grid import cell_table
from kdutils.io import disk
from kdutils.results.authors_tables import COMMIT, PROVENANCE, TABLE

URL = f"https://raw.githubusercontent.com/LCS2-IIITD/KD_generalization/{COMMIT}/results/"
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
NOTICE = f"""\
# The results of "On the Generalization vs Fidelity Paradox in Knowledge Distillation" (arXiv 2505.15442) by
# Suhas K Ramesh, Ayan Sengupta and Tanmoy Chakraborty, released under the Apache License 2.0 in
# github.com/LCS2-IIITD/KD_generalization, folder results/, commit {COMMIT}.
# Changed: kdutils/results/import_authors_tables.py made one file of ten. Accuracies, agreement and fidelity
# are as printed there; names, parameter counts, n, standard errors and flags are ours (grid/cell_table.py).
# The accuracy stands in line accuracy_line of accuracy_file, whose header is line 1. In lines likeness_line
# and likeness_sft_line (columns *_sft) stand: agreement of EM1.csv (math) or EM1_cs.csv (commonsense),
# agreement_em2 of EM2.csv or EM2_cs.csv, fidelity of BLEU.csv, fidelity_bleu2 of BLEU2.csv.
"""


def table_text(folder: Path | None) -> str:
    """The text of authors_tables.csv, from the files in a folder, or downloaded.

    Raises:
        ValueError: for a file that is not the released one.
        OSError: for a file that cannot be read or downloaded.
    """
    rows: list[dict[str, Any]] = []
    for domain, names in ACCURACY_FILES.items():
        likeness = _likeness(folder, domain)
        for name in names:
            for line, record in _records(folder, name):
                own = {"accuracy_file": name, "accuracy_line": line}
                rows += [cell | own for cell in _run(record, domain, likeness)]
    sft = {_place(row): float(row["accuracy"]) for row in rows if row["method"] == "sft"}
    for row in rows:
        if row.get("teacher") and float(row["accuracy"]) < sft[_place(row)] / 2:
            row["flags"].append("collapsed")
        row["flags"] = cell_table.join_flags(row["flags"])
    columns = [name for name in (*cell_table.SCHEMA, *PROVENANCE) if any(name in row for row in rows)]
    text = io.StringIO(NOTICE)
    text.seek(0, io.SEEK_END)
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _records(folder: Path | None, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a released file, which has no line breaks within values."""
    if folder:
        content = (folder / name).read_bytes()
    else:
        with urlopen(URL + name, timeout=60) as response:
            content = response.read()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise ValueError(
            f"{name} is not the released file: SHA-256 {found[:12]}… ({len(content):,} bytes) instead of "
            f"{SHA256[name][:12]}…; get it from {URL}{name}"
        )
    return enumerate(csv.DictReader(content.decode().splitlines()), start=2)


def _place(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["student"], row["domain"], row["task"]


def _likeness(folder: Path | None, domain: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(teacher, student, task) -> agreement and fidelity columns of the cell schema, with their lines."""
    values: dict[tuple[str, str, str], dict[str, Any]] = {}
    for column, name in PAIR_FILES[domain].items():
        for line, record in _records(folder, name):
            suffix = {"KD": "", "SFT": "_sft"}[record["Method"]]
            for task, value in _of_tasks(record).items():
                key = (record["Teacher"], record["Student"], task)
                found = {column + suffix: value, f"likeness{suffix}_line": line}
                values.setdefault(key, {}).update(found)
    return values


def _of_tasks(record: dict[str, str]) -> dict[str, str]:
    return {task: record[released] for released, task in TASK_COLUMNS.items() if released in record}


def _run(record: dict[str, str], domain: str, likeness: dict) -> Iterator[dict[str, Any]]:
    """One released row (a run) as cells, one a task; an average's error treats the tasks as independent.

    On which rows agreement and fidelity stand: authors_tables.cells.
    """
    who, printed, members = _who(record), _of_tasks(record), DOMAIN_TASKS[domain]
    accuracies = {task: float(value) for task, value in printed.items()}
    mean = sum(accuracies[task] for task in members) / len(members)
    errors = {task: cell_table.accuracy_se(accuracies[task], TEST_ITEMS[task]) for task in members}
    errors[AVERAGE] = sum(errors[task] ** 2 for task in members) ** 0.5 / len(members)
    items = TEST_ITEMS | {AVERAGE: sum(TEST_ITEMS[task] for task in members)}
    for task, accuracy in accuracies.items():
        n = items[task]
        off = abs(100 * round(accuracy / 100 * n) / n - accuracy)
        key = (who.get("teacher"), who["student"], task)
        shared = likeness.get(key, {}) if who.get("teacher_tuned") else {}
        poster = POSTER_AGREEMENT.get(task, math.inf)
        is_printed = bool(shared) and abs(float(shared["agreement"]) - poster) < 0.05
        flags = {
            "contaminated": task in CONTAMINATED_TASKS,
            "not_a_single_pass": task != AVERAGE and off > 0.005 + 1e-9,  # released with two decimals
            "average_differs": task == AVERAGE and abs(accuracy - mean) > 0.01,
            "teacher_checkpoint_named": record["Teacher"].endswith(CHECKPOINT),
            "agreement_reused": bool(shared),
            "fidelity_measure_unclear": "fidelity" in shared,
            "poster_misattributed": is_printed and who["student_parameters"] >= 2e9,
        }
        yield (
            {"source": "published", "protocol": "paper", "decoding": "sampled", "domain": domain}
            | {"seed": SEED, "noise_sigma": 0.0}
            | {"task": task, "accuracy": printed[task], "n": n, "accuracy_se": errors[task]}
            | who
            | shared
            | {"flags": [flag for flag, is_so in flags.items() if is_so]}
        )


def _who(record: dict[str, str]) -> dict[str, Any]:
    """Model, method and temperature columns of a released row."""
    student, method = record["Student"], record["Method"]
    who = {"student": student, "student_parameters": cell_table.model_parameters(student)}
    who["family"] = cell_table.model_family(student)
    if method in ("BaseModel", "SFT"):
        return who | {"method": METHOD_KEYS[method]}
    match = re.fullmatch(r"student_(KD|RevKD|GKD)(_base_teacher)?_temp_(\d\.\d)", method)
    teacher = record["Teacher"].removesuffix(CHECKPOINT)
    return who | {
        "teacher": teacher,
        "teacher_parameters": cell_table.model_parameters(teacher),
        "method": METHOD_KEYS[match[1]],
        "teacher_tuned": match[2] is None,
        "temperature": match[3],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of the ten released files; else downloaded")
    disk.write_text(TABLE, table_text(parser.parse_args().folder))
    print(TABLE, disk.sha256(TABLE))
