"""What choosing a temperature on the test items buys: accuracy so chosen less that chosen on held-out items.

`optimism` is never negative, whatever the items: what a half gains by its own choice over the choice of all
items, the other half has lost. So its size speaks and its sign does not. It holds the luck in the authors'
choice, and what a choice by half of the items loses to one by all: nothing where temperatures are equal.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from kdutils.claims.students import mean_of_students, student_means
from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES
from kdutils.grid.cell_table import model_family, model_parameters
from kdutils.inference.estimate import Estimate
from kdutils.results import gain_tables, held_out_temperature
from kdutils.results.gain_tables import interval_text
from kdutils.results.held_out_temperature import ALIKE, CASE, HALVES, half_of
from kdutils.results.item_gains import Items

# Accuracies, percent, by how the temperature was chosen.
LEVELS = ["temperature_1", "held_out", "best_on_test"]
EACH_TASK = "each task"  # what a temperature is chosen for; else the domain's average
RULES = (EACH_TASK, AVERAGE)
ALL = "all"  # methods together


def levels(halves: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by how the temperature was chosen, a row a pair x method x task: CASE, task, LEVELS, optimism.

    Takes held_out_temperature.read. `temperature_1` is that at 1 (NaN without), `held_out` that at one chosen
    on the other half, `best_on_test` that of the authors' choice; means over seeds. What could not be chosen
    is NaN, and `reason` says why.
    """
    table = held_out_temperature.choices(halves)
    found = {"held_out": held_out_temperature.measured(halves, table)}
    for name, temperature in (("temperature_1", 1.0), ("best_on_test", table["by_all"])):
        chosen = [table.assign(temperature=temperature, half=half) for half in HALVES]
        found[name] = held_out_temperature.composed(halves, pd.concat(chosen))
    for name, runs in found.items():
        means = runs.groupby([*CASE, "task"], sort=False)["accuracy"].mean().rename(name)
        table = table.merge(means.reset_index(), on=[*CASE, "task"], how="left")
    return table.assign(optimism=table["best_on_test"] - table["held_out"])


