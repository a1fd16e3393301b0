"""The index of a profile, one page that opens from disk: verdicts, what they come to, then all the rest."""

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, repeat
from typing import Any

from PIL import Image

from kdutils.grid import cell_table, study
from kdutils.grid.profile import Profile
from kdutils.report import html_tables
from kdutils.report.render import Result, page

Columns = Mapping[str, Mapping[str, Mapping[str, Any]]]  # those of claims.answer_sheet
THUMBNAIL_WIDTH, FIGURE_WIDTH = 640, 1280  # pixels; both are embedded: a page may not load its neighbours
VERDICTS = {"reproduced": "✓", "not_reproduced": "✗", "inconclusive": "?", "not_testable": "–"}
MARKS = VERDICTS | {"done": "✓", "failed": "✗", "not_run": "–"}  # also of what became of a notebook
COUNTED = dict(zip(VERDICTS, ("reproduced", "not", "inconclusive", "not testable"), strict=True))
ANALYSIS_WORDS = {"authors": "the authors' analysis", "strict": "the stricter analysis"}
# Live results of each kind, and the profile that makes them; its claims stand in where a study has none.
LIVE_KINDS = {"tiny models (a model world)": "mini", "real models": "qwen-small"}
N_FIRST = 3  # figures that are shown large: the first of these that there are, then any
FIRST_FIGURES = (
    *("01_gain_by_pair", "08_sensitivity", "14_verdicts_authors_live", "01_gain_by_pair_live"),
    *("12_curves_live", "02_gain_by_size", "02_gain_by_size_live", "07_temperature_curves_live"),
    *("15_benefit_live", "16_likeness_live", "16_regimes_live", "17_forgetting_live"),
)


def index_html(
    profile: Profile,
    results: Sequence[Result],
    claims: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    *,
    conclusions: Mapping[str, Sequence[str]] | None = None,
    others: Mapping[str, tuple[Sequence[Mapping[str, Any]], str]] | None = None,
    n_left: int = 0,
    has_released: bool = False,
) -> str:
    """The first page of a profile: what failed, verdicts, three figures, then section by section.

    Args:
        results: one for each notebook of the profile.
        claims: rows of claims.json.
        figures: as `notebook_api.published_figures` gives them: path of the PNG, alt, caption, notebook.
        conclusions: sentences of Markdown by notebook.
        others: claims of the profiles in LIVE_KINDS and where they are from (`ledger.claims_of`).
        n_left: notebooks of this run that are still to come; if there are any, a notice says so.
        has_released: whether that notice links to the pages of the released results.
    """
    pages = {result.name: result.page and f"reports/{result.page}" for result in results}
    answers = _answers(profile, claims, others or {})
    columns = {name: part for _, found, _ in answers for name, part in found.items()}
    with ThreadPoolExecutor() as pool:  # compressing pictures takes most of the time, and no lock
        drawn = list(pool.map(_embedded, figures, repeat(THUMBNAIL_WIDTH)))
        by_name = {figure["png"].stem: figure for figure in figures}
        order = dict.fromkeys([*(name for name in FIRST_FIGURES if name in by_name), *by_name])
        first = [by_name[name] for name in order][:N_FIRST]
        first = list(pool.map(_embedded, first, repeat(FIGURE_WIDTH)))
    return page(
        "index.html.j2",
        title=f"Knowledge distillation: {profile.title[:1].lower()}{profile.title[1:]}",
        results=results,
        current=None,
        wide=True,
        profile=profile,
        n_left=n_left,
        has_released=has_released,
        pages=pages,
        marks=MARKS,
        verdicts=VERDICTS,
        columns=[(results, len(list(names))) for results, names in groupby(columns, _results_of)],
        analyses=[name.rpartition(", ")[2] for name in columns],
        matrix=_matrix(columns),
        judges=any(result.name in study.SECTIONS.values() for result in results),
        totals=[_cell(name, list(part.values())) for name, part in columns.items()],
        answers=[(title, _sentence(found), note) for title, found, note in answers],
        first=first,
        sections=_sections(results, claims, drawn, conclusions or {}),
        provenance=provenance,
    )


