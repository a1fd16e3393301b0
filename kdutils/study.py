"""From cells to what the sections compare: gains, likeness, temperature and teacher contrasts.

Every function takes a cell table (cells.SCHEMA) of any source and returns a tidy table.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kdutils import published, store
from kdutils.spec import (
    AVERAGE,
    DOMAIN_TASKS,
    DOMAINS,
    KD_METHODS,
    METHOD_LABELS,
    SELECTIONS,
    SOURCE_LABELS,
    SOURCES,
    TASK_LABELS,
    TASKS,
    Live,
    load_profile,
)

PAIR = ["family", "teacher", "student", "teacher_parameters", "student_parameters"]
LIKENESS = [
    "agreement",
    "agreement_sft",
    "agreement_em2",
    "agreement_em2_sft",
    "fidelity",
    "fidelity_sft",
    "fidelity_bleu2",
    "fidelity_bleu2_sft",
]
GAIN_COLUMNS = [
    "source",
    "protocol",
    "selection",
    "domain",
    "task",
    *PAIR,
    "method",
    "temperature",
    "accuracy",
    "accuracy_se",
    "sft_accuracy",
    "sft_accuracy_se",
    "teacher_accuracy",
    "gain",
    "gain_se",
    *LIKENESS,
]


def cells_of(profile: str, out: Path | str = store.OUTPUTS) -> pd.DataFrame:
    """All cells of a profile, from every source it names.

    Args:
        out: where live runs are kept; a relative path is taken from the repository.

    Raises:
        ValueError: for an unknown profile.
        published.ReleasedTablesError: if the profile reads the released tables and they cannot be had.
    """
    chosen = load_profile(profile)
    readers = {"published": published.cells, "live": lambda: _live_cells(chosen.live, out)}
    return pd.concat([readers[source]() for source in chosen.sources], ignore_index=True)


def _live_cells(live: Live, out: Path | str) -> pd.DataFrame:
    from kdutils import grid  # loads torch, which a profile without training does not need

    return grid.live_cells(live, store.REPOSITORY / out)


def costs(profile: str, out: Path | str = store.OUTPUTS) -> pd.DataFrame:
    """What the live runs of a profile cost (grid.costs); empty for one that trains nothing."""
    live = load_profile(profile).live
    if live is None:
        return pd.DataFrame()
    from kdutils import grid  # as above

    return grid.costs(live, store.REPOSITORY / out)


def by_source(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each source there is, released results first."""
    return {
        source: table[table["source"] == source] for source in SOURCES if (table["source"] == source).any()
    }


def named(name: str, source: str) -> str:
    """The name of a figure of one source; that of the released results is the plain one."""
    return name if source == "published" else f"{name}_{source}"


def labelled(text: str, source: str) -> str:
    """A caption or remark that says which results it is about: `Released: ...`."""
    return f"{SOURCE_LABELS[source]}: {text}"


def watermarks(profile: str) -> dict[str, str]:
    """What figures of each source carry across them; "" for real models."""
    live = load_profile(profile).live
    return {"published": "", "live": live.watermark if live else ""}


def tasks_of(domain: str) -> list[str]:
    """The domain's tasks in table order, and `average` as one more."""
    return [*DOMAIN_TASKS[domain], AVERAGE]


