"""What notebook 12 says of a chosen temperature, from a table made by hand."""

from types import SimpleNamespace

import pandas as pd

from kdutils.report import show_decoding


def test_what_a_chosen_temperature_costs_is_said_of_the_method_that_it_costs_most():
    names = ["method", "gain", "low", "high", "greedy_gain", "greedy_low", "greedy_high"]
    rows = [("fkl", 30, 29, 31, 0, -1, 1), ("revkd", 20, 19, 21, -5, -7, -2), ("sft", 25, 24, 26, -2, -4, 0)]
    table = pd.DataFrame(rows, columns=names).assign(domain="math", teacher="T", student="S", selected=60.0)
    section = SimpleNamespace(table=lambda tables, caption, formats: None)
    (said,) = show_decoding.selected(section, table)
    assert "at most +30.0 [+29.0, +31.0] (SeqKD†) points over temperature 1" in said
    assert said.endswith("−5.0 [−7.0, −2.0] (RevKD) to +0.0 [−1.0, +1.0] (SeqKD†) over greedy decoding.")