# --- the claims of the paper ------------------------------------------------------------------------------


def _answers(
    profile: Profile, claims: Sequence[Mapping[str, Any]], others: Mapping[str, tuple[Sequence, str]]
) -> list[tuple[str, Columns, str]]:
    """Released results by both analyses, then live ones of each kind, on the claims that the study judges.

    Each is its title, its columns, and a note: where they are from, or how to get them where there are none.
    """
    from kdutils.claims import answer_sheet  # loads scipy.stats, which a dry run does without

    claims = _of_paper(claims)
    known = {row["id"] for row in claims}
    released = answer_sheet.columns([row for row in claims if row["source"] == "published"])
    found = []
    for analysis, words in ANALYSIS_WORDS.items():
        own = {name: part for name, part in released.items() if name.endswith(analysis)}
        note = "" if own else "None in this study. To judge them: ./run_all.sh published"
        found.append((f"Released results, {words}", own, note))
    models = profile.live.models if profile.live else ()
    labels = cell_table.source_labels(map(cell_table.model_family, models))  # `Live, Qwen2.5`
    live = answer_sheet.columns([row for row in claims if row["source"] == "live"], labels=labels)
    own_kind = "mini" if profile.live is None or profile.live.watermark else "qwen-small"
    for kind, name in LIVE_KINDS.items():
        columns, note = live if name == own_kind else {}, ""
        if not columns and name != profile.name:
            rows, where = others.get(name, ((), ""))
            rows = [row for row in _of_paper(rows) if row["id"] in known]
            columns = answer_sheet.of_profile(rows, label=f"Live, profile {name}")
            note = f"Not of this study: profile {name}, from {where}."
        note = note if columns else f"None on these claims. To make some: ./run_all.sh {name}"
        found.append((f"Live, {kind}", columns, note))
    return found


def _of_paper(claims: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows on claims of the paper, of texts: neither contrasts, which have no decoding, nor labels."""
    return [row for row in claims if row.get("decoding", "") not in (None, *study.LABEL_WAYS)]


def _results_of(column: str) -> str:
    return column.rpartition(", ")[0]


def _sentence(columns: Columns) -> str:
    """Counts of each column; then by rule: the first claims that all columns judge alike.

    And those that one column finds reproduced and another does not.
    """
    shared = os.path.commonprefix([*columns, *map(_results_of, columns)])
    n_claims, counts, found = {len(part) for part in columns.values()}, [], {}
    for name, part in columns.items():
        n = Counter(row["verdict"] for row in part.values())
        way = f"{name.removeprefix(shared).strip(', ')} " * (len(columns) > 1)
        numbers = ", ".join(f"**{n[verdict]}** {words}" for verdict, words in COUNTED.items())
        for claim, row in part.items():
            found.setdefault(claim, []).append(row)
        counts.append(f"{way}{numbers}{f' of {len(part)}' * (len(n_claims) > 1)}")
    if len(n_claims) == 1:
        counts[0] = f"Of {n_claims.pop()} claims{':' * (len(counts) > 1)} {counts[0]}"
    sentences = ["; ".join(counts)]
    for verdict in ("reproduced", "not_reproduced"):
        alike = [verdict] * len(columns)
        agreed = [rows for rows in found.values() if [row["verdict"] for row in rows] == alike]
        if agreed:
            row, *several = agreed[0]
            reason = re.sub(r" \([^()]*\)", "", row["reason"]).split("; ")[0]
            why = "" if several else f" ({reason})".replace(" -", " −").replace("[-", "[−")
            words = verdict.replace("_", " ") + " by all" * bool(several)
            sentences.append(f"First {words}: *{row['id']}* {row['statement']}{why}")
    both = {"reproduced", "not_reproduced"}
    if split := [claim for claim, rows in found.items() if both <= {row["verdict"] for row in rows}]:
        sentences.append(f"Reproduced by one and not by another: {', '.join(split)}")
    return ". ".join(sentences) + "." if columns else ""


def _matrix(columns: Columns) -> list[dict[str, Any]]:
    """Rows of the matrix by section; claims that ask the same of one task each (`S3.aqua`) are one row."""
    statements: dict[str, dict[str, dict[str, str]]] = {}
    for row in (row for part in columns.values() for row in part.values()):
        own = statements.setdefault(row["section"], {}).setdefault(row["id"].partition(".")[0], {})
        own.setdefault(row["id"], row["statement"])
    sections = []
    for section, claims in sorted(statements.items()):
        rows = []
        for claim, own in claims.items():
            statement = next(iter(own.values()))
            if len(own) > 1:
                statement = os.path.commonprefix(list(own.values())).rstrip(" :") + f": {len(own)} tasks"
            parts = {name: [part[each] for each in own if each in part] for name, part in columns.items()}
            cells = [_cell(*each) for each in parts.items()]
            rows.append({"id": claim, "statement": statement, "cells": cells})
        sections.append({"notebook": study.PLANNED.get(section, section), "rows": rows})
    return sections


def _cell(column: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A field of the matrix: how often it holds each verdict, and its words."""
    from kdutils.claims import answer_sheet

    counts = Counter(row["verdict"] for row in rows)
    counts = {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}
    words = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in counts.items())
    words = answer_sheet.answer(rows[0]) if len(rows) == 1 else words
    return {"counts": counts, "is_one": len(rows) == 1, "words": f"{column}: {words or 'not judged'}"}