def mean_over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a cell with its seeds averaged: `n_seeds` beside the means, `seed` and `flags` dropped.

    The standard error is that of the mean when seeds are scored on the same items: it does not
    shrink with the number of seeds, because the items do not get more.
    """
    keys = [
        "source",
        "protocol",
        "domain",
        "task",
        *PAIR,
        "method",
        "teacher_tuned",
        "temperature",
        "noise_sigma",
    ]
    grouped = cells.groupby(keys, dropna=False, sort=False)
    table = grouped[["accuracy", "accuracy_se", *LIKENESS]].mean()
    table["n_seeds"] = grouped.size()
    return table.reset_index()


def gains(cells: pd.DataFrame, *, selection: str) -> pd.DataFrame:
    """KD minus SFT accuracy of the same student, in points: one row a pair x method x task.

    Noise-free runs with a tuned teacher only. `gain_se` treats the two runs as independent samples of
    items; the released tables have no items, so pairing cannot be used, which makes it too wide.

    Args:
        selection: which temperature stands for a method. `best_on_test`, the authors' rule: the
            maximum over temperatures, for each task separately, on the test set (`average` is one
            more task: the maximum of the averages, not the average of the maxima).
            `temperature_1`: the run at temperature 1 only.

    Returns:
        GAIN_COLUMNS, sorted by domain (as in DOMAINS), task, teacher, student, method. Students without SFT
        and teachers without one have NaN there, and so in `gain`.

    Raises:
        ValueError: for an unknown selection.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"unknown selection {selection!r}; choose one of {list(SELECTIONS)}")
    table = mean_over_seeds(cells)
    runs = table[table["method"].isin(KD_METHODS) & table["teacher_tuned"].fillna(False)]
    runs = runs[runs["noise_sigma"] == 0.0]
    if selection == "temperature_1":
        runs = runs[runs["temperature"] == 1.0]
    group = ["source", "protocol", "domain", "task", "teacher", "student", "method"]
    best = runs.loc[runs.groupby(group, sort=True)["accuracy"].idxmax()].sort_values(
        "domain", key=lambda domain: domain.map(DOMAINS.index), kind="stable"
    )
    sft = table.loc[table["method"] == "sft"]
    where = ["source", "protocol", "domain", "task"]
    student = sft[[*where, "student", "accuracy", "accuracy_se"]].rename(
        columns={"accuracy": "sft_accuracy", "accuracy_se": "sft_accuracy_se"}
    )
    teacher = sft[[*where, "student", "accuracy"]].rename(
        columns={"student": "teacher", "accuracy": "teacher_accuracy"}
    )
    out = best.merge(student, on=[*where, "student"], how="left", validate="many_to_one")
    out = out.merge(teacher, on=[*where, "teacher"], how="left", validate="many_to_one")
    out["gain"] = out["accuracy"] - out["sft_accuracy"]
    out["gain_se"] = (out["accuracy_se"] ** 2 + out["sft_accuracy_se"] ** 2) ** 0.5
    out["selection"] = selection
    return out[GAIN_COLUMNS]


def pair_label(table: pd.DataFrame) -> pd.Series:
    """Short names of teacher-student pairs: `Qwen 14B→0.5B`."""
    sizes = [table[side].str.rsplit("-", n=1).str[-1] for side in ("teacher", "student")]
    return table["student"].str.extract(r"^(mini-[a-z]+|[A-Za-z]+)")[0] + " " + sizes[0] + "→" + sizes[1]


def averages(gain_table: pd.DataFrame) -> pd.DataFrame:
    """Gains on the domain averages, smallest students first, with the `pair` as a short label."""
    table = gain_table[gain_table["task"] == AVERAGE]
    table = table.sort_values(["student_parameters", "teacher_parameters"], kind="stable")
    return table.assign(pair=pair_label(table)).reset_index(drop=True)


def in_task_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by family, student size and task (as in spec, the average last), with the task's `label`."""
    order = {task: index for index, task in enumerate((*TASKS, AVERAGE))}
    ordered = table.assign(place=table["task"].map(order), label=table["task"].map(TASK_LABELS))
    ordered = ordered.sort_values(["family", "student_parameters", "place"], kind="stable")
    return ordered.drop(columns="place").reset_index(drop=True)


