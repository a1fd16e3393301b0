"""Label bias: how much of an answer is its label, and what accuracy, agreement and gain are without that.

Takes rows of asked.read with scoring `label`: one a model x item x order of the item's options, with the
log-probability of each label. A label is what the prompt calls the option at a place (`answer1`, `true`):
when options move, labels stay. A model's label prior is its mean log-probability of each label, over items
and orders; over all orders each option stands at each place equally often, so that what is left is what the
model says whatever is asked (Zheng et al. 2024, arXiv:2309.03882). Options without an order (BoolQ) are not
moved: their prior is a mean over items, and so holds how often each is right.

`compared` puts a KD student beside its base model, its SFT and its teacher; `resample` draws students and
items again, and `values` gives each quantity by student and task in every resample.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from kdutils.constants import ALL_TASKS, AVERAGE, KD_METHODS, METHOD_LABELS, TASK_LABELS
from kdutils.inference import crossed_bootstrap, intervals
from kdutils.inference.crossed_bootstrap import Resampled, ratio
from kdutils.inference.estimate import Estimate

ITEM = ["task", "item_id"]
OF_ITEM = (*ITEM, "answer", "options", "logprobs", "contents")
PAIR = ["domain", "teacher", "student", "seed"]
STRATUM = [*PAIR, "method", "task"]
TEACHER = "teacher"  # in the column `who`, beside the methods of students
SIDES = ("", "_sft", "_base", "_teacher")  # of the columns of `compared`: the KD student's have no suffix
PLAIN = {"divergence_temperature": 1.0, "noise_sigma": 0.0, "teacher_tuned": True}  # columns, if they vary
CHANGES = ("prior_distance", "sensitivity", "criterion", "agreement", "agreement_free")  # from SFT to KD
SHARES = ("same_label", "same_option")  # of questions
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)


# --- rows ---------------------------------------------------------------------------------------------------


def _has_two(task: str) -> bool:
    return len(ALL_TASKS[task].options) == 2


def of_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that were scored by label, each order of an item's options once, with `place` of the answer.

    `logprobs` are made those given that one of the labels is said (nats); places are counted from 0, and the
    first label of BoolQ is `true`, as in its prompt.

    Raises:
        ValueError: for an item that was not also scored in its own order (rotation 0).
    """
    rows = rows[rows["scoring"] == "label"]
    named = rows.columns.union(OF_ITEM, sort=False)  # all but columns of a plan without such rows
    rows = rows.reindex(columns=named).astype(dict.fromkeys(OF_ITEM, object))
    order = rows["contents"].map(tuple)
    rows = rows[~rows.assign(order=order).duplicated(["run_id", *ITEM, "order"])].reset_index(drop=True)
    backwards = rows["options"].map(tuple) == rows["task"].map(lambda task: ALL_TASKS[task].options[::-1])
    for name in ("options", "logprobs"):
        rows[name] = rows[name].map(list).mask(backwards, rows[name].map(lambda each: list(each)[::-1]))
    lonely = rows.groupby(["run_id", *ITEM])["rotation"].min() != 0
    if lonely.any():
        raise ValueError(f"{lonely.idxmax()} has no row of rotation 0: evaluate it with rotation=0, too")
    return _answered(rows, logprobs(rows))


def logprobs(rows: pd.DataFrame) -> np.ndarray:
    """Log-probability (nats) of each label given that one of them is said: rows x labels, NaN for none."""
    lengths = rows["logprobs"].map(len).to_numpy(int)
    found_NL = np.full((len(rows), lengths.max(initial=1)), np.nan)
    found_NL[np.arange(found_NL.shape[1]) < lengths[:, None]] = np.concatenate([[], *rows["logprobs"]])
    whole_N = scipy.special.logsumexp(np.nan_to_num(found_NL, nan=-np.inf), axis=1, keepdims=True)
    return found_NL - whole_N


def without_prior(rows: pd.DataFrame) -> pd.DataFrame:
    """`of_labels` with the model's label prior of each task taken out, and answered anew.

    No right answer is used. An item that cannot be asked in all orders counts as often as it was asked.
    """
    table = pd.DataFrame(logprobs(rows), index=rows.index)
    prior = table.groupby([rows["run_id"], rows["task"]]).transform("mean")
    return _answered(rows, (table - prior).to_numpy())


