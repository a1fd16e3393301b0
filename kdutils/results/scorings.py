"""Does it matter whether students write their answers or rank them? Gaps, orders and recipes by scoring.

Takes the rows of results.asked: greedy texts and ranked options of the same students on the same items, in
the options' own order, of tasks that have options. A value of an item is its mean over pairs and seeds, that
of several tasks their mean. An interval speaks of other items of these tasks, not of other pairs or seeds.

The question is that of *When Perplexity Lies* (arXiv:2603.26556): is a student that ranks as well as its
teacher still behind when it writes? Declared before a value was seen: a scoring does not mislead about
generation if on every task the gap between student and teacher is within MARGIN points of that under
generation (the 90 % interval, two one-sided tests at 5 %) and Kendall's tau between the rankings of the
methods is at least LEAST_TAU; it misleads if on a task the gap differs by more than MARGIN (95 % interval,
Bonferroni over tasks) or the interval of tau lies below LEAST_TAU; otherwise these items cannot tell.
"""

import math
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, KD_METHODS
from kdutils.data import sources
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap
from kdutils.inference.crossed_bootstrap import ratio
from kdutils.inference.estimate import Estimate
from kdutils.inference.intervals import difference_by_item
from kdutils.results.gain_tables import in_domain_order
from kdutils.runs import comparison, store

GENERATION = "generation"
PRINTED = {"likelihood": 0.2, GENERATION: 20.8}  # gap in points of a 7B student, abstract of 2603.26556
MARGIN = 2.0  # points of gap
LEAST_TAU = 0.8
RECIPE = ("kd_weight", "prompt_in_loss", "frozen")  # fields of a RunSpec that are varied
PROMPT, HALF = "prompt in loss", "KD share 0.5"
PAIR, ITEM, ALL = ["domain", "teacher", "student", "seed"], ["task", "item_id"], "all"
KEYS = ["domain", "method", "variation", "scoring", *ITEM]
N_RESAMPLES = 999


def answers(asked: pd.DataFrame) -> pd.DataFrame:
    """A row a pair x seed x item of every student: PAIR, KEYS, and right, teacher_right and same (0 or 1).

    `variation` is what its recipe changes, "" for nothing. SFT students and base models stand beside each of
    their teachers, which are those of the plain recipe. Runs differ in RECIPE alone. No rows where nothing
    was ranked.
    """
    asked = asked.reindex(columns=dict.fromkeys([*asked, *ITEM, "correct", "parsed"]))  # of no rows
    has_options = asked["task"].isin(asked.loc[asked["scoring"] != GENERATION, "task"])
    rows = asked[has_options & (asked["temperature"] == 0) & (asked["rotation"] == 0)]
    names = [_named(*own) for own in rows.reindex(columns=RECIPE).to_numpy(object)]
    rows = rows.assign(variation=names, right=rows["correct"].astype(float))
    rows = rows[["role", *PAIR, *KEYS[1:], "parsed", "right"]]
    kd, teachers = rows[rows["role"] == "kd"], rows[(rows["role"] == "teacher") & (rows["variation"] == "")]
    alone = rows[rows["role"].isin(["base", "sft"])].drop(columns="teacher")
    alone = alone.merge(kd[PAIR[:3]].drop_duplicates(), on=["domain", "student"])
    teachers = teachers[["domain", "student", "scoring", *ITEM, "parsed", "right"]].set_axis(
        ["domain", "teacher", "scoring", *ITEM, "parsed_teacher", "teacher_right"], axis=1
    )
    both = pd.concat([kd, alone]).merge(teachers, validate="many_to_one")
    return both.assign(same=comparison.same_answer(both).astype(float))


def _named(kd_weight: float, prompt_in_loss: bool | None, frozen: str) -> str:
    """What a recipe changes, "" for nothing; a field that no run of the table has is NaN."""
    parts = [f"KD share {kd_weight:g}"] * (kd_weight < 1) + [PROMPT] * (prompt_in_loss is True)
    return ", ".join([*parts, *[f"{frozen} frozen"] * (frozen in ("attention", "mlp"))])


def by_item(rows: pd.DataFrame) -> pd.DataFrame:
    """right and teacher_right of each of KEYS: means over pairs and seeds, of the plain recipe."""
    plain = rows[rows["variation"] == ""]
    return plain.groupby(KEYS, sort=False)[["right", "teacher_right"]].mean().reset_index()


