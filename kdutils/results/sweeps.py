"""What temperature and noise do: runs of one pair at several values, and its baselines."""

import pandas as pd

from kdutils.constants import AVERAGE, KD_METHODS, METHOD_NAMES, PAPER_METHODS
from kdutils.grid.study import DAGGER, UNFORMATTED
from kdutils.results.gain_tables import CELL, NO_PROTOCOL, in_domain_order, mean_over_seeds, with_accuracy

DECODING = {"greedy": "greedy decoding", "sampled": "sampled at temperature 1"}


def temperature_runs(cells: pd.DataFrame) -> pd.DataFrame:
    """Runs of pairs x methods that were trained at several temperatures (tuned teacher, no noise).

    Beside each run `sft_accuracy` of the same student; NaN where there is none.
    """
    runs = mean_over_seeds(swept(cells[cells["method"].isin(PAPER_METHODS)], "temperature"))
    return with_accuracy(runs, mean_over_seeds(cells), "sft", of="student", name="sft_accuracy")


def noise_runs(cells: pd.DataFrame) -> pd.DataFrame:
    """Runs of pairs x methods that were trained at several sigmas (tuned teacher, temperature 1).

    Beside each run `sft_accuracy` and `base_accuracy` of the same student; NaN where there is none.
    """
    runs = mean_over_seeds(swept(cells, "noise_sigma"))
    table = mean_over_seeds(cells)
    runs = with_accuracy(runs, table, "sft", of="student", name="sft_accuracy")
    return with_accuracy(runs, table, "base", of="student", name="base_accuracy", where=NO_PROTOCOL)


def swept(cells: pd.DataFrame, varied: str) -> pd.DataFrame:
    """Cells of KD (tuned teacher) whose pair, method and seed were trained at several values of `varied`.

    That is `temperature`, without noise, or `noise_sigma`, at temperature 1. Other seeds are left out, so
    that like is compared with like.
    """
    is_kd = cells["method"].isin(KD_METHODS) & cells["teacher_tuned"].eq(True).fillna(False)
    other, usual = {"temperature": ("noise_sigma", 0.0), "noise_sigma": ("temperature", 1.0)}[varied]
    runs = cells[is_kd & (cells[other] == usual)]
    keys = [*CELL, "teacher", "student", "method", "seed"]
    return runs[runs.groupby(keys)[varied].transform("nunique") > 1]


def by_column(average: pd.DataFrame, varied: str, symbol: str) -> pd.DataFrame:
    """Average accuracies, a row a domain x pair x method and a column a value of `varied`: `T = 2`.

    Where some are `unformatted`, they are text, with a DAGGER after those.
    """
    keys, table = ["domain", "teacher", "student", "method"], in_domain_order(average)
    if UNFORMATTED in table:  # single cells of a row have it, so that they are text
        marks = table[UNFORMATTED].map({True: DAGGER, False: ""})
        table = table.assign(accuracy=table["accuracy"].map("{:.1f}".format) + marks)
    wide = table.pivot_table(index=keys, columns=varied, values="accuracy", aggfunc="first", sort=False)
    wide = wide.sort_index(axis=1).rename(columns=lambda value: f"{symbol} = {value:g}")
    return wide.reset_index().rename_axis(columns=None)


def noise_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """What noise costs: each noisy row of `noise_runs` joined to the noise-free run of its pair and method.

    Columns of the row and `clean_accuracy`, `loss` (points) and `is_collapsed`: below half of the noise-free
    accuracy. Rows whose pair and method have no noise-free run are left out.
    """
    keys = [*CELL, "teacher", "student", "method"]
    clean = runs[runs["noise_sigma"] == 0.0].set_index(keys)["accuracy"].rename("clean_accuracy")
    both = runs[runs["noise_sigma"] > 0.0].join(clean, on=keys, how="inner").reset_index(drop=True)
    loss = both["clean_accuracy"] - both["accuracy"]
    return both.assign(loss=loss, is_collapsed=both["accuracy"] < both["clean_accuracy"] / 2)


def best_temperature_shares(runs: pd.DataFrame) -> pd.DataFrame:
    """Percent of pairs x tasks in which each temperature is the best: rows `domain, method`, columns `T = t`.

    Takes `temperature_runs`; the average is left out, and of tied temperatures the lowest counts.
    """
    tasks = runs[runs["task"] != AVERAGE].sort_values("temperature", kind="stable").round({"accuracy": 9})
    best = tasks.loc[tasks.groupby(["domain", "teacher", "student", "method", "task"])["accuracy"].idxmax()]
    case = best["domain"] + ", " + best["method"].map(METHOD_NAMES)
    shares = 100 * pd.crosstab(case, best["temperature"], normalize="index").sort_index(ascending=False)
    return shares.rename(columns="T = {:g}".format).rename_axis(index="case", columns=None)


def best_temperature_remark(shares: pd.DataFrame) -> str:
    """How often each temperature (a column of `best_temperature_shares`) is the best, in a sentence."""
    spans = [(name, shares[name].min(), shares[name].max()) for name in shares]
    texts = [f"{name} {low:.0f}{f' to {high:.0f}' if high > low else ''} %" for name, low, high in spans]
    return f"Share of the cases in which a temperature is the best: {', '.join(texts)}."


def decoding(cells: pd.DataFrame) -> str:
    """How the texts behind the cells of one source came about: `greedy decoding, protocol careful`."""
    found = cells.loc[cells["method"] != "base", ["decoding", "protocol"]].drop_duplicates()
    ways = found.groupby("decoding", sort=False)["protocol"].agg(" and ".join).items()
    return "; ".join(f"{DECODING[how]}, protocol {protocols}" for how, protocols in ways)
