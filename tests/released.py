"""The ten files that the authors released, rebuilt to the byte from the one that is shipped."""

from __future__ import annotations

import csv
from pathlib import Path

from kdutils.results import authors_tables
from kdutils.results.import_authors_tables import (
    ACCURACY_FILES,
    CHECKPOINT,
    METHOD_KEYS,
    PAIR_FILES,
    TASK_COLUMNS,
)

ORDERS = {  # of the columns of tasks, by file
    **dict.fromkeys(ACCURACY_FILES["math"], "gsm8k svamp multiarith singleeq addsub aqua average"),
    **dict.fromkeys(
        ACCURACY_FILES["commonsense"], "hellaswag boolq siqa piqa arc_e arc_c winogrande obqa average"
    ),
    **dict.fromkeys(("EM1.csv", "EM2.csv", "BLEU2.csv"), "singleeq gsm8k multiarith aqua svamp addsub"),
    **dict.fromkeys(("EM1_cs.csv", "EM2_cs.csv"), "arc_e winogrande hellaswag obqa boolq siqa piqa arc_c"),
    "BLEU.csv": "gsm8k addsub singleeq aqua svamp multiarith",
}


def rows_of_table() -> list[dict[str, str]]:
    """The rows of the shipped file as they are printed."""
    lines = authors_tables.TABLE.read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def released_files(folder: Path) -> Path:
    """The ten files, written into a folder, which is returned."""
    lines: dict[str, dict[int, list[str]]] = {name: {} for name in ORDERS}
    values: dict[tuple[str, int], dict[str, str]] = {}
    names = {key: name for name, key in METHOD_KEYS.items()}
    for row in rows_of_table():
        teacher = row["teacher"] + CHECKPOINT * ("teacher_checkpoint_named" in row["flags"])
        method = names[row["method"]]
        if row["teacher"]:
            tuned = "" if row["teacher_tuned"] == "True" else "_base_teacher"
            method = f"student_{method}{tuned}_temp_{row['temperature']}"
        place = row["accuracy_file"], int(row["accuracy_line"])
        lines[place[0]][place[1]] = [teacher or "-", row["student"], method]
        values.setdefault(place, {})[row["task"]] = row["accuracy"]
        for column, name in PAIR_FILES[row["domain"]].items():
            for suffix, method in (("", "KD"), ("_sft", "SFT")):
                if value := row[column + suffix]:
                    place = name, int(row[f"likeness{suffix}_line"])
                    pair = row["teacher"], row["student"]
                    lines[name][place[1]] = [*pair, " -> ".join(pair), method]
                    values.setdefault(place, {})[row["task"]] = value
    spelling = {task: released for released, task in TASK_COLUMNS.items()}
    for name, own in lines.items():
        tasks = ORDERS[name].split()
        who = ["Teacher", "Student", *["Pair"] * (len(next(iter(own.values()))) == 4), "Method"]
        text = [who + [spelling[task] for task in tasks]]
        text += [own[line] + [values[name, line][task] for task in tasks] for line in sorted(own)]
        end = "\r\n" if "Average" in text[0] else "\n"
        (folder / name).write_bytes("".join(",".join(row) + end for row in text).encode())
    return folder