# --- the gap to the teacher -------------------------------------------------------------------------------


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Teacher less student, points, by domain x task (and `average`) x method x scoring.

    Takes `answers`. Columns domain, task, method, scoring, teacher, student (percent), gap, low, high, n.
    """
    table = []
    for (domain, method, scoring), part in by_item(rows).groupby(["domain", "method", "scoring"], sort=False):
        for task, own in _tasks(part.set_index(ITEM)):
            gap = difference_by_item(own["teacher_right"] - own["right"])
            levels = 100 * own.groupby(level="task")[["teacher_right", "right"]].mean().mean()
            table.append((domain, task, method, scoring, *levels, *gap.bounds, gap.n))
    columns = ["domain", "task", "method", "scoring", "teacher", "student", "gap", "low", "high", "n"]
    return in_domain_order(pd.DataFrame(table, columns=columns))


def gap_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """The gap of KD students under generation less that under each other scoring, points, by task.

    Mean over KD methods. Columns domain, task, scoring, difference, low, high (95 %), low_90, high_90,
    low_all, high_all (95 % for all tasks of a scoring together, Bonferroni), n.
    """
    table, wide = [], _gap_by_item(rows)
    for scoring in [name for name in wide if name != GENERATION]:
        difference = (wide[GENERATION] - wide[scoring]).dropna()
        levels = 0.95, 0.90, 1 - 0.05 / difference.index.unique("task").size
        for domain, part in difference.groupby("domain", sort=False):
            for task, own in _tasks(part):
                found = [difference_by_item(own, widest=2.0, confidence=each) for each in levels]
                bounds = [bound for each in found for bound in (each.low, each.high)]
                table.append((domain, task, scoring, found[0].value, *bounds, found[0].n))
    columns = ["domain", "task", "scoring", "difference", "low", "high", "low_90", "high_90"]
    return in_domain_order(pd.DataFrame(table, columns=[*columns, "low_all", "high_all", "n"]))


def _gap_by_item(rows: pd.DataFrame) -> pd.DataFrame:
    """Teacher less student, mean over KD methods: index domain and ITEM, a column a scoring."""
    kd = by_item(rows[rows["method"].isin(KD_METHODS)])
    gap = kd.assign(gap=kd["teacher_right"] - kd["right"])
    return gap.pivot_table(index=["domain", *ITEM], columns="scoring", values="gap", sort=False)


def _tasks(part: Any) -> Iterator[tuple[str, Any]]:
    """Each task (a level of the index) with its rows; last `average` with all, where there are several."""
    yield from part.groupby(level="task", sort=False)
    if part.index.unique("task").size > 1:
        yield AVERAGE, part


# --- the order of the methods -----------------------------------------------------------------------------


def taus(rows: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int = N_RESAMPLES) -> pd.DataFrame:
    """Kendall's tau-b between the rankings of the methods, SFT among them, by generation and by a scoring.

    A row a domain x scoring, last those of `all` domains, of what all have. tau, low, high: percentile
    interval of a bootstrap of the items within tasks. Noise alone makes rankings differ: `itself` is the mean
    tau of generation on a random half of each task's items with generation on the other half, `halves` that
    with the scoring there.
    """

    def drawn(n: int) -> np.ndarray:
        return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)])

    def halved(n: int) -> np.ndarray:
        is_first = rng.permuted(np.tile(np.arange(n) % 2, (n_resamples, 1)), axis=1)
        return np.vstack([is_first, 1 - is_first])

    plain, table = by_item(rows[rows["method"] != "base"]), []
    n_domains = plain.groupby(["scoring", "method"])["domain"].transform("nunique")
    common = plain[n_domains == plain["domain"].nunique()]
    for domain, part in [*plain.groupby("domain", sort=False), (ALL, common)]:
        wide = _wide(part)
        if GENERATION not in wide or wide[GENERATION].shape[1] < 3:
            continue
        of_draw, of_half = _scores(wide, drawn), _scores(wide, halved)
        first, second = slice(n_resamples), slice(n_resamples, None)
        itself = np.nanmean(kendall(of_half[GENERATION][first], of_half[GENERATION][second]))
        for scoring in [name for name in of_draw if name != GENERATION]:
            tau = kendall(of_draw[GENERATION], of_draw[scoring])
            found = crossed_bootstrap.estimate(tau, why_undefined="all methods are level")
            across = np.nanmean(kendall(of_half[GENERATION][first], of_half[scoring][second]))
            table.append((domain, scoring, *found.bounds, itself, across, len(wide)))
    columns = ["domain", "scoring", "tau", "low", "high", "itself", "halves", "n"]
    return pd.DataFrame(table, columns=columns)


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """right by ITEM, a column a scoring x method; items that all of them have."""
    return part.pivot_table(index=ITEM, columns=["scoring", "method"], values="right", sort=False).dropna()


def _scores(wide: pd.DataFrame, draw: Callable[[int], np.ndarray]) -> dict[str, np.ndarray]:
    """Scoring -> accuracies (resample, method), mean over tasks; `draw` gives weights (resample, item)."""
    means = []
    for _, part in wide.groupby(level="task", sort=False):
        weights_RI = draw(len(part))
        means.append(weights_RI @ part.to_numpy(float) / weights_RI.sum(axis=1, keepdims=True))
    scores, methods = pd.DataFrame(np.mean(means, axis=0), columns=wide.columns), wide[GENERATION].columns
    return {name: scores[name][methods].to_numpy() for name in wide.columns.unique("scoring")}


def kendall(x_RM: np.ndarray, y_RM: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of two tables; NaN where all values of one are the same."""
    one, other = np.triu_indices(x_RM.shape[1], 1)
    signs = [np.sign(np.round(z[:, one] - z[:, other], 9)) for z in (x_RM, y_RM)]
    scale = np.sqrt(np.prod([np.square(sign).sum(axis=1) for sign in signs], axis=0))
    return ratio(np.prod(signs, axis=0).sum(axis=1), scale)


