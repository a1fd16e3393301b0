"""From cells to what the sections compare: gains, teachers, what is shown of which source.

Every function takes a cell table (cell_table.SCHEMA) of any source and returns a tidy table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from kdutils.constants import (
    ALL_TASKS,
    AVERAGE,
    DOMAIN_TASKS,
    KD_METHODS,
    METHOD_LABELS,
    METHOD_NAMES,
    PAPER_METHODS,
    TASK_LABELS,
    TRAIN_DOMAINS,
)
from kdutils.grid import cell_table as cell_rows
from kdutils.grid import fill
from kdutils.grid.plan import Plan
from kdutils.grid.study import SELECTIONS, SOURCES
from kdutils.results import authors_tables

PAIR = ["family", "teacher", "student", "teacher_parameters", "student_parameters"]
CELL = ["source", "protocol", "domain", "task"]
MEASURES = ("agreement", "agreement_em2", "fidelity", "fidelity_bleu2")
LIKENESS = [f"{name}{of}" for name in MEASURES for of in ("", "_sft")]
GAIN_COLUMNS = ["source", "protocol", "selection", "domain", "task", *PAIR, "method", "temperature"]
GAIN_COLUMNS += ["accuracy", "accuracy_se", "sft_accuracy", "sft_accuracy_se", "seed_se", "sft_seed_se"]
GAIN_COLUMNS += ["teacher_accuracy", "gain", "gain_se", *LIKENESS]


def cells_of(plan: Plan) -> tuple[pd.DataFrame, dict[str, str]]:
    """The cells of a plan from every source of its profile, and why a source is missing.

    Live runs are those of the plan that are finished; the released results are always all of them. In a
    profile with live runs, released tables that cannot be had are a gap and not an error.

    Raises:
        authors_tables.ReleasedTablesError: if the profile has no other source and they cannot be had.
    """
    tables, gaps = [], {}
    for source in plan.profile.sources:
        try:
            tables.append(authors_tables.cells() if source == "published" else _live_cells(plan))
        except authors_tables.ReleasedTablesError as error:
            if plan.profile.live is None:
                raise
            gaps[source] = str(error)
    return pd.concat(tables, ignore_index=True), gaps


def _live_cells(plan: Plan) -> pd.DataFrame:
    if not plan.runs:
        return cell_rows.cell_table([])
    handed = fill.handed_over(plan)
    cells = handed.cells if handed else fill.live_cells(plan.runs, plan.out)
    protocols = cells.loc[cells["method"] != "base", "protocol"].unique()
    if len(protocols) == 1:  # a model as it is has no protocol: it is the baseline of whichever there is
        cells["protocol"] = protocols[0]
    return cells


def costs(plan: Plan) -> pd.DataFrame:
    """What became of each live run of a plan, and what it cost (fill.costs); empty if it trains nothing."""
    if not plan.runs:
        return pd.DataFrame()
    handed = fill.handed_over(plan)
    return handed.costs if handed else fill.costs(plan.runs, plan.out)


def by_source(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each source there is, released results first."""
    parts = {source: table[table["source"] == source] for source in SOURCES}
    return {source: part for source, part in parts.items() if len(part)}


def named(name: str, source: str) -> str:
    """The name of a figure of one source; that of the released results is the plain one."""
    return name if source == "published" else f"{name}_{source}"


def labels_of(cells: pd.DataFrame) -> dict[str, str]:
    """Names of the sources in captions: `Released`, `Live, Qwen2.5` for real models, `Live` for mini ones."""
    return cell_rows.source_labels(cells.loc[cells["source"] == "live", "family"])


def watermarks(plan: Plan) -> dict[str, str]:
    """What figures of each source carry across them; "" for real models."""
    live = plan.profile.live
    return {"published": "", "live": live.watermark if live else ""}


def n_pairs(table: pd.DataFrame) -> int:
    """How many pairs of teacher and student stand behind the rows."""
    return len(table.loc[table["teacher"] != "", ["teacher", "student"]].drop_duplicates())


def several_pairs(tables: Mapping[str, pd.DataFrame], *, least: int = 3) -> dict[str, pd.DataFrame]:
    """Of tables by source those that hold pairs enough to compare them with each other."""
    return {source: table for source, table in tables.items() if n_pairs(table) >= least}


