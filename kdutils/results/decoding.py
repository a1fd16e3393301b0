"""What the decoding temperature does to accuracy, to agreement with the teacher and to fidelity.

Every function takes rows of results/asked.py, or of `of_pairs`. Student and teacher are compared on
independent samples: the noise of a sampled token is keyed by item, sample and position, so that two equal
models write the same texts, and on one sample would agree whatever the temperature. Agreement stands beside
that of the teacher with another sample of itself. Claim H5 calls this the ceiling; a student that is surer
than the teacher can be above it. Contrasts have intervals from drawing items again, the same ones for all
that is compared, and training seeds where there are several.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kdutils.constants import KD_METHODS
from kdutils.grid.cell_table import model_family, model_parameters
from kdutils.grid.study import has_steps
from kdutils.inference import crossed_bootstrap, intervals, resampling
from kdutils.inference.estimate import Estimate
from kdutils.results import held_out_temperature
from kdutils.results.gain_tables import in_domain_order
from kdutils.runs import comparison

PAIR = ["domain", "teacher", "student"]
SETTING = [*PAIR, "method", "temperature", "top_p"]
TEXT = ["task", "item_id", "sample", "text", "parsed", "correct", "unparsed", "truncated"]
MEASURES = {  # column of shares -> what it is, percent
    "accuracy": "accuracy, %",
    "agreement": "agreement with the teacher, %",
    "fidelity": "BLEU with the teacher, %",
    "truncated": "cut off, % of texts",
    "unparsed": "without an answer, % of texts",
}
SEED = 20_261_129  # of the bootstraps
METHODS = ("sft", *KD_METHODS)


def of_pairs(asked: pd.DataFrame) -> pd.DataFrame:
    """The texts of students and teacher side by side: SETTING, seed and TEXT, a row a text.

    `method` is `teacher` for those of the teacher, which stand under each seed of its students. Items that
    not all settings of a pair have are left out. No rows without KD students.
    """
    if asked.empty:
        return pd.DataFrame(columns=[*SETTING, "seed", *TEXT])
    texts = asked[asked["scoring"] == "generation"]
    pairs = texts.loc[texts["role"] == "kd", [*PAIR, "seed"]].drop_duplicates()
    tuned = {role: texts[texts["role"] == role].drop(columns="teacher") for role in ("sft", "teacher")}
    sft = tuned["sft"].merge(pairs, on=["domain", "student", "seed"])
    teacher = tuned["teacher"].rename(columns={"student": "teacher"}).drop(columns="seed")
    teacher = teacher.assign(method="teacher").merge(pairs, on=["domain", "teacher"])
    rows = pd.concat([texts[texts["role"] == "kd"], sft, teacher])[[*SETTING, "seed", *TEXT]]
    rows = rows.drop_duplicates([*SETTING, "seed", *comparison.KEYS])  # evaluations may share texts
    return _on_common_items(rows, PAIR, [*SETTING, "seed"])


def ladder(asked: pd.DataFrame) -> pd.DataFrame:
    """The texts of models after SFT, students and teachers: domain, student, temperature, seed and TEXT.

    Of the training seeds, temperatures and items that all of them have.
    """
    keys = ["domain", "student", "seed", "temperature"]
    if asked.empty:
        return pd.DataFrame(columns=[*keys, *TEXT])
    is_asked = asked["role"].isin(["sft", "teacher"]) & (asked["scoring"] == "generation")
    rows = asked.loc[is_asked & (asked["top_p"] == 1), [*keys, *TEXT]]
    for name in ("seed", "temperature"):
        rows = rows[rows.groupby(name)["student"].transform("nunique") == rows["student"].nunique()]
    rows = rows.drop_duplicates([*keys, *comparison.KEYS])
    return _on_common_items(rows, ["domain"], keys)


def _on_common_items(rows: pd.DataFrame, of: list[str], setting: list[str]) -> pd.DataFrame:
    """Rows of items that all settings of a group have."""
    rows = rows.assign(setting=rows.groupby(setting, sort=False).ngroup())
    n_settings = rows.groupby(of)["setting"].transform("nunique")
    is_common = rows.groupby([*of, "task", "item_id"])["setting"].transform("nunique") == n_settings
    return rows[is_common].drop(columns="setting").reset_index(drop=True)


def beside_teacher(rows: pd.DataFrame, *, same_noise: bool = False) -> pd.DataFrame:
    """Rows of `of_pairs` with another sample of the teacher's: `text_teacher`, `parsed_teacher`, `agreement`.

    Greedy ones with its greedy text. `same_noise` takes the same sample in place of another.
    """
    keys = [*PAIR, "seed", "temperature", "top_p", "task", "item_id"]
    teacher = rows.loc[rows["method"] == "teacher", [*keys, "sample", "text", "parsed"]]
    both = rows.merge(teacher, on=keys, suffixes=("", "_teacher"))
    is_same = both["sample"] == both["sample_teacher"]
    both = both[is_same if same_noise else ~is_same | (both["temperature"] == 0)].reset_index(drop=True)
    return both.assign(agreement=comparison.same_answer(both).astype(float))


def curves(rows: pd.DataFrame, both: pd.DataFrame) -> pd.DataFrame:
    """MEASURES by setting, means over tasks: SETTING, measure, value, low, high (percent), n (items).

    Fidelity is corpus BLEU, of tasks whose texts reason, and has no interval; its n are pairs of texts.
    """
    plain = rows.rename(columns={"correct": "accuracy"})
    found, frames = [], dict.fromkeys(["accuracy", "truncated", "unparsed"], plain)
    for measure, frame in (frames | {"agreement": both}).items():
        for setting, part in frame.groupby(SETTING, sort=False):
            of_item = part.astype({measure: float}).groupby(["task", "item_id"])[measure].mean()
            share = intervals.mean_over_items(of_item, of_item.index.get_level_values("task"))
            found.append((*setting, measure, *share.bounds, share.n))
    for setting, part in both[both["task"].map(has_steps).astype(bool)].groupby(SETTING, sort=False):
        tasks = [comparison.corpus_bleu(own["text"], own["text_teacher"]) for _, own in part.groupby("task")]
        found.append((*setting, "fidelity", float(np.mean(tasks)), np.nan, np.nan, len(part)))
    table = pd.DataFrame(found, columns=[*SETTING, "measure", "value", "low", "high", "n"])
    order = {name: place for place, name in enumerate([*MEASURES, *METHODS, "teacher"])}
    by, in_order = [*PAIR[1:], "measure", "method", "top_p", "temperature"], ("measure", "method")
    table = table.sort_values(by, key=lambda own: own.map(order) if own.name in in_order else own)
    return in_domain_order(table)


# --- the half-drop temperature -----------------------------------------------------------------------------


def half_drop(above_RT: np.ndarray, temperatures: Sequence[float]) -> np.ndarray:
    """The temperature at which accuracy above chance is half of what it is at the lowest temperature.

    Linear between the temperatures (ascending) at which it was measured, a value for each row (R,). The
    highest temperature stands for a row that never falls so far (censored), NaN for one that is not above
    chance at the lowest, and where one temperature was measured alone. The definition is ours: *Hot or Cold*
    (arXiv:2506.07295) speaks of a mutation temperature, whose definition was not found.
    """
    if len(temperatures) < 2:
        return np.full(len(above_RT), np.nan)
    half_R = above_RT[:, 0] / 2
    is_below_RT = above_RT < half_R[:, None]
    after = np.maximum(is_below_RT.argmax(axis=1), 1)
    rows, places = np.arange(len(half_R)), np.asarray(temperatures, dtype=float)
    upper, lower = above_RT[rows, after - 1], above_RT[rows, after]
    share = crossed_bootstrap.ratio(upper - half_R, upper - lower)
    found = places[after - 1] + share * (places[after] - places[after - 1])
    found = np.where(is_below_RT.any(axis=1), found, places[-1])
    return np.where(half_R > 0, found, np.nan)


def half_drops(rows: pd.DataFrame, *, by: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    """`half_drop` in every resample (rows, the first of the items as they are), a column a group of `by`."""
    groups = list(by)
    accuracy = 100 * crossed_bootstrap.group_means(rows, "correct", by=[*groups, "temperature"], rng=rng)
    chance = rows.drop_duplicates(["domain", "task"])
    chance = chance["task"].map(comparison.chance_accuracy).groupby(chance["domain"]).mean()
    found, settings = {}, accuracy.columns.to_frame(index=False)
    for key, own in settings.sort_values("temperature").groupby(groups, sort=False):
        above = accuracy.to_numpy()[:, own.index] - chance[own["domain"].iloc[0]]
        found[key] = half_drop(above, list(own["temperature"]))
    return pd.DataFrame(found).rename_axis(columns=groups)


def half_drop_table(drops: pd.DataFrame, highest: float) -> pd.DataFrame:
    """Half-drop temperatures with 95% intervals over items: the columns of `drops`, value, low, high, text.

    `text` is `above 2` for one that is censored at the `highest` temperature, which then bounds the interval.
    """
    table = drops.columns.to_frame(index=False)
    why = "it is not above chance at the lowest temperature"
    found = [crossed_bootstrap.estimate(drops[key].to_numpy(), why_undefined=why) for key in drops]
    table = table.assign(**{name: [getattr(one, name) for one in found] for name in ("value", "low", "high")})
    text = [f"above {highest:g}" if one.value >= highest else one.text(2, signed=False) for one in found]
    return table.assign(text=text)


# --- the declared contrasts -------------------------------------------------------------------------------


def contrasts(asked: pd.DataFrame) -> dict[str, Estimate | str]:
    """The values of H1 to H5 (claims.toml), or why there are none.

    Means over pairs and domains, of H2 and H3 over KD methods too; top_p is 1. H1 and H2 are of the items
    that all students were asked at 0 and at 1, H5 counts SFT as a method. Half-drop temperatures are bounded
    by the highest temperature that was asked.
    """
    plain, found, by = asked[asked["top_p"] == 1], {}, [*PAIR, "method"]
    rows, rng = of_pairs(plain), np.random.default_rng(SEED)
    there = set(rows["method"])
    kd = [method for method in KD_METHODS if method in there]
    ends = of_pairs(plain[plain["temperature"].isin([0.0, 1.0]) & (plain["role"] != "teacher")])
    if set(ends["temperature"]) == {0.0, 1.0}:
        accuracy = 100 * crossed_bootstrap.group_means(ends, "correct", by=[*by, "temperature"], rng=rng)
        steps = [accuracy.xs(temperature, axis=1, level="temperature") for temperature in (1.0, 0.0)]
        step = {one: (steps[0] - steps[1]).xs(one, axis=1, level="method") for one in there - {"teacher"}}
        if {"revkd", "fkl"} <= there:
            found["H1"] = _estimate([step["revkd"] - step["fkl"]], ends)
        if "sft" in there:
            found["H2"] = _estimate([step[one] - step["sft"] for one in kd], ends)
    if {"sft", "teacher"} <= there and rows["temperature"].nunique() > 1:
        drops = half_drops(rows, by=by, rng=rng)
        of = {one: drops.xs(one, axis=1, level="method") for one in there}
        nearer = [(of[one] - of["teacher"]).abs() - (of["sft"] - of["teacher"]).abs() for one in kd]
        found["H3"] = _estimate(nearer, rows)
    found["H4"] = _rise_with_size(ladder(asked))
    sampled = beside_teacher(rows[rows["temperature"] == 1])
    if len(sampled) and len(kd) > 1:
        agreement = 100 * crossed_bootstrap.group_means(sampled, "agreement", by=[*by, "task"], rng=rng)
        found["H5"] = _estimate([reordered(agreement)], sampled)
    why = "the runs or temperatures that it compares were not asked"
    return {name: found.get(name, why) for name in ("H1", "H2", "H3", "H4", "H5")}


def _estimate(values: Sequence[pd.DataFrame | pd.Series], rows: pd.DataFrame) -> Estimate:
    """The mean of all columns, undefined if one is, with its interval; n counts the items of the rows."""
    why = "a half-drop temperature is undefined: accuracy is not above chance at the lowest temperature"
    mean = pd.concat(values, axis=1).mean(axis=1, skipna=False)
    n = len(rows[["task", "item_id"]].drop_duplicates())
    return replace(crossed_bootstrap.estimate(mean.to_numpy(), why_undefined=why), n=n)


def _rise_with_size(models: pd.DataFrame) -> Estimate | str:
    """Spearman's rho of half-drop temperature and size, families as blocks, mean over domains."""
    of_size = models.drop_duplicates("student")["student"]
    families = of_size.groupby(of_size.map(model_family)).agg(list)
    families = [own for own in families if len(own) > 2]
    if not families or models["temperature"].nunique() < 2:
        return "no family with three sizes was asked at several temperatures"
    drops, found = half_drops(models, by=["domain", "student"], rng=np.random.default_rng(SEED)), []
    for domain in dict.fromkeys(models["domain"]):
        top, square_x, square_y = 0.0, 0.0, 0.0
        for own in families:
            x = resampling.centred_ranks(np.array([model_parameters(name) for name in own]))
            values = drops[[(domain, name) for name in own]].to_numpy()
            y = resampling.centred_ranks(values)
            top, square_x, square_y = top + y @ x, square_x + x @ x, square_y + (y**2).sum(axis=1)
        found.append(crossed_bootstrap.ratio(top, np.sqrt(square_x * square_y)))
    return replace(_estimate([pd.DataFrame(found).T], models), n=sum(map(len, families)))