def likeness(gain_table: pd.DataFrame) -> pd.DataFrame:
    """Agreement and fidelity of the SFT and of the KD student, one row a pair x task x student kind.

    The released values are one per pair and kind, so the methods are not told apart: `kind` is
    `sft` or `kd`, and `accuracy` is the SFT student's or the mean over the methods' students.
    """
    keys = ["source", "domain", "task", *PAIR]
    rows = []
    for kind, suffix, accuracy in (("sft", "_sft", "sft_accuracy"), ("kd", "", "accuracy")):
        columns = {"accuracy": accuracy}
        columns |= {name: name + suffix for name in LIKENESS if not name.endswith("_sft")}
        grouped = gain_table.groupby(keys, sort=False)[list(columns.values())].mean()
        grouped.columns = list(columns)
        rows.append(grouped.reset_index().assign(kind=kind))
    return pd.concat(rows, ignore_index=True)


def likeness_by_pair(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Mean over tasks of a likeness (a column of LIKENESS) by pair: columns domain, pair, sft, kd, rise."""
    table = likeness(gain_table).dropna(subset=[measure])
    keys = ["domain", "teacher", "student", "student_parameters", "teacher_parameters"]
    table = table.groupby([*keys, "kind"], sort=False)[measure].mean().unstack("kind").reset_index()
    table = table.sort_values(["student_parameters", "teacher_parameters"], kind="stable")
    table = table.assign(pair=pair_label(table), rise=table["kd"] - table["sft"])
    return table.rename_axis(columns=None).reset_index(drop=True)


def likeness_tables(gain_table: pd.DataFrame, *, measures: dict[str, str]) -> pd.DataFrame:
    """`likeness_by_pair` of several measures, stacked: the keys of `measures` stand in the column `table`."""
    parts = [likeness_by_pair(gain_table, measure=name).assign(table=key) for key, name in measures.items()]
    return pd.concat(parts, ignore_index=True)


def agreement_with(gain_table: pd.DataFrame, *, teacher: str, tasks: list[str]) -> pd.DataFrame:
    """Agreement of a teacher's KD students: a row (index) a student, a column a task."""
    table = gain_table[(gain_table["teacher"] == teacher) & gain_table["task"].isin(tasks)]
    table = table.sort_values("student_parameters", kind="stable")
    wide = table.pivot_table(index="student", columns="task", values="agreement", sort=False)
    return wide[tasks].rename(columns=TASK_LABELS).rename_axis(columns=None)


def gain_by_teacher(average_gains: pd.DataFrame) -> pd.DataFrame:
    """Average gains of students with several teachers: a row a domain x student x method."""
    several = average_gains.groupby("student")["teacher"].transform("nunique") > 1
    table = average_gains[several].sort_values("teacher_parameters", kind="stable")
    wide = table.pivot_table(index=["domain", "student", "method"], columns="teacher", values="gain")
    return wide[table["teacher"].unique()].reset_index().rename_axis(columns=None)


def best_temperature_shares(runs: pd.DataFrame) -> pd.DataFrame:
    """Share of pairs x tasks in which each temperature is the best: rows `domain, method`, columns `T = t`.

    Takes `temperature_runs`; the average is left out, and of tied temperatures the lowest counts.
    """
    tasks = runs[runs["task"] != AVERAGE].sort_values("temperature", kind="stable")
    cases = ["domain", "teacher", "student", "method", "task"]
    best = tasks.loc[tasks.groupby(cases, sort=False)["accuracy"].idxmax()]
    case = best["domain"] + ", " + best["method"].map(lambda method: METHOD_LABELS[method].split(" ")[0])
    shares = pd.crosstab(case, best["temperature"], normalize="index")
    shares.columns = [f"T = {temperature:g}" for temperature in shares.columns]
    return shares.sort_index(ascending=False).rename_axis(index="case")


def teacher_tuning(cells: pd.DataFrame) -> pd.DataFrame:
    """The same distillation (forward KL, temperature 1) from the tuned and from the untuned teacher.

    One row a pair x task that has both: `tuned`, `untuned`, `cost` (their difference, points), and
    `teacher_base`, the untuned teacher's own accuracy.
    """
    table = mean_over_seeds(cells)
    runs = table[(table["method"] == "fkl") & (table["temperature"] == 1.0) & (table["noise_sigma"] == 0.0)]
    keys = ["source", "protocol", "domain", "task", *PAIR]
    both = runs.pivot_table(index=keys, columns="teacher_tuned", values="accuracy", sort=False)
    if False not in both.columns or True not in both.columns:
        return pd.DataFrame(columns=[*keys, "tuned", "untuned", "cost", "teacher_base"])
    both = both.rename(columns={True: "tuned", False: "untuned"}).dropna().reset_index()
    both.columns.name = None
    both["cost"] = both["tuned"] - both["untuned"]
    base = table.loc[table["method"] == "base", ["source", "domain", "task", "student", "accuracy"]]
    base = base.rename(columns={"student": "teacher", "accuracy": "teacher_base"})
    return both.merge(base, on=["source", "domain", "task", "teacher"], how="left")


def temperature_runs(cells: pd.DataFrame) -> pd.DataFrame:
    """Runs of pairs x methods that were trained at more than one temperature (tuned teacher, no noise)."""
    table = mean_over_seeds(cells)
    runs = table[table["method"].isin(KD_METHODS) & table["teacher_tuned"].fillna(False)]
    runs = runs[runs["noise_sigma"] == 0.0]
    keys = ["source", "domain", "task", "teacher", "student", "method"]
    swept = runs.groupby(keys)["temperature"].transform("nunique") > 1
    runs = runs[swept].copy()
    sft = table.loc[table["method"] == "sft", ["source", "domain", "task", "student", "accuracy"]]
    sft = sft.rename(columns={"accuracy": "sft_accuracy"})
    return runs.merge(sft, on=["source", "domain", "task", "student"], how="left")


def coverage(cells: pd.DataFrame) -> pd.DataFrame:
    """How many runs there are of each kind: rows (index) pairs; columns method x temperature.

    A run is counted once however many tasks it was scored on.
    """
    runs = cells[cells["task"] != AVERAGE].drop_duplicates(
        ["domain", "teacher", "student", "method", "teacher_tuned", "temperature", "noise_sigma", "seed"]
    )
    kd = runs[runs["teacher"] != ""].copy()
    kd["pair"] = kd["teacher"] + " → " + kd["student"]
    short = kd["method"].map(lambda method: METHOD_LABELS[method].split(" ")[0])
    kd["column"] = short + ", T = " + kd["temperature"].map("{:g}".format)
    kd.loc[~kd["teacher_tuned"].astype(bool), "column"] = "untuned teacher"
    columns = kd.assign(place=kd["method"].map(KD_METHODS.index)).sort_values(
        ["teacher_tuned", "place", "temperature"]
    )
    columns = [*columns.loc[columns["teacher_tuned"].astype(bool), "column"].unique(), "untuned teacher"]
    counts = kd.pivot_table(index="pair", columns="column", values="seed", aggfunc="size", fill_value=0)
    order = kd.sort_values(["family", "teacher_parameters", "student_parameters"])["pair"].unique()
    return counts.reindex(index=order, columns=columns, fill_value=0).rename_axis(columns=None)


def restrict(cells: pd.DataFrame, *, domains: list[str], methods: list[str]) -> pd.DataFrame:
    """The cells of these domains and KD methods; base and SFT rows stay, they are the baselines.

    Raises:
        ValueError: for a name that is not a domain or a KD method, or an empty list.
    """
    for label, names, allowed in (("domains", domains, DOMAINS), ("methods", methods, KD_METHODS)):
        unknown = [name for name in names if name not in allowed]
        if unknown or not names:
            raise ValueError(f"{label}={names}: choose at least one of {list(allowed)}")
    kept = cells["domain"].isin(domains) & cells["method"].isin(["base", "sft", *methods])
    return cells[kept].reset_index(drop=True)