def few_pairs_remark(
    tables: Mapping[str, pd.DataFrame], labels: Mapping[str, str], *, least: int = 3, what: str = "correlate"
) -> str:
    """A sentence for each source that `several_pairs` leaves out; "" for none."""
    sentences = []
    for source, table in tables.items():
        if (n := n_pairs(table)) < least:
            pairs = ", ".join(dict.fromkeys(pair_label(table[table["teacher"] != ""])))
            few = {0: "no pair", 1: f"one pair ({pairs})"}.get(n, f"{n} pairs ({pairs})")
            sentences.append(f"{labels[source]}: {few}: nothing to {what}.")
    return " ".join(sentences)


def tasks_of(domain: str) -> list[str]:
    """The domain's tasks in table order, and `average` as one more."""
    return [*DOMAIN_TASKS[domain], AVERAGE]


def mean_over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a cell with its seeds averaged: means and `n_seeds`, without `seed` and `flags`.

    The standard error is that of the mean when seeds are scored on the same items: it does not
    shrink with the number of seeds, because the items do not get more. `seed_se` is what another draw of the
    training seeds would change: the standard deviation over seeds, pooled over the cells of a task that
    have several, over the root of n_seeds; NaN where no cell of the task has several.
    """
    keys = [*CELL, *PAIR, "method", "teacher_tuned", "temperature", "noise_sigma"]
    grouped = cells.groupby(keys, dropna=False, sort=False)
    table = grouped[["accuracy", "accuracy_se", *LIKENESS]].mean()
    table["n_seeds"] = grouped.size()
    table["squares"] = grouped["accuracy"].var(ddof=1) * (table["n_seeds"] - 1)
    table = table.reset_index()
    several = table[table["n_seeds"] > 1].groupby(CELL)
    freedom = several["n_seeds"].sum() - several.size()
    variance = (several["squares"].sum() / freedom).rename("variance")
    table = table.merge(variance.reset_index(), on=CELL, how="left").drop(columns="squares")
    table["seed_se"] = (table.pop("variance") / table["n_seeds"]) ** 0.5
    return table


def gains(cells: pd.DataFrame, *, selection: str, methods: Iterable[str] = PAPER_METHODS) -> pd.DataFrame:
    """KD minus SFT accuracy of the same student, in points: one row a pair x method x task.

    Noise-free runs with a tuned teacher only. `gain_se` treats the two runs as independent samples of
    items; the released tables have no items, so pairing cannot be used, which makes it too wide. Where some
    runs were repeated with other seeds, it holds their variation too (mean_over_seeds).

    Args:
        selection: which temperature stands for a method. `best_on_test`, the authors' rule: the
            maximum over temperatures, for each task separately, on the test set (`average` is one
            more task: the maximum of the averages, not the average of the maxima). Temperatures are
            compared on the seeds that all of them have: a mean of several would lose against the luck of one.
            `temperature_1`: the run at temperature 1 only.
        methods: by default the three that the paper compares.

    Returns:
        GAIN_COLUMNS, sorted by domain (as in TRAIN_DOMAINS), task, teacher, student, method. Students without
        SFT and teachers without one have NaN there, and so in `gain`.

    Raises:
        ValueError: for an unknown selection.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"unknown selection {selection!r}; choose one of {list(SELECTIONS)}")
    table = mean_over_seeds(of_common_seeds(cells) if selection == "best_on_test" else cells)
    is_plain = table["teacher_tuned"].fillna(False) & (table["noise_sigma"] == 0.0)
    runs = table[table["method"].isin(list(methods)) & is_plain]
    if selection == "temperature_1":
        runs = runs[runs["temperature"] == 1.0]
    group = [*CELL, "teacher", "student", "method"]
    best = in_domain_order(runs.loc[runs.groupby(group, sort=True)["accuracy"].idxmax()])
    sft = table.loc[table["method"] == "sft"]
    own = ["accuracy", "accuracy_se", "seed_se"]
    student = sft[[*CELL, "student", *own]].rename(columns={name: f"sft_{name}" for name in own})
    first_seed = cells[cells["method"] == "sft"].sort_values("seed").drop_duplicates([*CELL, "student"])
    names = {"student": "teacher", "accuracy": "teacher_accuracy"}
    teacher = first_seed[[*CELL, "student", "accuracy"]].rename(columns=names)  # the run of seed 0 teaches
    out = best.merge(student, on=[*CELL, "student"], how="left", validate="many_to_one")
    out = out.merge(teacher, on=[*CELL, "teacher"], how="left", validate="many_to_one")
    out["gain"] = out["accuracy"] - out["sft_accuracy"]
    errors = out[["accuracy_se", "sft_accuracy_se"]].pow(2).sum(axis=1, skipna=False)
    errors += out[["seed_se", "sft_seed_se"]].fillna(0.0).pow(2).sum(axis=1)
    out["gain_se"] = errors**0.5
    out["selection"] = selection
    return out[GAIN_COLUMNS]


