"""Figures and sentences of notebook 14, from rows made by hand."""

import matplotlib.pyplot as plt
import pandas as pd
from labelrows import drawn, of_a_pair

from kdutils.claims import ways_of_asking
from kdutils.report import figures, show_label_bias
from kdutils.report.plots import VERDICT_LETTERS
from kdutils.results import label_bias


def test_every_kind_of_model_is_drawn_with_a_marker_of_its_own():
    rows = of_a_pair(("fkl", (0.5, 0.0), 0.5), ("gkd", (2.0, 0.0), 1.5))
    resampled, found = drawn(rows)
    table = label_bias.by_who(resampled, found, ["same_label", "same_option"])
    panels = {"same_label": "label", "same_option": "option"}
    made = show_label_bias.kinds(table, panels=panels, xlabel="percent")
    assert [ax.get_title() for ax in made.axes] == ["label", "option"]
    for fig in (made, show_label_bias.priors(label_bias.labels(rows))):
        names = [text.get_text() for text in fig.legends[0].texts]
        assert names[:5] == ["base model", "SFT", "SeqKD†", "GKD", "teacher"]
    shot = show_label_bias.one_shot(label_bias.one_shot(rows))
    lines = shot.axes[0].lines
    assert len({line.get_marker() for line in lines}) == len(lines) == 6  # with how often it is right
    names = {"accuracy": "accuracy", "gain": "gain over SFT"}
    free = label_bias.by_who(resampled, found, [*names, "accuracy_free", "gain_free"], by_task=False)
    axes = show_label_bias.with_and_without(free, panels=names).axes
    assert [ax.get_xlabel().split(",")[0] for ax in axes] == ["percent", "points"]
    plt.close("all")


def test_the_one_table_is_drawn_and_said_and_released_results_do_not_count():
    verdicts = {
        "E2": ["not_reproduced", "reproduced", "reproduced"],
        "A1": ["reproduced", "reproduced", "inconclusive"],
    }
    table = pd.DataFrame(
        {"id": claim, "analysis": "authors", "choice": way, "verdict": verdict, "bears": True}
        for claim, own in verdicts.items()
        for way, verdict in zip((ways_of_asking.RELEASED, "greedy", "label"), own, strict=True)
    )
    texts = [text.get_text() for text in figures.verdicts_by_choice(table).axes[0].texts]
    assert texts == [VERDICT_LETTERS[verdict] for own in verdicts.values() for verdict in own]
    said = show_label_bias.sentences(*drawn(of_a_pair()), ways_of_asking.changing(table))
    assert said[0].endswith("(authors): 1 of 2 (A1). Between two ways: greedy against label 1 of 2.")
    plt.close("all")
