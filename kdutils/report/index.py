"""The index of a profile: verdicts, reports, figures and provenance on one page that opens from disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from kdutils.grid import cell_table, study
from kdutils.grid.profile import Profile
from kdutils.report import html_tables
from kdutils.report.render import Result, page

THUMBNAIL_WIDTH = 640  # pixels; thumbnails are embedded, because a page may not load its neighbours
VERDICTS = {"reproduced": "✓", "not_reproduced": "✗", "inconclusive": "?", "not_testable": "–"}
MARKS = VERDICTS | {"done": "✓", "failed": "✗", "not_run": "–"}  # also of what became of a notebook
ANALYSIS_WORDS = {"authors": "the authors' analysis", "strict": "the stricter analysis"}


def index_html(
    profile: Profile,
    results: Sequence[Result],
    claims: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    *,
    conclusions: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The first page of a profile: verdicts, conclusions, reports, figures, provenance.

    Args:
        results: one for each notebook of the profile.
        claims: rows of claims.json.
        figures: as `notebook_api.published_figures` gives them: path of the PNG, alt, caption, notebook.
        conclusions: sentences of Markdown by notebook.
    """
    pages = {result.name: result.page and f"reports/{result.page}" for result in results}
    models = profile.live.models if profile.live else ()
    labels = cell_table.source_labels(map(cell_table.model_family, models))  # `Live, Qwen2.5`
    with ThreadPoolExecutor() as pool:  # compressing thumbnails takes most of the time, and no lock
        thumbnails = list(pool.map(_thumbnail, figures))
    return page(
        "index.html.j2",
        title=f"Knowledge distillation: {profile.title[:1].lower()}{profile.title[1:]}",
        results=results,
        current=None,
        wide=True,
        profile=profile,
        pages=pages,
        marks=MARKS,
        claims=_claims_by_source(claims, labels),
        conclusions={name: said for name, said in (conclusions or {}).items() if said},
        figures=[dict(figure) | image for figure, image in zip(figures, thumbnails, strict=True)],
        provenance=provenance,
    )


def _claims_by_source(claims: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Counts of verdicts and rows of claims for each source and analysis: none is counted with another's."""
    groups, several = [], len({claim["analysis"] for claim in claims}) > 1
    by = {}
    for claim in claims:
        decoding = claim.get("decoding", "")
        decoding = "contrasts" if decoding is None else decoding  # which are of several decodings
        by.setdefault((claim["source"], decoding, claim["analysis"]), []).append(claim)
    decodings = {(source, decoding) for source, decoding, _ in by}
    for (source, decoding, analysis), own in by.items():
        word, comma, family = labels.get(source, source).partition(", ")
        decoded = [decoding] if sum(each == source for each, _ in decodings) > 1 else []
        parts = [source, *decoded, *([analysis] if several else [])]
        group = {"id": "-".join(parts), "rows": list(map(_claim_row, own))}
        group["title"] = ", ".join([f"{word} results{comma}{family}", *decoded])  # Live results, Qwen2.5
        group["title"] += f": {ANALYSIS_WORDS[analysis]}" if several else ""
        group["counts"] = {verdict: sum(row["verdict"] == verdict for row in own) for verdict in VERDICTS}
        groups.append(group)
    return groups


def _claim_row(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim with its numbers as text."""
    number = html_tables.number
    low, high = number(claim["ci_low"]), number(claim["ci_high"])
    interval = "" if html_tables.MISSING in (low, high) else f" [{low}, {high}]"
    known = {"p": claim["p_value"], "n": claim["n"]}
    tests = ", ".join(f"{name} = {number(value)}" for name, value in known.items() if value is not None)
    ways = " · ".join(claim[key] for key in ("source", "protocol", "decoding", "analysis") if claim.get(key))
    paper = claim["paper_value"]
    return {
        **claim,
        "notebook": study.SECTIONS.get(str(claim["section"])),
        "paper": paper if isinstance(paper, str) else number(paper),
        "estimate": number(claim["estimate"]) + interval,
        "detail": f"{tests}; {ways}" if tests else ways,
    }


def _thumbnail(figure: Mapping[str, Any]) -> dict[str, Any]:
    """The picture of a figure, small, with its size."""
    image = Image.open(figure["png"]).convert("RGB")
    image.thumbnail((THUMBNAIL_WIDTH, 4 * THUMBNAIL_WIDTH))
    content = io.BytesIO()
    image.quantize(128, method=Image.Quantize.FASTOCTREE).save(content, format="png")
    data = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return {"thumbnail": data, "width": image.width, "height": image.height}
