"""What notebook 09 shows: measurements that are made where they are missing, and kept with when and where."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.bench import peers, side_by_side, whole_runs, workloads
from kdutils.bench.kd_steps import ONLINE
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
SHOWN = {  # the columns of that table -> name and format
    "case": ("case", ""),
    "contender": ("program", ""),
    "seconds_per_step": ("seconds a step", ".3g"),
    "times_faster": ("times faster", ".2f"),
    "tokens_per_second": ("tokens a second", ",.0f"),
    "cores_busy": ("cores busy", ".2f"),
    "peak_gb_above_start": ("GB above start", ".3f"),
    "of_its_memory": ("memory, of the first row's", ".3f"),
    "start_gb": ("GB at start", ".3f"),
    "loss": ("loss, nats", ".6f"),
    "loss_apart": ("loss apart, nats", ".1e"),
    "same_loss": ("same loss", ""),
    "repeats": ("repeats", ""),
    "reason": ("reason", ""),
}
EVALUATION = (
    "## Evaluation\n\nThe authors generate one text at a time and without a KV cache. Greedy here, so that "
    "the texts can be compared; same questions, same limit of 96 tokens."
)
GRIDS = (
    "Students of the mini family (0.11 to 0.39 million parameters) by three methods at three temperatures "
    "from one teacher that is not tuned, 256 items, 3 epochs, made by the grid as any other runs. The states "
    "are written once, by whichever run needs them first, and that time is part of the grid's. Half of GKD's "
    "steps are on the student's own samples, for which nothing can be kept."
)
COLUMNS = [  # of performance.csv
    *("case", "contender", "seconds_per_step", "tokens_per_second", "peak_gb_above_start", "loss", "repeats")
]


class Performance:
    """The measurements of one profile."""

    def __init__(self, folder: Path, *, measure: str = "missing") -> None:
        self.folder = Path(folder)
        self.record = Record(self.folder / "performance.json", __name__, measure)
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
            part, settings = f"case {name}", {"contenders": names, "repeats": repeats}
            case = workloads.case_of(name)
            make = partial(side_by_side.measure, [case], names, repeats=repeats)
            if name in cases:
                rows += self._part(part, settings, make)
            elif self.record.has(part, settings):  # shown as it is, never measured again
                rows += Record(self.record.path, __name__).part(part, settings, make)
                self._parts[part] = False
        self.rows += rows
        return side_by_side.table(rows)

    def grids(self, families: Sequence[str], n_students: Sequence[int]) -> pd.DataFrame:
        """Rows of whole_runs.compare_grids: each family by number of students and mode."""
        found = []
        for family in families:
            make = partial(whole_runs.compare_grids, family, n_students)
            found.append(self._table(f"grid {family}", {"students": list(n_students)}, make))
        return pd.concat(found, ignore_index=True)

    def evaluation(self, n_items: int, *, repeats: int) -> pd.DataFrame:
        """Rows of whole_runs.compare_evaluation."""
        make = partial(whole_runs.compare_evaluation, n_items, repeats=repeats)
        return self._table("evaluation", {"items": n_items, "repeats": repeats}, make)

    def write(self) -> Path:
        """performance.csv of all that was asked for, in `folder`."""
        table = pd.DataFrame(self.rows).reindex(columns=COLUMNS)
        return disk.write_csv(self.folder / "performance.csv", table)

    def measured(self) -> pd.DataFrame:
        """When each part was measured, and whether just now."""
        return pd.DataFrame(
            {"part": name, "measured": self.record.measured(name), "now": "now" if is_new else "kept"}
            for name, is_new in self._parts.items()
        )

    def _table(self, name: str, settings: dict[str, Any], make: Callable[[], Any]) -> pd.DataFrame:
        rows = self._part(name, settings, make)
        self.rows += rows
        return pd.DataFrame(rows)

    def _part(self, name: str, settings: dict[str, Any], make: Callable[[], Any]) -> Any:
        self._parts[name] = self.record.measure == "again" or not self.record.has(name, settings)
        return self.record.part(name, settings, make)


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
    mini = model_shapes.architecture_of(workloads.MINI_TEACHER)
    grids = (
        ("mini", mini, whole_runs.STUDENTS["mini"]),
        ("deep teacher", whole_runs.DEEP, whole_runs.STUDENTS["deep teacher"]),
        ("Qwen2.5-14B, not made here", model_shapes.SHAPES["Qwen2.5-14B"], real),
    )
    return pd.DataFrame(
        {"grid": grid, "student": student, "ratio": ratio(student, teacher)}
        for grid, teacher, students in grids
        for student in students
    )


def surroundings() -> pd.DataFrame:
    """What the measurements hang on: columns what, value."""
    facts = cache.surroundings(__name__, of_machine=True)
    facts |= facts.pop("packages")
    return pd.DataFrame(
        {"what": facts.keys(), "value": [str(value or "missing") for value in facts.values()]}
    )


def shown(table: pd.DataFrame) -> dict[str, Any]:
    """`frame` and `formats` of a comparison with its columns in words, for Report.table."""
    formats = dict(SHOWN.values())
    return {"frame": table.reindex(columns=list(SHOWN)).set_axis(list(formats), axis=1), "formats": formats}


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
        without = "".join(
            f"kdutils without cached states {seconds:.3g} s, {seconds / other['seconds_per_step']:.2f} times "
            f"that of {other['contender']}; "
            for seconds in part.loc[part["contender"] == ONLINE, "seconds_per_step"]
            if own["contender"] != ONLINE
        )
        said.append(
            f"{case}: a step of {own['contender']} takes {own['seconds_per_step']:.3g} s, of the fastest "
            f"other program ({other['contender']}) {other['seconds_per_step']:.3g} s, {ratio:.2f} times "
            f"that; {without}medians of {int(part['repeats'].min())} or more steps on this machine alone."
        )
    return said


def grid_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """What keeping the teacher's states saves: a row a family and number of students.

    Columns family, students, runs, `kept, s`, `never, s`, ratio (of the whole), and ratio of the training
    loops of each method.
    """
    rows = []
    for (family, students), part in table.groupby(["family", "students"], sort=False):
        by_mode = part.set_index("mode")
        kept, never = by_mode.loc["always"], by_mode.loc["never"]
        row = {"family": family, "students": students, "runs": kept["runs"]}
        row |= {"kept, s": kept["seconds"], "never, s": never["seconds"]}
        row["ratio"] = never["seconds"] / kept["seconds"]
        for name, seconds in kept["training_seconds"].items():
            row[f"ratio, {name}"] = never["training_seconds"][name] / seconds
        rows.append(row)
    return pd.DataFrame(rows)
