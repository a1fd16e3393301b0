"""From cells to what the sections compare: gains, teachers, what is shown of which source.

Every function takes a cell table (cell_table.SCHEMA) of any source and returns a tidy table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from kdutils.constants import AVERAGE, KD_METHODS, METHOD_LABELS, METHOD_NAMES, PAPER_METHODS, TASK_LABELS
from kdutils.grid import cell_table as cell_rows
from kdutils.grid import fill
from kdutils.grid.plan import Plan
from kdutils.grid.study import SELECTIONS, SOURCES, UNFORMATTED, place_of
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import authors_tables

PAIR = ["family", "teacher", "student", "teacher_parameters", "student_parameters"]
CELL = ["source", "protocol", "domain", "task"]
NO_PROTOCOL = ["source", "domain", "task"]  # of a model as it is
MEASURES = ("agreement", "agreement_em2", "fidelity", "fidelity_bleu2")
LIKENESS = [f"{name}{of}" for name in MEASURES for of in ("", "_sft")]
GAIN_COLUMNS = ["source", "protocol", "selection", "domain", "task", *PAIR, "method", "temperature"]
GAIN_COLUMNS += ["accuracy", "accuracy_se", "sft_accuracy", "sft_accuracy_se", "seed_se", "sft_seed_se"]
GAIN_COLUMNS += ["teacher_accuracy", "gain", "gain_se", *LIKENESS]


def cells_of(plan: Plan) -> pd.DataFrame:
    """The cells of a plan from every source of its profile.

    Live runs are those of the plan that are finished; the released results are always all of them.
    """
    of_source = {"published": authors_tables.cells, "live": lambda: live_cells(plan)}
    return pd.concat([of_source[source]() for source in plan.profile.sources], ignore_index=True)


def live_cells(plan: Plan) -> pd.DataFrame:
    """The finished live runs of a plan; without ranked options where only other sections rank them."""
    cells = fill.live_cells(plan.runs, plan.out)
    if not (plan.profile.live and plan.profile.live.ranks):
        cells = cells.assign(accuracy_ranked=math.nan, accuracy_ranked_normalised=math.nan)
    protocols = cells.loc[cells["method"] != "base", "protocol"].unique()
    if len(protocols) == 1:  # a model as it is has no protocol: it is the baseline of whichever there is
        cells["protocol"] = protocols[0]
    return cells


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


def plain(
    runs: pd.DataFrame, *, methods: Iterable[str] = KD_METHODS, temperature: float | None = 1.0
) -> pd.DataFrame:
    """Rows of cells or items from KD of a tuned teacher without noise, at one temperature; None: at any."""
    is_plain = runs["method"].isin(list(methods)) & runs["teacher_tuned"].eq(True).fillna(False)
    is_plain &= runs["noise_sigma"] == 0.0
    return runs[is_plain if temperature is None else is_plain & (runs["temperature"] == temperature)]


def mean_over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a cell with its seeds averaged: means and `n_seeds`, without `seed` and `flags`.

    `unformatted` says whether a seed has the flag format_not_learned, where any cell has it. The standard
    error is that of the mean when seeds are scored on the same items: it does not shrink with the number of
    seeds, because the items do not get more. `seed_se` is what another draw of the training seeds would
    change: the standard deviation over seeds, pooled over the cells of a task that have several, over the
    root of n_seeds; NaN where no cell of the task has several. Raises ValueError for several decodings.
    """
    if (cells.groupby(["source", "protocol"])["decoding"].nunique() > 1).any():
        raise ValueError("cells hold several decodings of one protocol: keep those of one decoding")
    keys = [*CELL, *PAIR, "method", "teacher_tuned", "temperature", "noise_sigma"]
    grouped = cells.groupby(keys, dropna=False, sort=False)
    table = grouped[["accuracy", "accuracy_se", *LIKENESS]].mean()
    table["n_seeds"] = grouped.size()
    if (flagged := cell_rows.has_flag(cells, "format_not_learned")).any():
        table[UNFORMATTED] = flagged.groupby([cells[name] for name in keys], dropna=False, sort=False).any()
    table["squares"] = grouped["accuracy"].var(ddof=1) * (table["n_seeds"] - 1)
    table = table.reset_index()
    several = table[table["n_seeds"] > 1].groupby(CELL)
    freedom = several["n_seeds"].sum() - several.size()
    variance = (several["squares"].sum() / freedom).rename("variance")
    table = table.drop(columns="squares").join(variance, on=CELL)
    table["seed_se"] = (table.pop("variance") / table["n_seeds"]) ** 0.5
    return table


