"""What temperature and noise do: runs of one pair at several values, and its baselines.

Every function takes cells or its neighbour's table and returns a tidy table.
"""

from __future__ import annotations

import pandas as pd

from kdutils.constants import AVERAGE, KD_METHODS, METHOD_NAMES, PAPER_METHODS
from kdutils.results.gain_tables import in_domain_order, mean_over_seeds

DECODING = {"published": "sampled at temperature 1", "live": "greedy decoding"}  # of what is scored


def temperature_runs(cells: pd.DataFrame) -> pd.DataFrame:
    """Runs of pairs x methods that were trained at more than one temperature (tuned teacher, no noise).

    Of several seeds those count that were trained at more than one, so that like is compared with like.
    """
    runs = cells[cells["method"].isin(PAPER_METHODS) & cells["teacher_tuned"].fillna(False)]
    runs = mean_over_seeds(_swept(runs[runs["noise_sigma"] == 0.0], "temperature"))
    table = mean_over_seeds(cells)
    sft = table.loc[table["method"] == "sft", ["source", "domain", "task", "student", "accuracy"]]
    sft = sft.rename(columns={"accuracy": "sft_accuracy"})
    return runs.merge(sft, on=["source", "domain", "task", "student"], how="left")


def noise_runs(cells: pd.DataFrame) -> pd.DataFrame:
    """Runs of pairs x methods that were trained at more than one sigma (tuned teacher, temperature 1).

    Of several seeds those count that were trained at more than one. Beside each run, `sft_accuracy` and
    `base_accuracy` of the same student; NaN where there is none.
    """
    runs = cells[cells["method"].isin(KD_METHODS) & cells["teacher_tuned"].fillna(False)]
    runs = mean_over_seeds(_swept(runs[runs["temperature"] == 1.0], "noise_sigma"))
    table, where = mean_over_seeds(cells), ["source", "protocol", "domain", "task"]
    sft = table.loc[table["method"] == "sft", [*where, "student", "accuracy"]]
    runs = runs.merge(sft.rename(columns={"accuracy": "sft_accuracy"}), on=[*where, "student"], how="left")
    base = table.loc[table["method"] == "base", ["source", "domain", "task", "student", "accuracy"]]
    base = base.rename(columns={"accuracy": "base_accuracy"})  # as it is, so of no protocol
    return runs.merge(base, on=["source", "domain", "task", "student"], how="left")


def _swept(runs: pd.DataFrame, varied: str) -> pd.DataFrame:
    """The rows whose pair, method, task and seed were trained at several values of `varied`, a column."""
    keys = ["source", "protocol", "domain", "task", "teacher", "student", "method", "seed"]
    return runs[runs.groupby(keys)[varied].transform("nunique") > 1]


def by_column(average: pd.DataFrame, varied: str, symbol: str) -> pd.DataFrame:
    """Average accuracies, a row a domain x pair x method and a column a value of `varied`: `T = 2`."""
    keys = ["domain", "teacher", "student", "method"]
    wide = in_domain_order(average).pivot_table(index=keys, columns=varied, values="accuracy", sort=False)
    wide = wide[sorted(wide.columns)]
    wide.columns = [f"{symbol} = {value:g}" for value in wide.columns]
    return wide.reset_index()


def noise_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """What noise costs: each noisy row of `noise_runs` joined to the noise-free run of its pair and method.

    Columns of the row and `clean_accuracy`, `loss` (points) and `is_collapsed`: below half of the noise-free
    accuracy. Rows whose pair and method have no noise-free run are left out.
    """
    keys = ["source", "protocol", "domain", "task", "teacher", "student", "method"]
    clean = runs.loc[runs["noise_sigma"] == 0.0, [*keys, "accuracy"]]
    noisy = runs[runs["noise_sigma"] > 0.0]
    both = noisy.merge(clean.rename(columns={"accuracy": "clean_accuracy"}), on=keys)
    both["loss"] = both["clean_accuracy"] - both["accuracy"]
    both["is_collapsed"] = both["accuracy"] < both["clean_accuracy"] / 2
    return both


def best_temperature_shares(runs: pd.DataFrame) -> pd.DataFrame:
    """Share of pairs x tasks in which each temperature is the best: rows `domain, method`, columns `T = t`.

    Takes `temperature_runs`; the average is left out, and of tied temperatures the lowest counts.
    """
    tasks = runs[runs["task"] != AVERAGE].sort_values("temperature", kind="stable")
    cases = ["domain", "teacher", "student", "method", "task"]
    best = tasks.loc[tasks.groupby(cases, sort=False)["accuracy"].idxmax()]
    case = best["domain"] + ", " + best["method"].map(METHOD_NAMES)
    shares = pd.crosstab(case, best["temperature"], normalize="index")
    shares.columns = [f"T = {temperature:g}" for temperature in shares.columns]
    return shares.sort_index(ascending=False).rename_axis(index="case")


def best_temperature_remark(shares: pd.DataFrame) -> str:
    """How often each temperature (a column of `best_temperature_shares`) is the best, in a sentence."""
    spans = [(name, shares[name].min(), shares[name].max()) for name in shares]
    texts = [f"{name} {low:.0%}" + (f" to {high:.0%}" if high > low else "") for name, low, high in spans]
    return f"Share of the cases in which a temperature is the best: {', '.join(texts)}."


def decoding(table: pd.DataFrame) -> str:
    """How the texts behind a table of one source came about: `greedy decoding, protocol careful`."""
    source, protocols = table["source"].iloc[0], " and ".join(table["protocol"].unique())
    return f"{DECODING[source]}, protocol {protocols}"
