"""What notebooks 15 and 16 say of arms: only those that were trained alike are ranked."""

from itertools import product
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd

from kdutils.report import show_adaptation, show_arms, show_construction

SECTION = SimpleNamespace(labels={"live": "Live"})


def test_an_arm_that_is_void_for_one_student_is_not_ranked():
    high = {"S": 0.1, "S2": 0.3}
    rows = [
        {"teacher": "T", "student": student, "method": "fkl", "arm": arm, "train_items": 16}
        | {"benefit": high[student] + 0.02 * (arm == "dora"), "low": 0.0, "high": 1.0}
        for student, arm in product(high, ("lora", "dora", "miss"))
    ]
    table = pd.DataFrame(rows)
    runs = pd.DataFrame({"is_final": [], "arm": [], "coordinate_updates": []}).astype({"is_final": bool})
    nothing = pd.DataFrame(columns=["source", "F", "p", "arms", "n"])
    for void, n_arms in (
        (table["student"] == "none", 3),
        ((table["arm"] == "miss") & (table["student"] == "S"), 2),
    ):
        said = show_adaptation.sentences(SECTION, table[~void], nothing, runs, "")[0]
        assert f"+0.200 to +0.220 nats a token over {n_arms} arms" in said
        assert said.endswith("the most with DoRA.")
    alone = table[(table["arm"] == "lora") | ((table["student"] == "S") & (table["arm"] == "dora"))]
    assert "no two arms" in show_adaptation.sentences(SECTION, alone, nothing, runs, "")[0]


def test_a_construction_that_is_void_by_one_method_is_not_ranked():
    right = {
        ("narrow", "sft"): 40.0,
        ("narrow", "fkl"): 48.0,
        ("pruned", "sft"): 39.0,
        ("pruned", "fkl"): 40.0,
    }
    right |= {("hybrid", "sft"): 41.0}
    rows = [{"measure": "right", "arm": arm, "method": how, "value": v} for (arm, how), v in right.items()]
    said = show_construction.sentences(SECTION, pd.DataFrame(rows), "")[0]
    assert "of 2 constructions" in said and "narrow is the most accurate (" in said
    assert said.endswith("pruned the least (39.5).")


def test_twins_are_shown_with_the_names_of_their_methods():
    shown = []
    section = SimpleNamespace(table=lambda tables, *_: shown.append(tables["live"]))
    show_construction.twins(section, pd.DataFrame({"method": ["sft", "fkl"]}))
    assert shown[0]["method"].tolist() == ["SFT", "SeqKD†"]


def test_many_arms_can_be_told_apart_and_low_losses_have_a_tick():
    arms = list(show_arms.LABELS)[:16]
    styles = show_arms.styles_of(pd.Series(arms)).values()
    assert len({(style.colour, style.is_hollow) for style in styles}) == len(arms)
    assert len({(style.colour, style.marker) for style in styles}) == len(arms)
    table = pd.DataFrame(product(arms, (1e-3, 1e-2)), columns=["arm", "rate"])
    table = table.assign(method="sft", student="S", validation_loss=0.21 + 2 * (table["arm"] == arms[0]))
    figure = show_arms._rate_curves(table)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert any(low < 0.25 for low in ax.get_yticks() if low >= ax.get_ylim()[0])
    handles = figure.legends[0].legend_handles
    assert [handle.get_markerfacecolor() == "none" for handle in handles] == [False] * 10 + [True] * 6
    plt.close("all")