def gains(cells: pd.DataFrame, *, selection: str, methods: Iterable[str] = PAPER_METHODS) -> pd.DataFrame:
    """KD minus SFT accuracy of the same student, in points: one row a pair x method x task.

    Noise-free runs with a tuned teacher only. `gain_se` treats the two runs as independent samples of
    items; the released tables have no items, so pairing cannot be used, which makes it too wide. Where some
    runs were repeated with other seeds, it holds their variation too (mean_over_seeds).

    Args:
        selection: which temperature stands for a method. `best_on_test`, the authors' rule: the maximum over
            temperatures, for each task separately, on the test set (`average` is one more task), of the seeds
            that all temperatures have: a mean of several would lose against the luck of one.
            `temperature_1`: the run at temperature 1 only.

    Returns:
        GAIN_COLUMNS, sorted by domain (as in constants), task, teacher, student, method. Students without
        SFT and teachers without one have NaN there, and so in `gain`. SFT is a mean over all its seeds, one
        baseline for all runs of a student. `unformatted` (mean_over_seeds) is that of the KD or the SFT
        student.

    Raises:
        ValueError: for an unknown selection.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"unknown selection {selection!r}; choose one of {list(SELECTIONS)}")
    table = mean_over_seeds(of_common_seeds(cells) if selection == "best_on_test" else cells)
    runs = plain(table, methods=methods, temperature=1.0 if selection == "temperature_1" else None)
    group = [*CELL, "teacher", "student", "method"]
    best = in_domain_order(runs.loc[runs.groupby(group)["accuracy"].idxmax()])
    marks, sft = table.columns.intersection([UNFORMATTED]), table[table["method"] == "sft"]
    sft = sft.set_index([*CELL, "student"])[["accuracy", "accuracy_se", "seed_se", *marks]].add_prefix("sft_")
    first = cells.sort_values("seed").drop_duplicates([*CELL, "student", "method"])  # that of seed 0 teaches
    out = best.join(sft, on=[*CELL, "student"], validate="many_to_one")
    out = with_accuracy(out, first, "sft", of="teacher", name="teacher_accuracy").reset_index(drop=True)
    errors = out[["accuracy_se", "sft_accuracy_se"]].pow(2).sum(axis=1, skipna=False)
    errors += out[["seed_se", "sft_seed_se"]].fillna(0.0).pow(2).sum(axis=1)
    out = out.assign(gain=out["accuracy"] - out["sft_accuracy"], gain_se=errors**0.5, selection=selection)
    either = {mark: out[mark] | out[f"sft_{mark}"].eq(True) for mark in marks}
    return out.assign(**either)[[*GAIN_COLUMNS, *marks]]


def with_accuracy(
    runs: pd.DataFrame, cells: pd.DataFrame, method: str, *, of: str, name: str, where: Sequence[str] = CELL
) -> pd.DataFrame:
    """Runs with the accuracy, as column `name`, of their student or teacher (`of`) by that method."""
    known = cells[cells["method"] == method].set_index([*where, "student"])["accuracy"].rename(name)
    return runs.join(known, on=[*where, of])


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


def interval_text(
    value: float, low: float = math.nan, high: float = math.nan, *, digits: int = 1, signed: bool = True
) -> str:
    """`+1.2 [−0.3, +2.7]`; without bounds that are not known."""
    return Estimate(value, low, high).text(digits, signed=signed).replace("-", "−")


def wide(rows: pd.DataFrame, *, index: list[str], columns: str, values: str) -> pd.DataFrame:
    """A row a group of `index` and a column a value of `columns`, both in order of appearance."""
    order = pd.MultiIndex.from_frame(rows[index].drop_duplicates())
    table = rows.pivot(index=index, columns=columns, values=values)
    return table.loc[order, rows[columns].unique()].reset_index().rename_axis(columns=None)


def mean_intervals(rows: pd.DataFrame, by: list[str], *values: str) -> pd.DataFrame:
    """Means of `values` in each group of `by`, and of the last Student's t interval: low, high, n."""
    table = []
    for group, part in rows.groupby(by, sort=False):
        found = intervals.mean_interval(part[values[-1]])
        means = (part[name].mean() for name in values[:-1])
        table.append((*group, *means, *found.bounds, found.n))
    return pd.DataFrame(table, columns=[*by, *values, "low", "high", "n"])