def _answered(rows: pd.DataFrame, logprobs_NL: np.ndarray) -> pd.DataFrame:
    """Rows with these log-probabilities, and the likeliest label as the answer."""
    place = np.nanargmax(logprobs_NL, axis=1) if len(rows) else np.zeros(0, dtype=int)
    parsed = pd.Series([labels[at] for labels, at in zip(rows["options"], place, strict=True)], rows.index)
    kept = [each[np.isfinite(each)] for each in logprobs_NL]
    answered = {"place": place, "parsed": parsed.astype(object), "correct": parsed == rows["answer"]}
    return rows.assign(logprobs=pd.Series(kept, rows.index, dtype=object), **answered)


def comparisons(rows: pd.DataFrame) -> pd.DataFrame:
    """KD students with the runs they are compared with: PAIR, method, run_id and that of each of SIDES.

    KD is that of a tuned teacher at temperature 1 without noise, the teacher its SFT with seed 0. Students
    without one of those are left out. Where no model was asked as it is, there is no side `_base`.
    """
    runs = rows.drop_duplicates("run_id")
    for name, plain in PLAIN.items():
        runs = runs[runs[name] == plain] if name in runs else runs
    runs = runs[[*PAIR, "method", "run_id"]]
    found = runs[runs["method"].isin(KD_METHODS)]
    sft, base = (runs[runs["method"] == name] for name in ("sft", "base"))
    teachers = sft[sft["seed"] == 0].assign(teacher=lambda of_model: of_model["student"])
    for side, others, on in (
        ("_sft", sft, ["domain", "student", "seed"]),
        ("_base", base, ["domain", "student"]),
        ("_teacher", teachers, ["domain", "teacher"]),
    ):
        if side == "_base" and others.empty:
            continue
        others = others[[*on, "run_id"]].rename(columns={"run_id": f"run_id{side}"})
        found = found.merge(others, on=on, validate="many_to_one")
    return found


def _sides(table: pd.DataFrame) -> list[str]:
    """Those of SIDES that are there."""
    return [side for side in SIDES if f"run_id{side}" in table]


