"""The table that *Hot or Cold* (arXiv:2506.07295) released: a score by model, ability and temperature.

Twelve models of 1 to 70 billion parameters in 4 bits, top_p 0.9 throughout, one number a cell without an
error. It ships as hot_or_cold.csv, whose head says where it is from. Size goes with family there, so that its
effect is one of size within families alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kdutils.inference import resampling
from kdutils.results.decoding import half_drop

ABILITIES = {
    "CR": "causal reasoning",
    "CT": "creativity",
    "ICL": "in-context learning",
    "IF": "instruction following",
    "MT": "translation",
    "SUMM": "summarisation",
}


def read() -> pd.DataFrame:
    """Columns model, family, billions (nominal parameters), temperature, ability, score (higher: better)."""
    return pd.read_csv(Path(__file__).with_suffix(".csv"), comment="#")


def by_model(table: pd.DataFrame) -> pd.DataFrame:
    """What each model keeps: ability, family, model, billions, kept, half_drop; families by size.

    `kept` is the score at the highest temperature in percent of that at the lowest, `half_drop` as of
    decoding.half_drop with chance 0, the highest temperature where the score never falls so far.
    """
    keys = ["ability", "family", "model", "billions"]
    wide = table.pivot(index=keys, columns="temperature", values="score").sort_index(
        level=["ability", "family", "billions"]
    )
    scores = wide.to_numpy()
    found = wide.index.to_frame(index=False).assign(kept=100 * scores[:, -1] / scores[:, 0])
    return found.assign(half_drop=half_drop(scores, list(wide.columns)))


def rise_with_size(models: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Spearman's rho of size and what is kept, a row an ability: over all models, and within families.

    Takes `by_model`. Columns ability, all, p, n, within, within_p, within_n (models that have another of
    their family).
    """
    found = []
    for ability, own in models.groupby("ability", sort=False):
        tests = [
            resampling.rank_permutation(own["billions"], own["kept"], blocks=blocks, rng=rng)
            for blocks in (None, own["family"])
        ]
        found.append((ABILITIES[ability], *(x for one in tests for x in (one.statistic, one.p_value, one.n))))
    return pd.DataFrame(found, columns=["ability", "all", "p", "n", "within", "within_p", "within_n"])
