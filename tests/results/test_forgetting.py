"""Forgetting is read off made-up rows; frontiers are compared at equal accuracy on the second domain."""

import numpy as np
import pandas as pd
import pytest

from kdutils.results import forgetting

TEACHER = ["1 2 3 4 5 6 7 8", "2 3 4 5 6 7 8 9", "3 4 5 6 7 8 9 1", "4 5 6 7 8 9 1 2"]


def rows(texts, right, task="svamp"):
    """Item rows whose answer is the text's last word."""
    table = {"task": task, "item_id": [f"{task}-{n}" for n in range(len(texts))], "sample": 0, "text": texts}
    table |= {"parsed": [text.split()[-1] for text in texts], "correct": [bool(each) for each in right]}
    return pd.DataFrame(table).assign(truncated=False, unparsed=False)


def test_measures_are_before_minus_after_and_likeness_to_the_first_teacher():
    before, after = rows(TEACHER, [1, 1, 1, 0]), rows([*TEACHER[:1], *["no"] * 3], [1, 0, 0, 0])
    second = pd.concat([rows(TEACHER, [1, 1, 0, 0]), rows(TEACHER, [1, 1, 1, 1], "addsub")])
    found = forgetting.measures(before, after, second, rows(TEACHER, [1, 1, 1, 1]))
    assert set(found) == set(forgetting.MEASURES)
    assert (found["before"], found["after"], found["forgetting"], found["second"]) == (75, 25, 50, 75)
    assert (found["agreement_before"], found["agreement"], found["guessed"]) == (100, 25, 0)
    assert found["bleu_before"] == pytest.approx(100)
    assert 0 < found["bleu"] < 50
    mute = rows(["true", "false", "who knows", "or not"], [1, 0, 0, 0], "boolq").assign(
        unparsed=[False, False, True, True]
    )
    found = forgetting.measures(
        rows(TEACHER, [1] * 4, "boolq"), mute, second, rows(TEACHER, [1] * 4, "boolq")
    )
    assert (found["guessed_before"], found["guessed"]) == (50, 25)  # half of the questions have no answer


def a_table(penalty, strengths, second, after, method="fkl", seed=0):
    own = {"student": "s", "first_domain": "math", "domain": "commonsense", "method": method, "seed": seed}
    own |= {"adapter": "full", "penalty": penalty, "replay_share": 0.0}
    own |= dict.fromkeys(forgetting.MEASURES, 0.0)
    own |= {"penalty_strength": strengths, "second": second, "after": after}
    return pd.DataFrame(own)


def test_a_run_without_penalty_is_strength_zero_of_every_penalty_of_its_method():
    plain = a_table("", [0.0], [60.0], [20.0])
    l2_sp = a_table("l2_sp", [10.0, 1.0], [50.0, 58.0], [15.0, 40.0])
    found = forgetting.curves(pd.concat([plain, l2_sp, a_table("", [0.0], [70.0], [5.0], method="sft")]))
    curve = found[found["penalty"] == "l2_sp"]
    assert curve["penalty_strength"].tolist() == [0, 1, 10]
    assert curve["after"].tolist() == [20, 40, 15]
    assert (found["penalty"] == "").sum() == 2


def test_the_gap_of_frontiers_is_at_equal_accuracy_on_the_second_domain():
    one = a_table("l2_sp", [1.0, 2.0], [40.0, 60.0], [50.0, 30.0])
    other = a_table("intervals", [1.0, 2.0], [40.0, 60.0], [40.0, 30.0])
    assert forgetting.gap(one, one) == 0
    assert forgetting.gap(one, other) == 10 / forgetting.GRID  # above 40 both have their point at 60 alone
    low = a_table("", [0.0], [50.0], [35.0])
    assert forgetting.gap(low, one) == pytest.approx(5, abs=0.2)
    assert np.isnan(forgetting.gap(one, one[:0]))


def test_means_are_over_seeds():
    table = pd.concat([a_table("", [0.0], [60.0], [20.0 + seed], seed=seed) for seed in (0, 2)])
    found = forgetting.means(table)
    assert found["after"].tolist() == [21]
