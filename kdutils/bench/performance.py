"""What notebook 09 shows: measurements that are made where they are missing, and kept with when and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.bench import peers, scaling, side_by_side, workloads
from kdutils.grid import model_shapes
from kdutils.grid.machines import Machine, this_machine
from kdutils.grid.model_shapes import Architecture
from kdutils.io import cache, disk
from kdutils.io.cache import Record

COMPARISON = (
    "One step by each program: medians, the cores that were busy with it (fewer than there are: parts on one "
    "thread, or somebody else's work), the largest peak of memory above that at the start, the loss. Faster "
    "and memory are against the first row of a case. Same loss: within 1e-4 nats of the plain loop's, before "
    "and after an update."
)
FORMATS = {  # the columns of that table
    "case": "",
    "contender": "",
    "seconds_per_step": ".3g",
    "times_faster": ".2f",
    "tokens_per_second": ",.0f",
    "cores_busy": ".2f",
    "peak_gb_above_start": ".3f",
    "of_its_memory": ".3f",
    "start_gb": ".3f",
    "loss": ".6f",
    "loss_apart": ".1e",
    "same_loss": "",
    "repeats": "",
    "reason": "",
}
RECORD, TABLE = "performance.json", "performance.csv"


class Performance:
    """The measurements of one profile."""

    def __init__(self, folder: Path, *, measure: str = "missing", say: Any = print) -> None:
        self.folder, self.say = Path(folder), say
        self.record = Record(self.folder / RECORD, __name__, measure)
        self.rows: list[dict[str, Any]] = []  # of performance.csv
        self._parts: dict[str, bool] = {}  # whether each was measured just now

    def machine(self) -> Machine:
        """The rates of this machine."""
        return Machine(**self._part("machine", {}, lambda: asdict(this_machine())))

    def comparison(self, cases: Sequence[str], *, repeats: int, names: Sequence[str] | None) -> pd.DataFrame:
        """side_by_side.table of the cases asked for, and of others that are kept and still count."""
        names = list(names or side_by_side.BY_DEFAULT)
        rows: list[dict[str, Any]] = []
        for name in workloads.CASES:
            case = workloads.case_of(name)
            settings = {"case": asdict(case), "contenders": names, "repeats": repeats}
            settings |= {"rounds": side_by_side.ROUNDS}
            part = f"case {name}"
            if name not in cases and not self.record.has(part, settings):
                continue
            make = partial(side_by_side.measure, [case], names, repeats=repeats, progress=self.say)
            # What is not asked for is shown as it is, never measured again.
            rows += self._part(part, settings, make, is_asked=name in cases)
        self.rows += rows
        return side_by_side.table(rows)

    def growth(self, *, repeats: int) -> pd.DataFrame:
        """Rows of scaling.measure_growth."""
        settings = {"cases": [asdict(case) for case in scaling.growth_cases().values()], "repeats": repeats}
        make = partial(scaling.measure_growth, repeats=repeats, progress=self.say)
        rows = self._part("growth", settings, make)
        self.rows += rows
        return pd.DataFrame(rows)

    def grids(self, families: Sequence[str], n_students: Sequence[int]) -> pd.DataFrame:
        """Rows of scaling.compare_grids: each family by number of students and mode."""
        rows: list[dict[str, Any]] = []
        for family in families:
            settings = {"settings": scaling.SETTINGS, "students": list(n_students), "family": family}
            settings |= {"deep": asdict(scaling.DEEP)}
            make = partial(scaling.compare_grids, family, n_students, progress=self.say)
            rows += self._part(f"grid {family}", settings, make)
        self.rows += map(scaling.grid_row, rows)
        return pd.DataFrame(rows)

    def evaluation(self, n_items: int, *, repeats: int) -> pd.DataFrame:
        """Rows of scaling.compare_evaluation."""
        settings = {"items": n_items, "repeats": repeats, "model": workloads.MINI_STUDENT}
        make = partial(scaling.compare_evaluation, workloads.MINI_STUDENT, n_items=n_items, repeats=repeats)
        rows = self._part("evaluation", settings, make)
        self.rows += map(scaling.evaluation_row, rows)
        return pd.DataFrame(rows)

    def write(self) -> Path:
        """performance.csv of all that was asked for, in `folder`."""
        return disk.write_csv(self.folder / TABLE, side_by_side.published(self.rows))

    def measured(self) -> pd.DataFrame:
        """When each part was measured, and whether just now."""
        return pd.DataFrame(
            {"part": name, "measured": self.record.measured(name), "now": "now" if is_new else "kept"}
            for name, is_new in self._parts.items()
        )

    def _part(self, name: str, settings: dict[str, Any], make: Any, *, is_asked: bool = True) -> Any:
        record = self.record if is_asked else Record(self.record.path, __name__)
        was_there = record.has(name, settings) and record.measure == "missing"
        value = record.part(name, settings, make)
        self._parts[name] = not was_there
        return value


def missing_peers() -> pd.DataFrame:
    """What is not installed and the command that would: columns package, remedy."""
    return pd.DataFrame(peers.missing().items(), columns=["package", "remedy"])


def cases_table() -> pd.DataFrame:
    """What the cases are: parameters of both networks, rows of the vocabulary, batch."""
    return pd.DataFrame(
        {
            "case": case.name,
            "student": case.student.parameters,
            "teacher": case.teacher.parameters,
            "vocabulary": case.student.rows,
            "texts": case.rows,
            "tokens of each": str(case.length or "their own"),
            "scored": str(case.scored or "responses"),
        }
        for case in map(workloads.case_of, workloads.CASES)
    )


def regimes() -> pd.DataFrame:
    """FLOPs of a teacher's body over those of training a student, of the grids and of real pairs.

    For a text of 80 tokens, of which 40 are scored.
    """

    def ratio(student: str, teacher: Architecture) -> float:
        shape = model_shapes.architecture_of(student)
        trained = model_shapes.training_flops(shape, 80, context=80, scored=40)
        return model_shapes.forward_flops(teacher, 80, context=80, scored=0) / trained

    real = [f"Qwen/Qwen2.5-{size}" for size in ("0.5B", "1.5B", "3B", "7B")]
    teachers = {
        "mini": (model_shapes.architecture_of(scaling.MINI_TEACHER), scaling.STUDENTS["mini"]),
        "deep teacher": (scaling.DEEP, scaling.STUDENTS["deep teacher"]),
        "Qwen2.5-14B, not made here": (model_shapes.SHAPES["Qwen/Qwen2.5-14B"], real),
    }
    return pd.DataFrame(
        {"grid": grid, "student": student, "ratio": ratio(student, teacher)}
        for grid, (teacher, students) in teachers.items()
        for student in students
    )


def surroundings() -> pd.DataFrame:
    """What the measurements hang on: columns what, value."""
    facts = cache.surroundings(__name__, of_machine=True)
    facts |= facts.pop("packages")
    return pd.DataFrame(
        {"what": facts.keys(), "value": [str(value or "missing") for value in facts.values()]}
    )


def alt(table: pd.DataFrame, column: str, unit: str) -> str:
    """A quantity of every contender in words."""
    ran = table[table["repeats"] > 0]
    parts = [f"{row['case']}, {row['contender']}: {row[column]:.3g} {unit}" for _, row in ran.iterrows()]
    return "; ".join(parts) + "." if parts else "0 contenders ran."


def sentences(table: pd.DataFrame) -> list[str]:
    """How the fastest way of kdutils stands to the other programs on every case, with medians of seconds."""
    said = []
    for case, part in table[table["repeats"] > 0].groupby("case", sort=False):
        is_own = part["contender"].str.startswith("kdutils")
        if not is_own.any() or is_own.all():
            continue
        own, other = (rows.loc[rows["seconds_per_step"].idxmin()] for rows in (part[is_own], part[~is_own]))
        ratio = other["seconds_per_step"] / own["seconds_per_step"]
        said.append(
            f"{case}: a step of {own['contender']} takes {own['seconds_per_step']:.3g} s, of the fastest "
            f"other program ({other['contender']}) {other['seconds_per_step']:.3g} s, {ratio:.2f} times "
            f"that; medians of {int(part['repeats'].min())} or more steps on this machine alone."
        )
    return said


def growth_alt(table: pd.DataFrame) -> str:
    """How many times time and memory grow from the first value of each axis to the last, in words."""
    parts = []
    for (axis, name), part in table[table["repeats"] > 0].groupby(["axis", "contender"], sort=False):
        first, last = part.iloc[0], part.iloc[-1]
        times = last["seconds_per_step"] / first["seconds_per_step"]
        text = f"{axis} from {first['value']} to {last['value']}, {name}: {times:.1f} times the seconds, "
        parts.append(text + f"{first['peak_gb_above_start']:.2f} to {last['peak_gb_above_start']:.2f} GB")
    return "; ".join(parts) + "." if parts else "0 contenders ran."


def grid_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """What keeping the teacher's states saves: a row a family and number of students.

    Columns family, students, runs, `kept, s`, `never, s`, ratio (of the whole), and ratio of the training
    loops of each method.
    """
    rows = []
    for (family, students), part in table.groupby(["family", "students"], sort=False):
        by_mode = {row["mode"]: row for row in part.to_dict("records")}
        kept, never = by_mode["always"], by_mode["never"]
        row = {"family": family, "students": students, "runs": kept["runs"]}
        row |= {"kept, s": kept["seconds"], "never, s": never["seconds"]}
        row["ratio"] = never["seconds"] / kept["seconds"]
        trained = kept["training_seconds"].items()
        rows.append(row | {f"ratio, {name}": never["training_seconds"][name] / s for name, s in trained})
    return pd.DataFrame(rows)