def flips(rows: pd.DataFrame) -> pd.DataFrame:
    """Each two methods (SFT among them) by generation and by another scoring, on the same items.

    A row a domain x scoring x pair of methods: `one` less `other` in points by `generation` and `ranked`,
    each with _low and _high; `flips` where their signs differ and both 95 % intervals leave out 0. `flip` is
    the smaller of the two differences if they have opposite signs, below 0 by how much they have not; its
    bounds hold for all pairs of a scoring together (Bonferroni).
    """
    plain, table = by_item(rows[rows["method"] != "base"]), []
    for scoring in [name for name in plain["scoring"].unique() if name != GENERATION]:
        both = plain[plain["scoring"].isin([GENERATION, scoring])].groupby("domain", sort=False)
        wides = {domain: _wide(part) for domain, part in both if part["scoring"].nunique() == 2}
        pairs = [(key, *two) for key, wide in wides.items() for two in combinations(wide[scoring], 2)]
        for domain, one, other in pairs:
            ways = [wides[domain][way, one] - wides[domain][way, other] for way in (GENERATION, scoring)]
            left, right = map(difference_by_item, ways)
            together = [difference_by_item(way, confidence=1 - 0.05 / (2 * len(pairs))) for way in ways]
            row = (domain, scoring, one, other, *left.bounds, *right.bounds)
            table.append((*row, _flip(left, right)[1] > 0, *_flip(*together)))
    columns = ["domain", "scoring", "one", "other", "generation", "generation_low", "generation_high"]
    columns += ["ranked", "ranked_low", "ranked_high", "flips", "flip", "flip_low", "flip_high"]
    return pd.DataFrame(table, columns=columns)


def _flip(left: Estimate, right: Estimate) -> tuple[float, float, float]:
    """The smaller of two differences of opposite signs, with the bounds that follow from theirs."""
    turned = [(-each.value, -each.high, -each.low) for each in (left, right)]
    up, down = zip(left.bounds, turned[1], strict=True), zip(turned[0], right.bounds, strict=True)
    return tuple(max(min(one), min(other)) for one, other in zip(up, down, strict=True))


# --- recipes ----------------------------------------------------------------------------------------------


def _against(rows: pd.DataFrame, value: str = "right") -> tuple[pd.DataFrame, pd.DataFrame]:
    """`value` of KD less that of SFT, and less that of the plain recipe: a column a variation.

    Index domain, method, scoring and ITEM; means over pairs and seeds: of the first those that were trained
    in every way of their method, of the second those that were trained both ways.
    """
    names, is_kd = [*PAIR, "scoring", *ITEM], rows["method"].isin(KD_METHODS)
    wide = rows[is_kd].pivot_table(index=[*names, "method"], columns="variation", values=value, sort=False)
    sft = rows[(rows["method"] == "sft") & (rows["variation"] == "")].set_index(names)[value].rename("sft")
    sft = wide.join(sft, on=names)["sft"]
    by = ["domain", "method", "scoring", *ITEM]
    plain = wide.get("", pd.Series(math.nan, wide.index))
    gains = wide.sub(sft, axis=0)
    asked = gains.groupby(["domain", "method", "scoring"], sort=False)
    ways = (part.dropna(axis=1, how="all") for _, part in asked)
    alike = pd.concat([gains[:0], *(part.dropna() for part in ways)])
    return tuple(each.groupby(by, sort=False).mean() for each in (alike, wide.sub(plain, axis=0)))