# --- section by section -----------------------------------------------------------------------------------


def _sections(
    results: Sequence[Result],
    claims: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    conclusions: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """What became of each notebook, what it says, its claims and figures; claims of others as not run."""
    of = {claim["section"]: study.PLANNED.get(claim["section"], claim["section"]) for claim in claims}
    known = {result.name: result for result in results}
    for name in [*of.values(), *(figure["notebook"] for figure in figures)]:
        known.setdefault(name, Result(name=name, status="not_run"))
    found = []
    for name, result in known.items():
        own = [claim for claim in claims if of[claim["section"]] == name]
        order = list(dict.fromkeys(claim["id"] for claim in own))
        rows = [_claim_row(claim) for claim in sorted(own, key=lambda claim: order.index(claim["id"]))]
        drawn = [figure for figure in figures if figure["notebook"] == name]
        section = {"result": result, "claims": rows, "figures": drawn, "says": conclusions.get(name, ())}
        holds = {"verdict": len(rows), "figure": len(drawn)}.items()
        found.append(section | {"holds": ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in holds if n)})
    return found


def _claim_row(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim with its numbers as text."""
    number = html_tables.number
    low, high = number(claim["ci_low"]), number(claim["ci_high"])
    interval = "" if html_tables.MISSING in (low, high) else f" [{low}, {high}]"
    known = {"p": claim["p_value"], "n": claim["n"]}
    tests = ", ".join(f"{name} = {number(value)}" for name, value in known.items() if value is not None)
    ways = " · ".join(claim[key] for key in ("source", "protocol", "decoding", "analysis") if claim.get(key))
    paper, estimate = claim["paper_value"], number(claim["estimate"]) + interval
    paper = paper if isinstance(paper, str) else number(paper)
    return {**claim, "paper": paper, "estimate": estimate, "tests": tests, "ways": ways}


# --- figures ----------------------------------------------------------------------------------------------


def _embedded(figure: Mapping[str, Any], width: int) -> dict[str, Any]:
    """A figure with its picture, at most so wide, as an address that holds it."""
    image = Image.open(figure["png"]).convert("RGB")
    image.thumbnail((width, 4 * width))
    content = io.BytesIO()
    image.quantize(128, method=Image.Quantize.FASTOCTREE).save(content, format="png")
    data = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return {**figure, "picture": data, "width": image.width, "height": image.height}
