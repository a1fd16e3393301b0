"""A need's evaluations: multiplied out, on the tasks that they suit, planned for its own sections alone."""

from dataclasses import replace

import pytest

from kdutils.constants import COMMONSENSE_TASKS, DOMAINS
from kdutils.grid import dry_run, plan
from kdutils.grid.evaluations import evaluations_of
from kdutils.grid.machines import DEFAULT, GPUS
from kdutils.grid.profile import Need, load_profile
from kdutils.io.toml_files import one_line_errors
from kdutils.spec import EvalSpec

USUAL = EvalSpec(tasks=COMMONSENSE_TASKS, items_per_task=7, max_new_tokens=8)
TABLES = (
    {"temperature": [0.0, 0.5], "top_p": [1.0, 0.9], "samples": 2},
    {"scoring": ["label", "cloze_sum"], "rotation": [0, 1, 2, 3], "items_per_task": 3},
)


def test_tables_are_multiplied_out_on_the_tasks_that_they_suit():
    found = evaluations_of(TABLES, USUAL)
    written = [each for each in found if each.scoring == "generation"]
    decodings = [(each.temperature, each.top_p, each.samples) for each in written]
    assert decodings == [(0.0, 1.0, 1), (0.5, 1.0, 2), (0.5, 0.9, 2)]  # greedy once, whatever the rest
    assert {(each.tasks, each.items_per_task, each.max_new_tokens) for each in written} == {
        (COMMONSENSE_TASKS, 7, 8)
    }
    ranked = {(each.scoring, each.rotation): each.tasks for each in found if each not in written}
    assert len(ranked) == 8
    four = ("arc_c", "arc_e", "hellaswag", "obqa")
    for scoring in ("label", "cloze_sum"):
        assert ranked[scoring, 0] == COMMONSENSE_TASKS
        assert set(ranked[scoring, 1]) == set(COMMONSENSE_TASKS) - {"boolq"}
        assert set(ranked[scoring, 2]) == {*four, "siqa"}
        assert ranked[scoring, 3] == four
    assert evaluations_of(TABLES[1:], EvalSpec(tasks=("gsm8k", "svamp"))) == ()
    assert evaluations_of(({"scoring": "label", "rotation": 4},), EvalSpec(tasks=("aqua", "svamp")))[
        0
    ].tasks == ("aqua",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"temperatures": [0.5]}, "EvalSpec has no field 'temperatures'"),
        ({"tasks": ["aqua"]}, r"evaluations has tasks=\['aqua'\]"),
        ({"temperature": []}, r"evaluations has temperature=\[\]: give at least one value"),
        ({"top_p": 0.9}, "greedy decoding"),
        ({"temperature": 1.0, "top_p": [0.5, 1.5]}, "top_p=1.5 must be less than or equal to 1"),
        ({"scoring": "label", "temperature": 1.0}, "have no effect with scoring='label'"),
        ({"rotation": [0, 5]}, "rotation=5 of task 'aqua' is no other order"),
        ({"scoring": "likeliest"}, "scoring='likeliest' must be "),
        ({"roles": ["pupil"]}, r"evaluations has roles=\['pupil'\]: give a list of"),
    ],
)
def test_ways_of_asking_that_no_task_has_are_refused_when_a_profile_is_read(table, message):
    with pytest.raises(ValueError, match=message), one_line_errors():
        Need(sections=("12",), methods=("fkl",), domains=("math",), evaluations=(table,))


def planned(monkeypatch, out, tables):
    """Section 12 of profile mini with these evaluations of one need, and with none of any other."""
    live = load_profile("mini").live
    plain = [need for need in live.needs if not need.evaluations]
    need = replace(plain[-1], sections=("12",), methods=("fkl",), recipes=(), evaluations=tables)
    profile = replace(load_profile("mini"), live=replace(live, needs=(*plain, need)))
    monkeypatch.setattr(plan, "load_profile", lambda name: profile)
    return plan.plan("12", {"profile": "mini", "out": str(out)})


def test_an_evaluation_may_be_for_some_roles_alone(monkeypatch, tmp_path):
    tables = ({"roles": ["teacher"], "temperature": 1.0, "samples": 2}, {"roles": ["sft", "kd"]})
    found = [run for run in planned(monkeypatch, tmp_path, tables).asked if run.spec.domain == "math"]
    asked = {(run.spec.method, run.spec.student, run.evaluation.samples) for run in found}
    small, large = "mini-qwen-0.5B", "mini-qwen-3B"
    assert asked == {("sft", large, 2), ("sft", small, 1), ("fkl", small, 1)}
    assert not any(run.beside_teacher for run in found if run.evaluation.samples == 1)


def test_students_models_and_teacher_are_asked_for_the_sections_of_the_need_alone(monkeypatch, tmp_path):
    found = planned(monkeypatch, tmp_path, TABLES)
    by_domain = {name: [run for run in found.asked if run.spec.domain == name] for name in DOMAINS}
    specs = {run.spec for run in by_domain["commonsense"]}
    kinds = sorted((spec.method, spec.student_start, spec.student) for spec in specs)
    small, large = "mini-qwen-0.5B", "mini-qwen-3B"
    assert kinds == [
        *(("base", "base", name) for name in (small, large)),
        *(("fkl", start, small) for start in ("base", "sft")),
        *(("sft", *own) for own in (("base", small), ("base", large), ("sft", small))),
    ]
    assert len(by_domain["commonsense"]) == len(specs) * 11
    assert {run.evaluation.tasks for run in by_domain["math"] if run.evaluation.rotation} == {("aqua",)}
    assert set(found.asked) <= set(found.to_make)
    assert len(set(found.to_make)) == len(found.to_make)
    shared = set(found.asked) & {*found.runs, *found.variants}
    assert {tuple(run.evaluation.changes()) for run in shared} == {("tasks",)}  # the usual way
    for section in ("00", "01", "11", "13"):
        assert plan.plan(section, {"profile": "mini", "out": str(tmp_path)}).asked == ()
    cells = dry_run.cells_of(found.asked, tmp_path)
    assert {len(cell.evaluations) for cell in cells if cell.spec.domain == "commonsense"} == {11}
    plain = [cell._replace(evaluations=cell.evaluations[:1]) for cell in cells]
    all_ways, one_way = (dry_run.costs(each, GPUS[DEFAULT])["evaluation"].sum() for each in (cells, plain))
    assert all_ways.tokens > 2 * one_way.tokens