def averages(gain_table: pd.DataFrame) -> pd.DataFrame:
    """Gains on the domain averages, smallest students first, with the `pair` as a short label."""
    by, table = ["student_parameters", "teacher_parameters"], gain_table[gain_table["task"] == AVERAGE]
    table = table.sort_values(by, kind="stable", ignore_index=True)
    return table.assign(pair=pair_label(table))


def in_domain_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by domain, as in constants; within a domain as they were."""
    return table.sort_values("domain", key=lambda domain: domain.map(place_of), kind="stable")


def in_method_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by method, as in METHOD_LABELS; those of one method as they were."""
    order = list(METHOD_LABELS).index
    return table.sort_values("method", key=lambda method: method.map(order), kind="stable")


def in_task_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by family, student size and task (as in constants, the average last), with the task's `label`."""
    ordered = table.assign(place=table["task"].map(place_of), label=table["task"].map(TASK_LABELS))
    by = ["family", "student_parameters", "place"]
    return ordered.sort_values(by, kind="stable", ignore_index=True).drop(columns="place")


def within_student(average_gains: pd.DataFrame) -> pd.DataFrame:
    """Average gains of students with several teachers, less the mean over those teachers, in points.

    Adds `teacher_within` (the teacher's accuracy less the mean of the student's teachers) and `gain_within`,
    both within a domain x student x method.
    """
    table = average_gains.dropna(subset=["gain", "teacher_accuracy"])
    keys = ["source", "protocol", "domain", "student", "method"]
    table = table[table.groupby(keys)["teacher"].transform("nunique") > 1]
    means = table.groupby(keys)[["teacher_accuracy", "gain"]].transform("mean")
    teacher, gain = table["teacher_accuracy"] - means["teacher_accuracy"], table["gain"] - means["gain"]
    return table.assign(teacher_within=teacher, gain_within=gain)


def teacher_tuning(cells: pd.DataFrame) -> pd.DataFrame:
    """The same distillation (forward KL, temperature 1) from the tuned and from the untuned teacher.

    One row a pair x task that has both: `tuned`, `untuned`, `cost` (their difference, points), and
    `teacher_base`, the untuned teacher's own accuracy.
    """
    keys, table, runs = [*CELL, *PAIR], mean_over_seeds(cells), mean_over_seeds(tuned_and_untuned(cells))
    both = runs.pivot_table(index=keys, columns="teacher_tuned", values="accuracy", sort=False)
    both = both.reindex(columns=[True, False]).set_axis(["tuned", "untuned"], axis=1).dropna().reset_index()
    both = both.assign(cost=both["tuned"] - both["untuned"])
    return with_accuracy(both, table, "base", of="teacher", name="teacher_base", where=NO_PROTOCOL)


def tuned_and_untuned(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells of forward KL, at temperature 1 and without noise, whose pair and seed have both teachers."""
    runs = cells[(cells["method"] == "fkl") & (cells["temperature"] == 1.0) & (cells["noise_sigma"] == 0.0)]
    return runs[runs.groupby([*CELL, *PAIR, "seed"])["teacher_tuned"].transform("nunique") > 1]


def coverage(cells: pd.DataFrame) -> pd.DataFrame:
    """How many runs there are of each kind: rows (index) pairs; columns method x temperature.

    A run is counted once however many tasks it was scored on.
    """
    runs = cells[cells["task"] != AVERAGE].drop_duplicates(
        ["domain", "teacher", "student", "method", "teacher_tuned", "temperature", "noise_sigma", "seed"]
    )
    kd = runs[runs["teacher"] != ""]
    column = kd["method"].map(METHOD_NAMES) + ", T = " + kd["temperature"].map("{:g}".format)
    place, pair = kd["method"].map(KD_METHODS.index), kd["teacher"] + " → " + kd["student"]
    kd = kd.assign(pair=pair, column=column, place=place)
    kd.loc[~kd["teacher_tuned"].astype(bool), ["column", "place"]] = "untuned teacher", 98
    kd.loc[kd["noise_sigma"] > 0, ["column", "place"]] = "noisy teacher", 99
    counts = kd.pivot_table(index="pair", columns="column", values="seed", aggfunc="size", fill_value=0)
    columns = kd.sort_values(["place", "temperature"])["column"].unique()
    order = kd.sort_values(["family", "teacher_parameters", "student_parameters"])["pair"].unique()
    return counts.reindex(index=order, columns=columns).rename_axis(columns=None)


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
