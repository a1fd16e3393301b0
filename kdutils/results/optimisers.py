"""Does it matter by which optimiser students are trained? Best rates over widths, norms, signs of contrasts.

Takes a study of arms (results.arms) whose arms are optimisers, named as RunSpec.optimiser has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from kdutils.grid.arms import ArmStudy
from kdutils.grid.cell_table import model_family, short_name
from kdutils.grid.model_shapes import architecture_of
from kdutils.inference import crossed_bootstrap, intervals
from kdutils.inference.estimate import CONFIDENCE, Estimate
from kdutils.results import arms
from kdutils.results.arms import CELL, RUN
from kdutils.runs import store

ADAMW, MUON, SPECTRAL = OPTIMISERS = ("adamw", "muon", "muon_spectral")
CONTRASTS = {"forward KL less SFT": ("fkl", "sft"), "reverse less forward KL": ("revkd", "fkl")}
GROUP = ["family", "teacher", "method"]
LEAST_NATS = 0.01  # a contrast has another sign if it is that far from zero under both optimisers


def widths(study: ArmStudy | None) -> dict[str, int]:
    """Student -> its hidden width; empty without a study."""
    names = {student for crossing in study.crossings for _, student in crossing.pairs} if study else set()
    return {short_name(name): architecture_of(name).hidden for name in sorted(names)}


def best_rates(runs: pd.DataFrame, width_of: Mapping[str, int]) -> pd.DataFrame:
    """The best learning rate of each cell, interpolated, by width: CELL, family, width, rate, outcome.

    The rate is where a parabola through the loss at the best rate and its two neighbours, over the logarithm
    of the rate, is lowest. NaN where `arms.rates` is void or open. SFT students, which see no teacher, have
    teacher "" and one row. Takes `arms.read` and `widths`.
    """
    found, trials = arms.rates(runs), runs[runs["is_trial"]].sort_values("rate")
    cells = zip(found["outcome"], trials.groupby(CELL, sort=False), strict=True)  # arms.rates has this order
    found["rate"] = [_lowest(part) if outcome == "chosen" else math.nan for outcome, (_, part) in cells]
    found["teacher"] = found["teacher"].where(found["method"] != "sft", "")
    found = found.assign(family=found["student"].map(model_family), width=found["student"].map(width_of))
    return found.drop_duplicates(CELL)[[*CELL, "family", "width", "rate", "outcome"]].reset_index(drop=True)


def _lowest(trials: pd.DataFrame) -> float:
    rates, losses = trials[["rate", "validation_loss"]].to_numpy().T
    place = int(losses.argmin())
    near = slice(place - 1, place + 2)
    x = np.log2(rates[near] / rates[place])
    square, slope, _ = np.polyfit(x, np.minimum(losses[near], 1e9), 2)  # infinite if it diverged
    vertex = -slope / (2 * square) if square > 0 else 0.0  # else all three are equal
    return float(rates[place] * 2 ** np.clip(vertex, x[0], x[2]))


def shifts(best: pd.DataFrame) -> pd.DataFrame:
    """How far the best rate of the widest student lies above that of the narrowest, octaves, by arm.

    By the line of log2 rate on log2 width through all of `best_rates`, its level another for each family,
    teacher and method. The rates of one student, which is one pretrained model, are one value. Columns arm,
    narrowest, widest, octaves, low, high (Student's t; NaN for fewer than three students), n (students).
    """
    table = []
    for arm, part in best.dropna(subset=["rate"]).groupby("arm", sort=False):
        logs, groups = np.log2(part[["width", "rate"]].astype(float)), [part[name] for name in GROUP]
        centred = logs - logs.groupby(groups).transform("mean")
        centred = centred[logs["width"].groupby(groups).transform("nunique") > 1]
        x, y = centred.groupby([part["family"], part["student"]]).mean().to_numpy().T
        if (squares := x @ x) < 1e-9:  # one width in every group
            continue
        slope, free = (x @ y) / squares, len(x) - part.loc[centred.index, "family"].nunique() - 1
        error = math.sqrt(((y - slope * x) ** 2).sum() / free / squares) if free > 0 else math.nan
        ends, half = part["width"].agg(["min", "max"]), error * stats.t.ppf(0.5 + CONFIDENCE / 2, free)
        bounds = np.array([slope, slope - half, slope + half]) * math.log2(ends["max"] / ends["min"])
        table.append((arm, *ends, *bounds, len(x)))
    return pd.DataFrame(table, columns=["arm", "narrowest", "widest", "octaves", "low", "high", "n"])


def bands(runs: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Least and largest norm of the matrices at the end of each epoch (optimisers.norm_band), of final runs.

    RUN, epoch (0: before training, as the first step has it), least_norm, largest_norm and drift, by how many
    octaves the one or the other has changed, whichever has more.
    """
    names, tables = [*RUN, "epoch", "least_norm", "largest_norm"], []
    own = runs[runs["is_final"]].drop_duplicates("run_id")  # SFT students stand beside several teachers
    for row in own.to_dict("records"):
        curve = pd.DataFrame(store.folder_of(out, row["run_id"]).curve()).reindex(columns=names[-3:])
        tables.append(curve.fillna({"epoch": 0}).dropna().assign(**{name: row[name] for name in RUN}))
    found = pd.concat(tables, ignore_index=True)[names] if tables else pd.DataFrame(columns=names)
    norms = found.set_index([*RUN, "epoch"])[["least_norm", "largest_norm"]].astype(float)
    start = norms[norms.index.get_level_values("epoch") == 0].droplevel("epoch")
    ratio = norms / start.reindex(norms.index.droplevel("epoch")).to_numpy()
    return norms.assign(drift=np.log2(ratio).abs().max(axis=1)).reset_index()


def _differences(found: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], dict[str, pd.Series]]]:
    """Teacher, student and contrast -> arm -> difference, of every resample, mean over numbers of items."""
    means = found.T.groupby(level=CELL, sort=False).mean().T
    for pair, (name, (one, other)) in product(dict.fromkeys(key[:2] for key in means), CONTRASTS.items()):
        ends = {arm: ((*pair, one, arm), (*pair, other, arm)) for arm in OPTIMISERS}
        there = {arm: two for arm, two in ends.items() if set(two) <= set(means)}
        yield (*pair, name), {arm: means[first] - means[second] for arm, (first, second) in there.items()}


