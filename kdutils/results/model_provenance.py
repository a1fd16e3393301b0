"""Which weights the live results of a plan really are of: the exact files behind the names."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kdutils.data import model_facts
from kdutils.grid.plan import Plan

COLUMNS = {  # of model_facts.describe -> in a table
    "name": "asked for",
    "source": "read from",
    "file": "file",
    "quantisation": "stored as",
    "parameters": "numbers stored",
    "digest": "digest",
    "note": "note",
}


def table(plan: Plan) -> pd.DataFrame:
    """A line a model of a plan's live runs, students before teachers, with COLUMNS; none without runs."""
    facts = pd.DataFrame([*_described(plan)], columns=list(COLUMNS))
    return facts.rename(columns=COLUMNS).replace("", "—")


def line(plan: Plan) -> str:
    """The same in a sentence; "" without live runs."""
    models = [_words(facts) for facts in _described(plan)]
    return f"Weights of the live results: {'; '.join(models)}." if models else ""


def _described(plan: Plan) -> list[dict[str, Any]]:
    specs = [run.spec for run in plan.runs if run.spec.teacher]
    sides = [(spec.student, spec.student_source) for spec in specs]
    sides += [(spec.teacher, spec.teacher_source) for spec in specs]
    return [model_facts.describe(*side) for side in dict.fromkeys(sides)]


def _words(facts: dict[str, Any]) -> str:
    what = facts["file"] or facts["source"]
    parts = [facts["quantisation"], facts["digest"] and f"digest {facts['digest']}", facts["note"]]
    return f"{facts['name']} is {what} ({', '.join(part for part in parts if part)})"