def who(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the models in `comparisons`, with `who`: a student's method, or TEACHER; one may be both."""
    pairs = comparisons(rows)
    named = {"": pairs["method"], "_sft": "sft", "_base": "base", "_teacher": TEACHER}
    runs = {side: pairs[[f"run_id{side}"]].set_axis(["run_id"], axis=1) for side in _sides(pairs)}
    parts = [own.assign(who=named[side]) for side, own in runs.items()]
    order = [*METHOD_LABELS, TEACHER].index
    roles = pd.concat(parts).drop_duplicates().sort_values("who", key=lambda each: each.map(order))
    return roles.merge(rows, on="run_id")


# --- plain means: labels, priors, P(label) at each temperature ----------------------------------------------


def labels(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each label is said, how likely it is and how often right, by who and task, over all orders.

    Takes `of_labels`. Columns who, task, label, place; said, prior (softmax of the label prior) and gold in
    percent. Models of a kind count the same.
    """
    named, table = who(rows), []
    found = named[["who", "task", "run_id"]].join(pd.DataFrame(logprobs(named)))
    for (name, task), part in found.groupby(["who", "task"], sort=False):
        of_run = part.drop(columns=["who", "task"]).groupby("run_id").mean().dropna(axis=1)
        prior = scipy.special.softmax(of_run.to_numpy(), axis=1).mean(axis=0)
        own = named.loc[part.index]
        for place, likely in enumerate(prior):
            label = own["options"].str[place]
            shares = 100 * (own["place"] == place).mean(), 100 * likely, 100 * (own["answer"] == label).mean()
            table.append((name, task, label.dropna().iloc[0], place, *shares))
    return pd.DataFrame(table, columns=["who", "task", "label", "place", "said", "prior", "gold"])


def one_shot(rows: pd.DataFrame, temperatures: Sequence[float] = TEMPERATURES) -> pd.DataFrame:
    """Mean probability, percent, of the first of two labels at each temperature; no text is sampled for it.

    Takes `of_labels`. Columns who, task, label, temperature, share, gold (how often that label is right).
    """
    two, table = who(rows[rows["task"].map(_has_two).astype(bool)]), []
    logits, gold = logprobs(two), 100.0 * (two["answer"] == two["options"].str[0])
    label = two["task"].map(TASK_LABELS) + ": " + two["options"].str[0]
    for temperature in temperatures:
        share = 100 * scipy.special.softmax(logits / temperature, axis=1)[:, :1].mean(axis=1)
        own = two[["who", "task"]].assign(label=label, temperature=temperature, share=share, gold=gold)
        table.append(own.groupby(["who", "task", "label", "temperature"], sort=False).mean().reset_index())
    return pd.concat(table, ignore_index=True)


# --- students beside their base model, their SFT and their teacher ------------------------------------------


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a KD student x item: STRATUM, item_id, and sums over the item's orders for each of SIDES.

    Takes `of_labels`. Sums: n (orders), gold_first, hits and false_alarms of the first label; logprob_0, ...
    and has_0, ... of each label; same_label and same_option (1: in all orders), turned (1: there are
    several); and of rotation 0 `right`, `said` (the place), both also with the suffix _free: without prior.
    """
    found_NL, free, asked = logprobs(rows), without_prior(rows), rows["rotation"] == 0
    gold, first = rows["answer"] == rows["options"].str[0], rows["place"] == 0
    sums = {"n": 1.0, "gold_first": gold, "hits": first & gold, "false_alarms": first & ~gold}
    for place in range(found_NL.shape[1]):
        sums[f"logprob_{place}"] = np.nan_to_num(found_NL[:, place])
        sums[f"has_{place}"] = np.isfinite(found_NL[:, place])
    for suffix, answers in (("", rows), ("_free", free)):
        sums[f"right{suffix}"] = asked & answers["correct"]
        sums[f"said{suffix}"] = answers["place"].where(asked, 0)
    option = [contents[at] for contents, at in zip(rows["contents"], rows["place"], strict=True)]
    keys = rows[["run_id", *ITEM]]
    items = keys.assign(**sums).groupby(["run_id", *ITEM], sort=False).sum().astype(float)
    kinds = keys.assign(label=rows["place"], option=option).groupby(["run_id", *ITEM], sort=False).nunique()
    items["turned"] = (items["n"] > 1).astype(float)
    for name in ("label", "option"):
        items[f"same_{name}"] = (kinds[name] == 1) * items["turned"]
    items, found = items.reset_index(), comparisons(rows)
    for side in _sides(found):
        own = items.rename(columns={name: f"{name}{side}" for name in items if name not in ITEM})
        found = found.merge(own, on=[f"run_id{side}", *([*ITEM] if side else [])])
    for free in ("", "_free"):
        for side in ("", "_sft"):
            found[f"same{free}{side}"] = found[f"said{free}{side}"] == found[f"said{free}_teacher"]
    return found.assign(items=1.0)


def resampled(both: pd.DataFrame, *, rng: np.random.Generator) -> tuple[Resampled, dict[str, np.ndarray]]:
    """Students and items of `compared` drawn again, and by name each quantity: resample x stratum.

    Percent or points: same_label, same_option, accuracy, agreement, gain, `prior_distance` (total variation
    between the priors of student and teacher). In standard deviations of a normal, of tasks with two options
    and with the log-linear correction (Hautus 1995): `criterion`, above 0 where the first label is said too
    seldom, and `sensitivity`, half of d', which is of the same scale. NaN where there is none. Suffixes: of
    SIDES, and before them _free: without prior. `d_NAME` is the change from SFT to KD.
    """
    names = [name for name in both if name not in (*STRATUM, *ITEM) and not name.startswith("run_id")]
    drawn = crossed_bootstrap.resampled(both, strata=STRATUM, clusters=["student"], values=names, rng=rng)
    sums, two = drawn.sums, drawn.keys["task"].map(_has_two).astype(bool).to_numpy()
    found: dict[str, np.ndarray] = {}
    priors = {}
    for side in _sides(both):
        for name in SHARES:
            found[f"{name}{side}"] = 100 * ratio(sums(f"{name}{side}"), sums("turned"))
        for free in ("", "_free"):
            found[f"accuracy{free}{side}"] = 100 * ratio(sums(f"right{free}{side}"), sums("items"))
        n_first, n_other = sums("gold_first"), sums("n") - sums("gold_first")
        hits = (sums(f"hits{side}") + 0.5) / (n_first + 1)
        false = (sums(f"false_alarms{side}") + 0.5) / (n_other + 1)
        z_hits, z_false = (np.where(two, scipy.special.ndtri(each), np.nan) for each in (hits, false))
        found |= {f"sensitivity{side}": (z_hits - z_false) / 2, f"criterion{side}": -(z_hits + z_false) / 2}
        places = range(sum(name.startswith("has_") and name[4:].isdigit() for name in names))
        means = np.stack([ratio(sums(f"logprob_{at}{side}"), sums(f"has_{at}")) for at in places])
        priors[side] = scipy.special.softmax(np.nan_to_num(means, nan=-np.inf), axis=0)
    for side in [side for side in priors if side != "_teacher"]:
        found[f"prior_distance{side}"] = 50 * np.abs(priors[side] - priors["_teacher"]).sum(axis=0)
    for free in ("", "_free"):
        for side in ("", "_sft"):
            found[f"agreement{free}{side}"] = 100 * ratio(sums(f"same{free}{side}"), sums("items"))
        found[f"gain{free}"] = found[f"accuracy{free}"] - found[f"accuracy{free}_sft"]
    for name in CHANGES:
        found[f"d_{name}"] = found[name] - found[f"{name}_sft"]
    return drawn, found


def mean(drawn: Resampled, values_RS: np.ndarray, where: np.ndarray | slice = slice(None)) -> Estimate:
    """Mean of a quantity over the strata `where` it is defined; students count the same."""
    chosen = np.zeros(len(drawn.keys), dtype=bool)
    chosen[where] = True
    chosen &= np.isfinite(values_RS[0])
    share = drawn.keys[chosen].groupby("student")["student"].transform("size").to_numpy(float)
    of_resamples = crossed_bootstrap.weighted_mean(values_RS[:, chosen], drawn.weights_RS[:, chosen] / share)
    found = crossed_bootstrap.estimate(of_resamples, why_undefined="no such task", why_not=drawn.why_not)
    return replace(found, n=drawn.keys.loc[chosen, "student"].nunique())


def by_who(
    drawn: Resampled, found: dict[str, np.ndarray], names: Sequence[str], *, by_task: bool = True
) -> pd.DataFrame:
    """`mean` of quantities for each kind of model (`who`), by task or over all tasks.

    Columns who, task, label, quantity, value, low, high, n (students); no row of what a kind has not. A share
    of none or all of a task's questions has the exact interval of a share of as many.
    """
    keys, rows = drawn.keys, []
    groups = keys.groupby("task", sort=False) if by_task else [(AVERAGE, keys)]
    for (task, part), name in product(groups, names):
        sides = {"base": ("_base", part), "sft": ("_sft", part)}
        sides |= {method: ("", own) for method, own in part.groupby("method", sort=False)}
        for kind, (side, own) in (sides | {TEACHER: ("_teacher", part)}).items():
            if f"{name}{side}" in found:
                each = mean(drawn, found[f"{name}{side}"], own.index.to_numpy())
                if name in SHARES and each.low == each.high:  # no resample can differ where all are alike
                    n = int(drawn.sums("turned")[0][own.index].max())
                    each = replace(intervals.share_interval(each.value * n / 100, n), n=each.n)
                rows.append((kind, task, TASK_LABELS[task], name, *each.bounds, each.n))
    columns = ["who", "task", "label", "quantity", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).dropna(subset=["value"], ignore_index=True)


def contrast_values(drawn: Resampled, found: dict[str, np.ndarray]) -> dict[str, Estimate | str]:
    """The contrasts of section 14 by id (claims.toml says what each is), or why one cannot be tested."""
    if drawn.keys.empty:
        return dict.fromkeys(("B1", "B2", "B3", "B4"), "no KD student was scored by label beside its teacher")
    is_fkl = (drawn.keys["method"] == "fkl").to_numpy()
    two = drawn.keys["task"].map(_has_two).astype(bool).to_numpy()
    criterion, sensitivity = np.abs(found["d_criterion"]), np.abs(found["d_sensitivity"])
    return {
        "B1": mean(drawn, -found["d_prior_distance"], is_fkl),
        "B2": mean(drawn, criterion - sensitivity, two),
        "B3": mean(drawn, found["agreement"] - found["agreement_free"], two),
        "B4": rank_agreement(drawn, found["gain"], found["gain_free"]),
    }


def rank_agreement(drawn: Resampled, one: np.ndarray, other: np.ndarray) -> Estimate:
    """Kendall's tau between the orders of methods by two quantities: mean over pairs, students the same.

    Of means over tasks; methods of equal means are neither in order nor out of it. Resampling adds noise to
    orders, so that the interval leans to zero.
    """
    units, taus = drawn.keys.groupby(PAIR, sort=False), []
    weights = drawn.weights_RS[:, [part.index[0] for _, part in units]]
    for _, part in units:
        means = [
            {method: values[:, own.index].mean(axis=1).round(9) for method, own in part.groupby("method")}
            for values in (one, other)
        ]
        signs = [
            np.sign(means[0][a] - means[0][b]) * np.sign(means[1][a] - means[1][b])
            for a, b in combinations(means[0], 2)
        ]
        taus.append(np.mean(signs, axis=0) if signs else np.full(len(one), np.nan))
    share = units.first().reset_index().groupby("student")["student"].transform("size").to_numpy(float)
    of_resamples = crossed_bootstrap.weighted_mean(np.stack(taus, axis=1), weights / share)
    found = crossed_bootstrap.estimate(of_resamples, why_undefined="one method", why_not=drawn.why_not)
    return replace(found, n=drawn.keys["student"].nunique())