def signs(found: pd.DataFrame) -> pd.DataFrame:
    """The contrasts of methods by pair and optimiser, of `arms.levels` of nll: what each interval says.

    Columns teacher, student, contrast, arm, difference, low, high, sign (`-` or `+`, nothing where the
    interval holds 0) and changes: whether it has the other sign than under AdamW.
    """
    table = []
    for key, by_arm in _differences(found):
        of_adamw = ""
        for arm, of_resamples in by_arm.items():
            value = crossed_bootstrap.estimate(of_resamples.to_numpy(), why_undefined="it has no items")
            sign = "-" if value.high < 0 else "+" if value.low > 0 else ""
            of_adamw = sign if arm == ADAMW else of_adamw
            table.append((*key, arm, *value.bounds, sign, {sign, of_adamw} == {"-", "+"}))
    columns = ["teacher", "student", "contrast", "arm", "difference", "low", "high", "sign", "changes"]
    return pd.DataFrame(table, columns=columns)


def contrasts(best: pd.DataFrame, norms: pd.DataFrame, found: pd.DataFrame) -> dict[str, Estimate | str]:
    """R1 to R3 of claims.toml, each with its interval, or why there is none.

    Takes `best_rates`, `bands` and `arms.levels` of nll.
    """
    shift = {row.arm: Estimate(row.octaves, row.low, row.high, n=row.n) for row in shifts(best).itertuples()}
    ends = norms[norms["arm"] == SPECTRAL].groupby(RUN)["drift"].max()
    values: dict[str, Estimate | str] = {
        "R1": shift.get(SPECTRAL, f"no two widths have a best rate by {SPECTRAL}"),
        "R2": intervals.mean_interval(ends - 1) if len(ends) else f"nothing was trained by {SPECTRAL}",
        "R3": f"no contrast of methods was trained by {ADAMW} and by {MUON} or {SPECTRAL}",
    }
    turned = [
        -np.sign(by_arm[ADAMW] * by_arm[arm]) * np.minimum(by_arm[ADAMW].abs(), by_arm[arm].abs())
        for _, by_arm in _differences(found)
        for arm in (MUON, SPECTRAL)
        if {ADAMW, arm} <= set(by_arm)
    ]
    if turned:
        most = np.maximum.reduce([each.to_numpy() for each in turned]) - LEAST_NATS
        values["R3"] = replace(crossed_bootstrap.estimate(most, why_undefined="no items"), n=len(turned))
    return values
