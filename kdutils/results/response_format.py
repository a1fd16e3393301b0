"""Students that have not learned the response format: which they are, and their rows in other tables.

Cells of such a student have the flag format_not_learned (cell_table.FLAGS): its gain says little about what
it knows. So their markers are hollow, their numbers have a dagger, and claims are judged without them, too.
"""

from dataclasses import replace

import pandas as pd

from kdutils.constants import METHOD_LABELS, METHOD_NAMES
from kdutils.grid import cell_table as cell_rows
from kdutils.grid.study import UNFORMATTED
from kdutils.results.gain_tables import pair_label, plain
from kdutils.results.item_gains import PAIRED, SETTING, Items

FLAG = "format_not_learned"


def unformatted(cells: pd.DataFrame) -> pd.DataFrame:
    """Students with the flag format_not_learned: domain, teacher, student, method, and the `pair` in words.

    KD as in `plain`, and the SFT student of a pair.
    """
    flagged, kd = cell_rows.has_flag(cells, FLAG), plain(cells)
    sft = cells.loc[flagged & (cells["method"] == "sft"), ["domain", "student", "method"]]
    sft = kd[["domain", "teacher", "student"]].merge(sft, on=["domain", "student"])
    found = pd.concat([sft, kd[flagged[kd.index]]])[PAIRED].drop_duplicates(ignore_index=True)
    return found.assign(pair=pair_label(found) if len(found) else [])


def marked(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """A table with the column `unformatted`: which rows are of a student that is `unformatted` in the cells.

    A table that has it already, or no such row, stays as it is.
    """
    if UNFORMATTED in table or not {"domain", "method"} <= set(table) or not {"pair", "student"} & set(table):
        return table
    if "flags" in table:
        marks = cell_rows.has_flag(table, FLAG).to_numpy()
    else:
        lost = unformatted(cells)
        keys = [name for name in lost if name in table]
        names = {label: key for labels in (METHOD_NAMES, METHOD_LABELS) for key, label in labels.items()}
        own = table[keys].assign(method=table["method"].map(lambda method: names.get(method, method)))
        marks = pd.MultiIndex.from_frame(own).isin(pd.MultiIndex.from_frame(lost[keys]))
        for name, of_plain in (("temperature", 1.0), ("noise_sigma", 0.0)):
            marks &= (table[name].fillna(of_plain) == of_plain).to_numpy() if name in table else True
    return table.assign(**{UNFORMATTED: marks}) if marks.any() else table


def gain_directions(table: pd.DataFrame) -> pd.DataFrame:
    """How many gains have a 95% interval above, around and below zero: a row a domain x method."""
    rows = table.assign(above=table["low"] > 0, below=table["high"] < 0)
    counts = rows.groupby(["domain", "method"], sort=False)[["above", "below"]].sum()
    counts = counts.assign(gains=rows.groupby(["domain", "method"], sort=False).size())
    counts.insert(1, "around", counts["gains"] - counts["above"] - counts["below"])
    return counts.reset_index().assign(method=lambda found: found["method"].map(METHOD_LABELS))


def without(cells: pd.DataFrame, items: Items | None) -> tuple[pd.DataFrame, Items | None]:
    """Cells and items without the students that have not learned the format, and the gains over them."""
    lost, runs = cell_rows.has_flag(cells, FLAG), [*SETTING, "seed"]
    if not items:
        return cells[~lost], items
    of_pair = unformatted(cells).drop(columns=["pair"])
    is_lost = _keys(items.scored, runs).isin(_keys(cells[lost], runs))
    beside = items.beside[~_keys(items.beside, PAIRED).isin(_keys(of_pair, PAIRED))]
    return cells[~lost], replace(items, scored=items.scored[~is_lost], beside=beside)


def _keys(rows: pd.DataFrame, names: list[str]) -> pd.MultiIndex:
    """Columns as keys, what is missing as ""."""
    return pd.MultiIndex.from_frame(rows[names].astype(object).where(rows[names].notna(), ""))
