"""Students that start after SFT, and pairs of prefix and divergence, each beside SFT that starts alike.

All is compared on the same items, question by question, read strictly. An interval speaks of other questions
of these tasks; it holds neither other pairs nor other training seeds.
"""

import pandas as pd

from kdutils.constants import DOMAIN_LABELS, METHOD_NAMES, is_text
from kdutils.data import sources
from kdutils.grid.plan import Plan
from kdutils.inference.intervals import difference_by_item
from kdutils.results.gain_tables import in_domain_order, interval_text
from kdutils.runs import store

PAIR = ["domain", "teacher", "student", "seed"]
ITEM = ["task", "item_id"]
COLUMNS = [*PAIR, "student_start", "method", "prefix", "divergence", "decoding", *ITEM]
COLUMNS += ["kd", "sft", "in_format"]
SAMPLED_GAIN = "gain of sampled texts, points"


def read(plan: Plan) -> pd.DataFrame:
    """The answers of a plan's finished KD students, a row each: COLUMNS.

    `kd` and `sft` say whether the student, and its SFT from the same start, are right (of several samples
    their share); `in_format` whether the student's answer stands where the response format puts it. Students
    are careful, of a tuned teacher at temperature 1 without noise, without a factor of the other protocol,
    and not of instructions.
    """
    tables = []
    runs = {run: each.decoding for each in (plan, *plan.others) for run in (*each.runs, *each.variants)}
    usual = {run.evaluation for each in (plan, *plan.others) for run in each.runs}  # and not a factor's
    for run, decoding in runs.items():
        spec = run.spec
        plain = spec.protocol, spec.temperature, spec.noise_sigma, spec.prompt_in_loss, spec.mean_by_sequence
        is_shown = spec.teacher_spec and plain == ("careful", 1.0, 0.0, None, None)
        if not is_shown or run.evaluation not in usual:
            continue
        spec = sources.resolved(spec)
        folders = (store.folder_of(plan.out, own.run_id) for own in (spec, spec.sft_spec))
        kd, sft = (folder.evaluation(run.evaluation) for folder in folders)
        if is_text(run.evaluation.tasks[0]) or kd is None or sft is None:
            continue
        sft = sft.assign(sft=sft["correct_strict"]).groupby(ITEM, as_index=False)[["sft"]].mean()
        kd = kd.assign(kd=kd["correct_strict"], in_format=kd["parsed_strict"].notna())
        kd = kd.groupby(ITEM, as_index=False)[["kd", "in_format"]].mean()  # over an item's samples
        own = {name: getattr(spec, name) for name in (*PAIR, "student_start")}
        own["decoding"] = decoding
        own |= {"method": spec.named_method} | spec.recipe._asdict()
        tables.append(kd.merge(sft, on=ITEM, validate="one_to_one").assign(**own)[COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def by_start(rows: pd.DataFrame) -> pd.DataFrame:
    """Gains of the pairs and methods that start both ways; no rows where none starts after SFT."""
    keys = [*PAIR, "method"]
    return _table(_with_all(rows, keys, ["student_start"], 2), ["method", "student_start"])


def by_recipe(rows: pd.DataFrame) -> pd.DataFrame:
    """Gold or own texts x forward or reverse KL, of the pairs that have all four; else no rows."""
    is_shown = rows["prefix"].isin(["gold", "student"]) & (rows["student_start"] == "base")
    rows = rows[is_shown & rows["divergence"].isin(["forward_kl", "reverse_kl"])]
    return _table(_with_all(rows, PAIR, ["prefix", "divergence"], 4), ["prefix", "divergence"])


def _with_all(rows: pd.DataFrame, keys: list[str], by: list[str], n: int) -> pd.DataFrame:
    """Rows of those `keys` that have answers of all `n` ways of `by` in a decoding: like is compared."""
    ways = rows[[*keys, "decoding", *by]].drop_duplicates().groupby([*keys, "decoding"]).size()
    full = ways[ways == n].reset_index()[[*keys, "decoding"]]
    return rows.merge(full, on=[*keys, "decoding"])


def _table(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A row a domain x group: percent, and the gain in points; a question's value is its mean over pairs.

    Of greedy texts, and beside it the gain of texts sampled at temperature 1 where there are such.
    """
    table, measured = [], ["strict accuracy, %", "answer in the format, %", "gain, points"]
    for key, part in in_domain_order(rows).groupby(["domain", *by], sort=False):
        greedy, sampled = (part[part["decoding"] == each] for each in ("greedy", "sampled"))
        if greedy.empty:
            continue
        of_item = greedy[[*ITEM, "kd", "in_format"]].groupby(ITEM).mean()
        means = 100 * of_item.groupby(level="task").mean().mean()
        found = (means["kd"], means["in_format"], _gain(greedy), _gain(sampled))
        counts = len(of_item), len(greedy[PAIR].drop_duplicates())
        table.append((DOMAIN_LABELS[key[0]], *key[1:], *found, *counts))
    measured += [SAMPLED_GAIN, "questions", "pairs x seeds"]
    found = pd.DataFrame(table, columns=["domain", *by, *measured]).replace({"method": METHOD_NAMES})
    return found if (found[SAMPLED_GAIN] != "").any() else found.drop(columns=SAMPLED_GAIN)


def _gain(part: pd.DataFrame) -> str:
    """The gain with its interval in points; empty without answers."""
    if part.empty:
        return ""
    of_item = part[[*ITEM, "kd", "sft"]].groupby(ITEM).mean()
    return interval_text(*difference_by_item(of_item["kd"] - of_item["sft"]).bounds)
