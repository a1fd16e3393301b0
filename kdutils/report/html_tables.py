"""A table as HTML that reads well on a narrow screen, in the dark and through a screen reader."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kdutils.io.text_safety import visible

MISSING = "—"
SHORT = 24  # characters that are not worth a second line
Format = str | Callable[[Any], str]  # a format specification such as ".2f", or a function


def number(value: Any) -> str:
    """A number for reading: whole if it is, else three significant digits; MISSING if there is none.

    The minus sign is a minus, not a hyphen, so that it neither breaks nor gets lost.
    """
    if value is None or pd.isna(value):
        return MISSING
    if isinstance(value, int | np.integer) or float(value).is_integer() or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with its index as columns, unless that is a nameless one that only numbers the rows."""
    numbers_rows = frame.index.names == [None] and pd.api.types.is_integer_dtype(frame.index.dtype)
    return frame if numbers_rows else frame.reset_index()


def to_html(frame: pd.DataFrame, *, caption: str, formats: Mapping[str, Format] | None = None) -> str:
    """`frame` as a captioned table, in a box of its own that scrolls when the page is too narrow.

    The index, or the first column where the index only numbers the rows, gives the row headers. A column
    `reason` that gives none is left out. Every text is escaped, and characters that nobody would see are
    written out. Styles are inline because a notebook has no style sheet of ours.

    Raises:
        ValueError: if the caption is empty or `formats` names a column that is not there.
    """
    if not caption.strip():
        raise ValueError("a table needs a caption")
    shown = with_index(frame)
    n_headers = max(1, shown.shape[1] - frame.shape[1])
    unknown = set(formats or {}) - set(shown.columns)
    if unknown:
        raise ValueError(f"formats name columns that are not there: {sorted(unknown)}")
    if "reason" in shown and (shown["reason"].isna() | (shown["reason"] == "")).all():
        shown = shown.drop(columns="reason")
    is_number = [_is_number(shown.iloc[:, place]) for place in range(shown.shape[1])]
    head = "".join(
        _cell("th", html.escape(str(name)), right, 'scope="col" ')
        for name, right in zip(shown.columns, is_number, strict=True)
    )
    columns = []
    for place, (name, right) in enumerate(zip(shown.columns, is_number, strict=True)):
        tag, attributes = ("th", 'scope="row" ') if place < n_headers else ("td", "")
        texts = _texts(shown.iloc[:, place], (formats or {}).get(name))
        columns.append([_cell(tag, text, right, attributes) for text in texts])
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    # No wider than the screen, even where the table is.
    shown_caption = (
        f'<span style="display:inline-block;max-width:min(85vw,56rem)">{html.escape(caption)}</span>'
    )
    return (
        f'<div class="scroll" role="region" aria-label="{html.escape(caption)}" tabindex="0" '
        'style="overflow-x:auto;max-width:100%">\n<table>\n'
        f'<caption style="caption-side:top;text-align:left">{shown_caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _texts(column: pd.Series, written: Format | None) -> list[str]:
    """The cells of a column as escaped text."""
    if written is None:
        written = number if _is_number(column) else str
    show = written
    if isinstance(written, str):
        minus = "−" if _is_number(column) else "-"  # as in `number`
        show = lambda value: format(value, written).replace("-", minus)  # noqa: E731
    missing = column.isna()
    return [
        MISSING if gone else html.escape(visible(show(value)))
        for value, gone in zip(column, missing, strict=True)
    ]


def _cell(tag: str, text: str, right: bool, attributes: str) -> str:
    align = "right" if right else "left"
    # Short texts stay whole and long ones get room: a table that is too wide scrolls.
    width = min(max(len(text) / 3, 8), 16)
    room = "white-space:nowrap" if len(text) <= SHORT else f"min-width:min(70vw,{width:.0f}em)"
    return f'<{tag} {attributes}style="text-align:{align};{room}">{text}</{tag}>'