def of_students(halves: pd.DataFrame) -> pd.DataFrame:
    """Means of `levels` over the tasks and teachers of a student: domain, student, method, LEVELS, optimism.

    A temperature is chosen for each task. Small students first.
    """
    rows = [
        student_means(part, [*LEVELS, "optimism"]).assign(domain=domain, method=method)
        for domain, method, rule, part in _groups(_known(halves))
        if rule == EACH_TASK and method != ALL
    ]
    columns = ["domain", "student", "method", *LEVELS, "optimism"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _known(halves: pd.DataFrame) -> pd.DataFrame:
    """Rows of `levels` where a temperature could be chosen, with what names say of their students."""
    known = levels(halves).dropna(subset=["optimism"])
    names = known["student"]
    return known.assign(family=names.map(model_family), student_parameters=names.map(model_parameters))


def table(halves: pd.DataFrame, items: Items, *, rng: np.random.Generator) -> pd.DataFrame:
    """Means of `levels`, a row a domain x method x rule: LEVELS, optimism, low, high, unit, n.

    `rule` is what a temperature is chosen for, each task (mean over them) or the domain's average; method
    `all` is of all that were trained at several temperatures. The interval is over students (Student's t,
    families as blocks; NaN where they do not differ), or where there are `items`, those of one pair, over
    them. It is cut at 0, below which the true value cannot lie.
    """
    rows = []
    for domain, method, rule, part in _groups(_known(halves)):
        means = student_means(part, [*LEVELS, "optimism"])
        interval, unit = mean_of_students(means, "optimism"), "students"
        if items:
            interval, unit = over_items(_of_pair(items.scored, part), rule=rule, rng=rng), "items"
        bounds = np.maximum([interval.low, interval.high], 0.0)  # NaN stays
        rows.append((domain, method, rule, *means[[*LEVELS, "optimism"]].mean(), *bounds, unit, interval.n))
    columns = ["domain", "method", "rule", *LEVELS, "optimism", "low", "high", "unit", "n"]
    return pd.DataFrame(rows, columns=columns)


def _groups(known: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Domain, method (at last ALL, of several), rule, and the rows of `levels` that are meant."""
    for domain, of_domain in gain_tables.in_domain_order(known).groupby("domain", sort=False):
        methods = list(of_domain["method"].unique())
        for method in (*methods, *([ALL] if len(methods) > 1 else [])):
            own = of_domain[of_domain["method"].eq(method) | (method == ALL)]
            for rule in RULES:
                part = own[own["task"].eq(AVERAGE) == (rule == AVERAGE)]
                if len(part):
                    yield domain, method, rule, part


def _of_pair(scored: pd.DataFrame, part: pd.DataFrame) -> list[list[np.ndarray]]:
    """Of each method of `part` the values of its tasks' halves, items x temperatures."""
    is_swept = scored["teacher_tuned"].eq(True) & (scored["noise_sigma"] == 0.0)
    tasks, found = set(part["task"]), []
    for domain, method in part[["domain", "method"]].drop_duplicates().itertuples(index=False):
        own = scored[is_swept & (scored["domain"] == domain) & (scored["method"] == method)]
        own = own[own["task"].isin(tasks) | (tasks == {AVERAGE})]
        is_whole = own.groupby("seed")["temperature"].transform("nunique") == own["temperature"].nunique()
        index = ["task", "item_id"]
        wide = own[is_whole].pivot_table(index=index, columns="temperature", values="value", sort=False)
        wide = wide.sort_index(axis=1)
        task, item = (wide.index.get_level_values(name) for name in index)
        half = item.map(half_of)
        found.append([wide[(task == one) & (half == h)].to_numpy() for one in task.unique() for h in HALVES])
    return found


def over_items(
    methods: list[list[np.ndarray]], *, rule: str, rng: np.random.Generator, n_resamples: int = 999
) -> Estimate:
    """Mean optimism of methods that were scored on the same items, points, with an interval over these.

    Items are drawn anew within each half of each task, temperatures are chosen anew, and the interval is the
    normal one of the draws' standard deviation. It is rather too wide: in 150 imagined studies each of 6
    tasks, 20 or 100 items and 3 temperatures, equal or not, it held the expected value in 99 to 100 %.

    Args:
        methods: of each the values in [0, 1] of the first half of a task, the second, of the next task, ...:
            items x temperatures, from the lowest.
    """
    sizes = np.array([len(part) for part in methods[0]], dtype=float)
    drawn = [rng.multinomial(n, np.full(int(n), 1 / n), size=n_resamples) for n in sizes]
    estimates, draws = [], []
    for parts in methods:
        sums = np.stack([part.sum(axis=0) for part in parts])
        again = np.stack([times @ part for times, part in zip(drawn, parts, strict=True)], axis=1)
        estimates.append(_optimism(sums, sizes, rule))
        draws.append(_optimism(again, sizes, rule))
    estimate, half_width = float(np.mean(estimates)), 1.96 * float(np.mean(draws, axis=0).std(ddof=1))
    return Estimate(estimate, estimate - half_width, estimate + half_width, n=int(sizes.sum()))


def _optimism(sums: np.ndarray, sizes: np.ndarray, rule: str) -> np.ndarray:
    """Points, of sums over items by half of a task x temperature; axes before these are kept."""
    sums = sums.reshape(*sums.shape[:-2], -1, len(HALVES), sums.shape[-1])  # task, half, temperature
    n = sizes.reshape(-1, len(HALVES))
    of_half, of_all = sums / n[..., None], sums.sum(axis=-2) / n.sum(axis=-1)[..., None]
    by_half, by_all = of_half, of_all
    if rule == AVERAGE:  # one choice for all tasks
        by_half = np.broadcast_to(of_half.mean(axis=-3, keepdims=True), of_half.shape)
        by_all = np.broadcast_to(of_all.mean(axis=-2, keepdims=True), of_all.shape)
    by_half, by_all = (np.round(each, ALIKE).argmax(axis=-1) for each in (by_half, by_all))
    on_test = np.take_along_axis(of_all, by_all[..., None], axis=-1)[..., 0]
    held_out = np.take_along_axis(sums, by_half[..., ::-1, None], axis=-1)[..., 0].sum(axis=-1)
    return 100 * (on_test - held_out / n.sum(axis=-1)).mean(axis=-1)


def readable(found: pd.DataFrame) -> pd.DataFrame:
    """`table` for people: percent by how the temperature was chosen, and the optimism with its interval."""
    shown = pd.DataFrame({"domain": found["domain"].map(DOMAIN_LABELS)})
    shown["method"] = found["method"].replace(METHOD_NAMES)
    shown["chosen for"] = found["rule"].replace(AVERAGE, "the average")
    titles = ("T = 1, %", "chosen on held-out items, %", "chosen on test items, %")
    for name, title in zip(LEVELS, titles, strict=True):
        shown[title] = found[name].map("{:.1f}".format)
    bounds = found[["optimism", "low", "high"]].to_numpy()
    shown["optimism, points"] = [interval_text(*each, signed=False) for each in bounds]
    shown["interval over"] = [f"{row.n} {row.unit}" for row in found.itertuples()]
    return shown


def remark(found: pd.DataFrame) -> str:
    """What the choice of a temperature for each task comes to, in words, by domain; "" without rows."""
    texts = []
    for domain, part in found[found["rule"] == EACH_TASK].groupby("domain", sort=False):
        row = part.iloc[-1]  # all methods, where there are several
        plain, held_out, best = (f"{row[name]:.1f} %" for name in LEVELS)
        text = f"{DOMAIN_LABELS[domain]}: {plain} at temperature 1, {held_out} where that of each task is "
        text += f"chosen on held-out items, {best} where on those that are measured, as by the authors. "
        bought = interval_text(row["optimism"], row["low"], row["high"], signed=False)
        texts.append(f"{text}That alone buys {bought} points.")
    return " ".join(texts)