def recipes(rows: pd.DataFrame) -> pd.DataFrame:
    """Gain over SFT of each recipe and its change against the plain recipe, points, by scoring.

    A row a domain x method x variation ("" is the plain one) x scoring, of methods that have several: gain,
    gain_low, gain_high, change, low, high, n.
    """
    table, (gains, changes) = [], _against(rows)
    for (domain, method), part in gains.groupby(["domain", "method"], sort=False):
        names = [name for name in part if part[name].notna().any()]
        ways = part.groupby("scoring", sort=False).groups
        for name, (scoring, items) in product(names, ways.items() if len(names) > 1 else ()):
            gain, change = (difference_by_item(each.loc[items, name].dropna()) for each in (gains, changes))
            change = change if name else Estimate()
            table.append((domain, method, name, scoring, *gain.bounds, *change.bounds, gain.n))
    columns = ["domain", "method", "variation", "scoring", "gain", "gain_low", "gain_high"]
    return in_domain_order(pd.DataFrame(table, columns=[*columns, "change", "low", "high", "n"]))


def gold_losses(plan: Plan) -> pd.DataFrame:
    """Cross-entropy of the gold responses of held-out items after training, nats a token, by run.

    Columns domain, student, method, seed, gold_nll, of the plan's careful students at temperature 1. Teachers
    are left out, so that SFT has the students of the other methods.
    """
    table, specs = [], dict.fromkeys(sources.resolved_all(run.spec for run in plan.runs))
    students = {(spec.domain, spec.student) for spec in specs if spec.teacher}
    for spec in [each for each in specs if (each.domain, each.student) in students]:
        curve = store.folder_of(plan.out, spec.run_id).curve()
        losses = [each["validation_loss"] for each in curve if "validation_loss" in each]
        if losses and (spec.protocol, spec.temperature, spec.noise_sigma) == ("careful", 1.0, 0.0):
            table.append((spec.domain, spec.student, spec.method, spec.seed, losses[-1]))
    return pd.DataFrame(table, columns=["domain", "student", "method", "seed", "gold_nll"])


# --- what was declared ------------------------------------------------------------------------------------


def contrasts(rows: pd.DataFrame, order: pd.DataFrame) -> dict[str, Estimate | str]:
    """G1 to G5 of claims.toml, each with its interval, or why there is none; `order` is of `taus`."""
    found: dict[str, Estimate | str] = dict.fromkeys(("G1", "G2", "G5"), "not scored both ways")
    found |= dict.fromkeys(("G3", "G4"), "no student was trained so and scored both ways")
    gap, pairs = _gap_by_item(rows), flips(rows)
    values = {"G1": gap[GENERATION] - gap["label"]} if {GENERATION, "label"} <= set(gap) else {}
    (_, right), (_, same) = (_against(rows, value) for value in ("right", "same"))
    if PROMPT in right:
        change = right[PROMPT].unstack("scoring").reindex(columns=["likelihood", GENERATION])
        values["G3"] = change["likelihood"] - change[GENERATION]
    if HALF in right:
        values["G4"] = (same[HALF] - right[HALF]).xs(GENERATION, level="scoring")
    for name, value in values.items():
        of_item = value.dropna().groupby(level=ITEM, sort=False).mean()
        if len(of_item):
            found[name] = difference_by_item(of_item, widest=2.0)
    pairs, order = (table[table["scoring"] == "likelihood"] for table in (pairs, order))
    if len(order):
        row = order.iloc[-1]  # of all domains
        found["G2"] = Estimate(*(row[["tau", "low", "high"]] - LEAST_TAU), n=int(row["n"]))
    if len(pairs):
        found["G5"] = Estimate(*pairs[["flip", "flip_low", "flip_high"]].max(), n=len(pairs))
    return found


def outcomes(differences: pd.DataFrame, order: pd.DataFrame) -> pd.DataFrame:
    """The rule of this module: a row a scoring. Takes `gap_differences` and `taus`.

    Columns scoring, tasks, alike (tasks whose gaps agree within MARGIN), apart (whose gaps differ by more),
    tau, low, high (of all domains), outcome (`does not mislead`, `misleads` or `cannot be told`).
    """
    table = []
    for scoring, part in differences[differences["task"] != AVERAGE].groupby("scoring", sort=False):
        alike = int(((part["low_90"] > -MARGIN) & (part["high_90"] < MARGIN)).sum())
        apart = int(((part["low_all"] > MARGIN) | (part["high_all"] < -MARGIN)).sum())
        own = order.loc[order["scoring"] == scoring, ["tau", "low", "high"]]
        tau, low, high = own.iloc[-1] if len(own) else (math.nan,) * 3
        is_like = alike == len(part) and tau >= LEAST_TAU
        outcome = "misleads" if apart or high < LEAST_TAU else "does not mislead" if is_like else ""
        table.append((scoring, len(part), alike, apart, tau, low, high, outcome or "cannot be told"))
    columns = ["scoring", "tasks", "alike", "apart", "tau", "low", "high", "outcome"]
    return pd.DataFrame(table, columns=columns)