def reordered(agreement: pd.DataFrame) -> pd.Series:
    """Percent of the pairs of methods that the share of the ceiling orders otherwise than agreement does.

    Takes agreements by PAIR, method and task, whose `teacher` is the ceiling; a value for each row, which is
    a resample. Where one order has a tie, the pair counts as half.
    """
    ceiling = agreement.xs("teacher", axis=1, level="method")
    methods = [one for one in METHODS if one in agreement.columns.get_level_values("method")]
    own = {one: agreement.xs(one, axis=1, level="method") for one in methods}
    orders = {}
    for place, left in enumerate(methods):
        for right in methods[:place]:
            raw = (own[left] - own[right]).T.groupby(PAIR, sort=False).mean().T
            share = ((own[left] - own[right]) / ceiling).T.groupby(PAIR, sort=False).mean().T
            orders[left, right] = 50 * (np.sign(raw.round(9)) - np.sign(share.round(9))).abs().mean(axis=1)
    return pd.DataFrame(orders).mean(axis=1)


# --- a temperature chosen on held-out items ----------------------------------------------------------------


def selected(rows: pd.DataFrame) -> pd.DataFrame:
    """A temperature chosen by task on half of the items and measured on the other, in turn (as in 07).

    Takes `of_pairs`; a row a pair x method. Columns PAIR, method, `selected` (accuracy, percent), and what
    it is above temperature 1 and above greedy decoding on the same items, points, each with its bounds:
    gain, low, high; greedy_gain, greedy_low, greedy_high. No rows unless both were asked.
    """
    keys, case = [*PAIR, "method"], held_out_temperature.CASE
    columns = [*keys, "selected", "gain", "low", "high", "greedy_gain", "greedy_low", "greedy_high"]
    rows = rows[rows["top_p"] == 1].assign(protocol="careful", rouge_l=np.nan)
    if not {0.0, 1.0} <= set(rows["temperature"]):
        return pd.DataFrame(columns=columns)
    names = [*case, "temperature", "seed"]
    runs = rows.groupby(names, sort=False)
    halves = [
        held_out_temperature.sums(own).assign(**dict(zip(names, run, strict=True))) for run, own in runs
    ]
    chosen = held_out_temperature.choices(pd.concat(halves))[[*keys, "task", "by_0", "by_1"]].dropna()
    items = rows.groupby([*keys, "task", "item_id", "temperature"], sort=False)["correct"].mean()
    items = items.unstack("temperature").astype(float)
    by_item = items.index.to_frame(index=False).merge(chosen, on=[*keys, "task"], how="left")
    half = by_item["item_id"].map(held_out_temperature.half_of)
    picked = items.columns.get_indexer(by_item["by_1"].where(half == 0, by_item["by_0"]))
    by_item["value"] = items.to_numpy()[np.arange(len(items)), picked]
    by_item[["greedy", "one"]] = items[[0.0, 1.0]].to_numpy()
    found = []
    for key, own in by_item.dropna(subset=["by_0"]).groupby(keys, sort=False):
        gains = [
            intervals.difference_over_items(own["value"] - own[one], own["task"]) for one in ("one", "greedy")
        ]
        level = intervals.mean_over_items(own["value"], own["task"]).value
        found.append((*key, level, *gains[0].bounds, *gains[1].bounds))
    return pd.DataFrame(found, columns=columns)