def of_common_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells without noise-free runs of seeds that other temperatures of their pair and method lack."""
    group = [*CELL, "teacher", "student", "method", "teacher_tuned"]
    is_plain = (cells["teacher"] != "") & (cells["noise_sigma"] == 0.0)
    plain = cells[is_plain]
    n_temperatures = plain.groupby(group, dropna=False)["temperature"].transform("nunique")
    n_of_seed = plain.groupby([*group, "seed"], dropna=False)["temperature"].transform("nunique")
    return cells.drop(plain.index[n_of_seed < n_temperatures])


def pair_label(table: pd.DataFrame) -> pd.Series:
    """Short names of teacher-student pairs: `Qwen 14B→0.5B`."""
    names = {side: table[side].map(cell_rows.short_name) for side in ("teacher", "student")}
    sizes = [names[side].str.rsplit("-", n=1).str[-1] for side in ("teacher", "student")]
    return names["student"].str.extract(r"^(mini-[a-z]+|[A-Za-z]+)")[0] + " " + sizes[0] + "→" + sizes[1]


def averages(gain_table: pd.DataFrame) -> pd.DataFrame:
    """Gains on the domain averages, smallest students first, with the `pair` as a short label."""
    by, table = ["student_parameters", "teacher_parameters"], gain_table[gain_table["task"] == AVERAGE]
    table = table.sort_values(by, kind="stable", ignore_index=True)
    return table.assign(pair=pair_label(table))


def parse_failures(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, texts without an answer and texts cut off, percent: a row a domain x method.

    Means over runs at temperature 1 without noise, of a tuned teacher where there is one, and over tasks, and
    over their students before KD; no rows where texts were not released.
    """
    runs = cells[(cells["task"] == AVERAGE) & cells["unparsed"].notna() & (cells["noise_sigma"] == 0.0)]
    is_plain = (runs["temperature"] == 1.0) & runs["teacher_tuned"].fillna(False)
    students = set(runs.loc[is_plain, "student"]) or set(runs["student"])
    runs = runs[is_plain | ((runs["teacher"] == "") & runs["student"].isin(students))]
    by = runs.groupby(["domain", "method"], sort=False)
    table = by[["accuracy", "unparsed", "truncated"]].mean().assign(runs=by.size()).reset_index()
    table = in_domain_order(in_method_order(table)).reset_index(drop=True)
    return table.assign(method=table["method"].map(METHOD_LABELS))


def in_domain_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by domain, as in TRAIN_DOMAINS; within a domain as they were."""
    return table.sort_values("domain", key=lambda domain: domain.map(TRAIN_DOMAINS.index), kind="stable")


def in_method_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by method, as in METHOD_LABELS; those of one method as they were."""
    order = list(METHOD_LABELS).index
    return table.sort_values("method", key=lambda method: method.map(order), kind="stable")


def in_task_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by family, student size and task (as in ALL_TASKS, the average last), with the task's `label`."""
    places = table["task"].map([*ALL_TASKS, AVERAGE].index)
    ordered = table.assign(place=places, label=table["task"].map(TASK_LABELS))
    by = ["family", "student_parameters", "place"]
    return ordered.sort_values(by, kind="stable", ignore_index=True).drop(columns="place")


def gain_by_teacher(average_gains: pd.DataFrame) -> pd.DataFrame:
    """Average gains of students with several teachers: a row a domain x student x method.

    Small students first; no rows if every student has one teacher.
    """
    several = average_gains.groupby("student")["teacher"].transform("nunique") > 1
    table = average_gains[several].sort_values("teacher_parameters", kind="stable")
    keys = ["domain", "student_parameters", "student", "method"]
    if table.empty:
        return table[keys].drop(columns="student_parameters")
    wide = table.pivot_table(index=keys, columns="teacher", values="gain")[table["teacher"].unique()]
    return wide.reset_index().rename_axis(columns=None).drop(columns="student_parameters")


