"""Whether an answer hangs on the ones before it in the order of the items: recency and Markov tests.

Items are asked alone, so that it can only through the order of the items: what is found here is no memory.
Both take label_bias.of_labels and read rotation 0.
"""

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from kdutils.results.label_bias import ITEM, logprobs, who

RIGHT = "right answers"


def recency(rows: pd.DataFrame) -> pd.DataFrame:
    """Change of a label's logit (nats) for each time in a row that it was the answer just before, by who.

    Least squares with a mean for each label of each model and task; errors are clustered by item, which all
    models answer. Columns who, slope, low, high, p_value, n. Compare slopes with each other: that of
    independent answers is somewhat below zero, too, since a streak is made of the same finite sequence
    (Miller & Sanjurjo 2018, Econometrica 86).
    """
    import statsmodels.api as sm  # takes a second to import

    own, table = who(rows[rows["rotation"] == 0]), []
    keys = [own["who"], own["run_id"], own["task"]]
    before = own["place"].groupby(keys).shift()
    streak = (own["place"] != before).cumsum()
    length = (own.groupby(streak).cumcount() + 1).groupby(keys).shift()
    own, length = own[before.notna()], length.dropna()
    at, logits = (np.arange(len(own)), before.dropna().astype(int)), logprobs(own)
    of_label = logits[at]
    logits[at] = -np.inf
    of_others = scipy.special.logsumexp(np.nan_to_num(logits, nan=-np.inf), axis=1)
    means = [own["run_id"], own["task"], before[own.index]]
    cases = pd.DataFrame({"logit": of_label - of_others, "length": length}, index=own.index)
    cases -= cases.groupby(means).transform("mean")
    item = own.groupby(ITEM).ngroup()
    for name, part in cases.groupby(own["who"], sort=False):
        if part["length"].any():
            groups = {"groups": item[part.index]}
            fit = sm.OLS(part["logit"], part["length"]).fit(cov_type="cluster", cov_kwds=groups)
            table.append((name, *fit.params, *fit.conf_int().loc["length"], *fit.pvalues, len(part)))
    return pd.DataFrame(table, columns=["who", "slope", "low", "high", "p_value", "n"])


def markov(rows: pd.DataFrame) -> pd.DataFrame:
    """In how many sequences a label hangs on the one before (order 0 against order 1, p < 0.05), by who.

    A sequence is a model's answers to one task, of `RIGHT` the right answers. Columns who, sequences,
    rejected (percent of them; 5 by chance) and G2 / df (their mean; about 1 by chance).
    Source: Anderson & Goodman 1957 (Annals of Mathematical Statistics 28).
    """
    own = who(rows[rows["rotation"] == 0])
    gold = own.drop_duplicates(ITEM).assign(who=RIGHT, run_id=RIGHT)
    gold["place"] = [list(o).index(answer) for o, answer in zip(gold["options"], gold["answer"], strict=True)]
    found = []
    for (name, _, _), part in pd.concat([own, gold]).groupby(["who", "run_id", "task"], sort=False):
        counts = pd.crosstab(part["place"].to_numpy()[:-1], part["place"].to_numpy()[1:]).to_numpy()
        if min(counts.shape) > 1:
            test = scipy.stats.chi2_contingency(counts, correction=False, lambda_="log-likelihood")
            found.append((name, 100.0 * (test.pvalue < 0.05), test.statistic / test.dof))
    table = pd.DataFrame(found, columns=["who", "rejected", "G2 / df"]).groupby("who", sort=False)
    return table.mean().assign(sequences=table.size()).reset_index()
