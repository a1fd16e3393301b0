"""What a factor changes: by hand, against simulation, and where nothing can be said."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kdutils.grid import plan
from kdutils.grid.factors import FACTORS, with_factor
from kdutils.grid.study import RUN_FACTORS
from kdutils.report import show_study
from kdutils.results import protocols
from kdutils.results.protocols import ITEM, SETTING, VARIANTS
from kdutils.runs import store
from kdutils.spec import EvalSpec

PLAIN = {"temperature": 1.0, "seed": 0, "prompt": False, "sequences": False, "sampled": False}


def student(method, right, *, lenient=None, task="svamp", sample=0, pair=("t-2k", "s-1k"), **setting):
    """Rows of one student: whether each text of a task is right, read strictly and leniently."""
    teacher = "" if method == "sft" else pair[0]
    who = {"domain": "math", "teacher": teacher, "student": pair[1], "method": method} | PLAIN | setting
    lenient = right if lenient is None else lenient
    items = [f"{task}-{number:04}" for number in range(len(right))]
    texts = {"sample": sample, "task": task, "item_id": items, "lenient": lenient, "strict": right}
    return pd.DataFrame(texts).assign(**who)[[*SETTING, "sample", *ITEM, "lenient", "strict"]]


def by_arm(*students):
    """(arm, quantity) -> row of protocols.changes."""
    table = protocols.changes(pd.concat(students, ignore_index=True))
    return {(row["arm"], row["quantity"]): row for row in table.to_dict("records")}


ONES, NONE, HALF = [1] * 10, [0] * 10, [1, 0] * 5


def test_a_factor_is_compared_with_careful_question_by_question():
    found = by_arm(
        student("sft", HALF),
        student("fkl", [1] * 6 + [0] * 4),
        student("sft", [1] * 8 + [0] * 2, prompt=True),
        student("fkl", ONES, prompt=True),
        student("fkl", NONE, sequences=True),
    )
    assert {key: round(row["change"], 9) for key, row in found.items()} == {
        ("prompt", "sft"): 30,
        ("prompt", "kd"): 40,
        ("prompt", "gain"): 10,
        ("sequences", "kd"): -60,  # SFT has no such factor, so no row
        ("sequences", "gain"): -60,
        ("extraction", "sft"): 0,
        ("extraction", "kd"): 0,
        ("extraction", "gain"): 0,
    }
    assert found["prompt", "gain"]["careful"] == pytest.approx(10)
    assert found["prompt", "kd"]["careful"] == pytest.approx(60)
    assert {row["n"] for row in found.values()} == {10}
    assert found["sequences", "gain"]["verdict"] == "lowers"
    assert found["extraction", "gain"]["low"] < 0 < found["extraction", "gain"]["high"]


def test_tasks_weigh_the_same_and_samples_and_pairs_are_averaged_first():
    one, other = ("t-2k", "s-1k"), ("t-2k", "s-2k")
    careful = [
        student(method, HALF, pair=pair, task=task)
        for method in ("sft", "fkl")
        for pair in (one, other)
        for task in ("svamp", "aqua")
    ]
    sampled = [table.assign(sampled=True) for table in careful if (table["task"] != "svamp").any()]
    sampled += [student(method, HALF, pair=other, sampled=True) for method in ("sft", "fkl")]
    for method in ("sft", "fkl"):
        sampled += [
            student(method, ONES, sample=0, sampled=True),
            student(method, HALF, sample=1, sampled=True),
        ]
    found = by_arm(*careful, *sampled)
    row = found["sampling", "kd"]
    assert row["change"] == pytest.approx(100 * (0.25 + 0) / 2 / 2)  # two tasks, two pairs
    assert (row["n"], row["n_pairs"]) == (20, 2)
    assert found["sampling", "gain"]["change"] == pytest.approx(0)


def test_all_of_a_method_is_of_the_same_pairs():
    """The pair that alone was run with a factor and another seed counts alone, and SFT + gain is KD."""
    other = ("t-2k", "s-2k")
    one = [student("sft", HALF), student("fkl", [1] * 6 + [0] * 4)]
    more = [table.assign(**change) for table in one for change in ({"prompt": True}, {"seed": 1})]
    beside = [student("sft", ONES, pair=other), student("fkl", NONE, pair=other)]
    beside += [table.assign(seed=1) for table in beside]
    table = protocols.changes(pd.concat([*one, *more, *beside], ignore_index=True))
    assert table["n_pairs"].eq(1).all()
    levels = table.drop_duplicates("quantity").set_index("quantity")["careful"]
    assert levels.to_dict() == pytest.approx({"sft": 50, "kd": 60, "gain": 10})
    assert set(table["arm"]) == {"prompt", "extraction", "seed_1"}
    both = protocols.changes(pd.concat([*one, *(table.assign(seed=1) for table in one), *beside]))
    assert both["n_pairs"].eq(2).all()
    assert protocols.table_of(both)["factor"].iloc[0] == "careful, 2 pairs"


def test_what_was_not_run_for_both_sides_has_no_row():
    found = by_arm(student("sft", HALF), student("fkl", HALF), student("fkl", ONES, prompt=True))
    assert {arm for arm, _ in found} == {"extraction"}
    gkd = by_arm(student("sft", HALF), student("gkd", HALF), student("gkd", ONES, sequences=True))
    assert {arm for arm, _ in gkd} == {"extraction"}


def test_the_reading_is_the_authors_on_both_sides():
    found = by_arm(
        student("sft", HALF, lenient=ONES), student("fkl", [1] * 6 + [0] * 4, lenient=[1] * 7 + [0] * 3)
    )
    changed = {quantity: round(row["change"]) for (_, quantity), row in found.items()}
    assert changed == {"sft": 50, "kd": 10, "gain": -40}


def test_a_temperature_is_chosen_by_task_and_the_lowest_of_equals():
    first, other = [1, 1, 0, 0] * 3, [0, 0, 1, 1] * 3  # every second item of each has the same mean
    found = by_arm(
        student("sft", first),
        student("sft", first, task="aqua"),
        student("fkl", first),
        student("fkl", first, task="aqua"),
        student("fkl", [1] * 12, temperature=2.0),
        student("fkl", other, temperature=2.0, task="aqua"),  # as good as 1, which is taken
        student("fkl", [0] * 12, temperature=5.0),
        student("fkl", [0] * 12, temperature=5.0, task="aqua"),
    )
    for arm in ("selection", "selection_other"):
        assert found[arm, "gain"]["change"] == pytest.approx(25)
        assert (arm, "sft") not in found
    chosen = [student("fkl", first), student("fkl", other, temperature=2.0)]
    table = protocols.changes(pd.concat([student("sft", first), *chosen]))
    section = SimpleNamespace(labels={"live": "Live"})
    assert "of 2 factors" in show_study.protocol_sentences(section, table)[0]
    assert "control" not in protocols.remark(table)
    assert "no run was repeated" in protocols.luck_remark(table).lower()
    rows = pd.concat(chosen)
    assert protocols.value(rows, protocols.Variant(choice="test")).tolist() == first


def test_choosing_on_the_test_items_gains_from_nothing_and_choosing_on_others_does_not():
    rng, found = np.random.default_rng(1), []
    for _ in range(60):
        right = {t: (rng.random(60) < 0.5).astype(int).tolist() for t in (1.0, 2.0, 5.0)}
        rows = by_arm(student("sft", HALF * 6), *(student("fkl", r, temperature=t) for t, r in right.items()))
        found.append([rows[arm, "kd"]["change"] for arm in ("selection", "selection_other")])
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(len(found))
    assert means[0] > 3  # of three fair coins the luckiest
    assert abs(means[1]) < 3.5 * errors[1]


def test_intervals_of_a_change_of_a_gain_cover_as_often_as_they_say():
    """Four students right independently with these probabilities, so that the true change is 10 points."""
    rng, n_hits, n_studies = np.random.default_rng(0), 0, 200
    chances = {("sft", False): 0.5, ("fkl", False): 0.6, ("sft", True): 0.4, ("fkl", True): 0.6}
    for _ in range(n_studies):
        rows = by_arm(
            *(
                student(method, (rng.random(80) < chance).astype(int).tolist(), prompt=prompt)
                for (method, prompt), chance in chances.items()
            )
        )
        row = rows["prompt", "gain"]
        n_hits += row["low"] <= 10 <= row["high"]
    assert 0.92 <= n_hits / n_studies <= 0.99


# --- verdicts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "low", "high", "narrow", "luck", "verdict"),
    [
        ("prompt", 1.0, 5.0, (1.3, 4.7), 2.0, "raises"),
        ("prompt", 1.0, 5.0, (1.3, 4.7), 3.0, "within seed noise"),
        ("prompt", -5.0, -1.0, (-4.7, -1.3), 3.5, "within seed noise"),
        ("prompt", 1.0, 5.0, (1.3, 4.7), math.nan, "raises"),
        ("together_selected", 1.0, 5.0, (1.3, 4.7), 9.0, "within seed noise"),
        ("sampling", -5.0, -1.0, (-4.7, -1.3), 9.0, "lowers"),  # no other training, so no other seed's luck
        ("sampling", -1.9, 1.9, (-1.6, 1.6), 9.0, "less than 2 points"),
        ("sampling", -2.1, 1.9, (-1.8, 1.6), 9.0, "less than 2 points"),
        ("sampling", -3.0, 1.9, (-2.6, 1.5), 9.0, "not told apart"),
        ("seed_1", 1.0, 5.0, (1.3, 4.7), 3.0, "control"),
        ("selection_other", -5.0, -1.0, (-4.7, -1.3), 3.0, "control"),
        ("prompt", math.nan, math.nan, (math.nan, math.nan), 1.0, "undefined: scored on different questions"),
    ],
)
def test_the_rule(arm, low, high, narrow, luck, verdict):
    row = {"arm": arm, "change": (low + high) / 2, "low": low, "high": high}
    row |= dict(zip(("low_90", "high_90"), narrow, strict=True))
    assert protocols.verdict(row, luck=luck) == verdict


def test_luck_is_the_larger_of_the_controls():
    many = {"sft": [1, 0] * 100, "fkl": [1, 0] * 100}
    seeds = {seed: [1] * n + [0] * (200 - n) for seed, n in ((1, 60), (2, 110))}
    found = by_arm(
        *(student(method, right) for method, right in many.items()),
        *(student("sft", many["sft"], seed=seed) for seed in (1, 2)),
        *(student("fkl", right, seed=seed) for seed, right in seeds.items()),
        student("sft", many["sft"], prompt=True),
        student("fkl", [1] * 130 + [0] * 70, prompt=True),
        student("fkl", [1] * 145 + [0] * 55, sequences=True),
    )
    assert protocols.luck_remark(pd.DataFrame(found.values())) == "Other seeds are luck alone."
    assert found["seed_1", "gain"]["change"] == pytest.approx(-20)
    assert found["prompt", "gain"]["change"] == pytest.approx(15)
    assert found["prompt", "gain"]["verdict"] == "within seed noise"
    assert found["sequences", "gain"]["verdict"] == "raises"


# --- where nothing can be said -----------------------------------------------------------------------------


def test_nothing_run_is_an_empty_table_and_no_error():
    nothing = student("sft", HALF).head(0)
    for rows in (nothing, student("sft", HALF)):
        assert protocols.changes(rows).empty
        assert protocols.decoding_noise(rows).empty
    assert protocols.noise_remark(protocols.decoding_noise(nothing)) == ""
    assert protocols.remark(protocols.changes(nothing)) == ""


def test_different_questions_are_undefined_and_say_so():
    found = by_arm(student("sft", HALF), student("fkl", HALF), student("fkl", HALF[:-1], sequences=True))
    row = found["sequences", "gain"]
    assert math.isnan(row["change"])
    assert math.isnan(row["p_value"])
    assert row["verdict"].startswith("undefined")


def test_one_sample_has_no_spread():
    rows = pd.concat([student(method, HALF, sampled=True) for method in ("sft", "fkl")])
    noise = protocols.decoding_noise(rows)
    assert noise[["sft", "kd", "gain"]].isna().all(axis=None)
    assert protocols.noise_remark(noise) == ""


def test_decoding_noise_is_the_spread_of_repeated_sampling():
    rng = np.random.default_rng(3)
    chances = {(m, t): rng.random(n) for m in ("sft", "fkl") for t, n in (("svamp", 50), ("aqua", 120))}

    def drawn(method, task):
        return (rng.random(len(chances[method, task])) < chances[method, task]).astype(int).tolist()

    keys = list(chances)
    rows = pd.concat(
        [student(m, drawn(m, t), task=t, sample=s, sampled=True) for m, t in keys for s in range(60)]
    )
    found = protocols.decoding_noise(rows).iloc[0]
    averages = [
        {m: np.mean([np.mean(drawn(m, t)) for t in ("svamp", "aqua")]) for m in ("sft", "fkl")}
        for _ in range(2_000)
    ]
    true = 100 * pd.DataFrame(averages).assign(gain=lambda a: a["fkl"] - a["sft"]).std()
    assert found["sft"] == pytest.approx(true["sft"], rel=0.1)
    assert found["kd"] == pytest.approx(true["fkl"], rel=0.1)
    assert found["gain"] == pytest.approx(true["gain"], rel=0.1)
    assert found["n_samples"] == 60


# --- what is read ------------------------------------------------------------------------------------------


def keep(out, run, right):
    """A finished run with an evaluation of which everything is right, or nothing."""
    from kdutils.data import sources

    spec = sources.resolved(run.spec)
    folder = store.folder_of(out, spec.run_id)
    if folder.result() is None:
        folder.begin(spec.to_dict())
        folder.finish({"status": "trained"}, [])
    rows = pd.DataFrame(
        {"sample": 0, "task": "svamp", "item_id": list("abc"), "correct": right, "correct_strict": not right}
    )
    folder.write_evaluation(run.evaluation, rows, {"seconds": 0.0})


def test_what_decides_is_how_a_run_was_made_and_not_its_name(tmp_path):
    sections = {"profile": "mini", "out": str(tmp_path), "domains": ["math"]}
    asked = plan.plan("11", sections)
    for run in (*asked.runs, *asked.variants):
        keep(tmp_path, run, right=True)
    rows = protocols.read(asked)
    assert set(rows["method"]) == {"sft", "fkl", "revkd", "gkd", "opd"}
    assert set(rows["student"]) == {"mini-qwen-0.5B"}  # the teacher's own runs are no students
    assert rows["lenient"].all()
    assert not rows["strict"].any()
    settings = rows[SETTING].drop_duplicates()
    assert (
        len(settings) == len(rows) / 3 == 1 + 3 + 3 + 4 + 3 + 2
    )  # SFT, fkl, their variants; revkd; GKD, OPD
    together = settings[settings["prompt"] & settings["sequences"]]
    assert together["sampled"].tolist() == [True]
    paper = plan.plan("11", sections | {"protocol": "paper"})
    assert paper.variants == ()  # what is varied is careful
    own = next(run for run in paper.runs if run.spec.method == "fkl" and run.spec.seed == 0)
    keep(tmp_path, own, right=True)
    found = protocols.read(paper)[SETTING].drop_duplicates()
    assert found[["prompt", "sequences"]].all(axis=None)


def test_every_factor_has_an_arm_and_every_arm_differs_from_careful():
    assert set(FACTORS) < set(VARIANTS)
    for name, arm in VARIANTS.items():
        assert arm.touches("fkl"), name
    assert not VARIANTS["sequences"].touches("gkd")
    assert not VARIANTS["selection"].touches("sft")
    assert not protocols.CAREFUL.touches("fkl")
    evaluation = EvalSpec(tasks=("svamp",))
    base = plan.PlannedRun(plan.RunSpec(student="mini-qwen-0.5B", method="base", domain="math"), evaluation)
    assert [with_factor(base, name) for name in RUN_FACTORS] == [None] * 4


def test_a_method_of_which_only_the_reading_varies_is_not_drawn():
    sides = [student(method, HALF) for method in ("sft", "fkl", "gkd")]
    table = protocols.changes(pd.concat([*sides, student("fkl", ONES, sequences=True)], ignore_index=True))
    assert set(table["method"]) == {"fkl", "gkd"}
    assert set(protocols.worth_drawing(table)["method"]) == {"fkl"}