def within_student(average_gains: pd.DataFrame) -> pd.DataFrame:
    """Average gains of students with several teachers, less the mean over those teachers.

    The rows with columns `teacher_within` (the teacher's accuracy less the mean of the student's teachers)
    and `gain_within`, points, both within a domain x student x method that has several teachers.
    """
    table = average_gains.dropna(subset=["gain", "teacher_accuracy"])
    keys = ["source", "protocol", "domain", "student", "method"]
    table = table[table.groupby(keys)["teacher"].transform("nunique") > 1]
    means = table.groupby(keys)[["teacher_accuracy", "gain"]].transform("mean")
    within = table[["teacher_accuracy", "gain"]] - means
    return table.assign(teacher_within=within["teacher_accuracy"], gain_within=within["gain"])


def teacher_tuning(cells: pd.DataFrame) -> pd.DataFrame:
    """The same distillation (forward KL, temperature 1) from the tuned and from the untuned teacher.

    One row a pair x task that has both: `tuned`, `untuned`, `cost` (their difference, points), and
    `teacher_base`, the untuned teacher's own accuracy.
    """
    table = mean_over_seeds(cells)
    runs = table[(table["method"] == "fkl") & (table["temperature"] == 1.0) & (table["noise_sigma"] == 0.0)]
    keys = [*CELL, *PAIR]
    both = runs.pivot_table(index=keys, columns="teacher_tuned", values="accuracy", sort=False)
    if False not in both.columns or True not in both.columns:
        return pd.DataFrame(columns=[*keys, "tuned", "untuned", "cost", "teacher_base"])
    both = both.rename(columns={True: "tuned", False: "untuned"}).dropna().reset_index()
    both = both.rename_axis(columns=None).assign(cost=both["tuned"] - both["untuned"])
    base = table.loc[table["method"] == "base", ["source", "domain", "task", "student", "accuracy"]]
    base = base.rename(columns={"student": "teacher", "accuracy": "teacher_base"})
    return both.merge(base, on=["source", "domain", "task", "teacher"], how="left")


def coverage(cells: pd.DataFrame) -> pd.DataFrame:
    """How many runs there are of each kind: rows (index) pairs; columns method x temperature.

    A run is counted once however many tasks it was scored on.
    """
    runs = cells[cells["task"] != AVERAGE].drop_duplicates(
        ["domain", "teacher", "student", "method", "teacher_tuned", "temperature", "noise_sigma", "seed"]
    )
    kd = runs[runs["teacher"] != ""].copy()
    kd["pair"] = kd["teacher"] + " → " + kd["student"]
    kd["column"] = kd["method"].map(METHOD_NAMES) + ", T = " + kd["temperature"].map("{:g}".format)
    others = {"untuned teacher": ~kd["teacher_tuned"].astype(bool), "noisy teacher": kd["noise_sigma"] > 0}
    plain = kd[~others["untuned teacher"] & ~others["noisy teacher"]].assign(
        place=lambda rows: rows["method"].map(KD_METHODS.index)
    )
    columns = list(plain.sort_values(["place", "temperature"])["column"].unique())
    for name, rows in others.items():
        kd.loc[rows, "column"] = name
        columns += [name] * bool(rows.any())
    counts = kd.pivot_table(index="pair", columns="column", values="seed", aggfunc="size", fill_value=0)
    order = kd.sort_values(["family", "teacher_parameters", "student_parameters"])["pair"].unique()
    return counts.reindex(index=order, columns=columns, fill_value=0).rename_axis(columns=None)


def in_view(table: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The rows of the domains and tasks that a plan asks to see; of the averages, all of its domains."""
    return table[_kept(table["domain"], plan, "domains") & _kept(table["task"], plan, "tasks")]


def _kept(values: pd.Series, plan: Plan, field: str) -> pd.Series:
    """Which values a plan asks to see; of tasks also the average."""
    return values.isin([value for value in {*values} if value == AVERAGE or plan.shown.keeps(field, value)])


def restrict(cells: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The cells that a plan asks to see.

    SFT and base rows of the students and teachers shown stay whatever the methods: they are the baselines.
    """
    cells = in_view(cells, plan)
    is_kd = cells["method"].isin(KD_METHODS)
    kept = ~is_kd | _kept(cells["method"], plan, "methods")
    if plan.shown.students or plan.shown.teachers:
        is_pair = is_kd & _kept(cells["teacher"], plan, "teachers")
        is_pair &= _kept(cells["student"], plan, "students")
        models = cells.loc[is_pair, ["student", "teacher"]].to_numpy().ravel()
        kept &= cells["student"].isin(models) & (~is_kd | is_pair)
    return cells[kept].reset_index(drop=True)
