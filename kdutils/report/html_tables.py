"""A table as HTML that reads well on a narrow screen, in the dark and through a screen reader."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdutils.grid.study import DAGGER
from kdutils.io.text_safety import visible

MISSING = "—"
SHORT = 24  # characters that are not worth a second line
Format = str | Callable[[Any], str]  # a format specification such as ".2f", or a function
Formats = Mapping[str, Format]  # of columns


def number(value: Any) -> str:
    """A number for reading: whole if it is, else three significant digits; MISSING if there is none."""
    if value is None or pd.isna(value):
        return MISSING
    if isinstance(value, int | np.integer) or float(value).is_integer() or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")  # a hyphen would break, or get lost


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with its index as columns, unless that is a nameless one that only numbers the rows."""
    numbers_rows = frame.index.names == [None] and pd.api.types.is_integer_dtype(frame.index.dtype)
    return frame if numbers_rows else frame.reset_index()


def to_html(
    frame: pd.DataFrame, *, caption: str, formats: Formats | None = None, daggers: Sequence[bool] = ()
) -> str:
    """`frame` as a captioned table, in a box of its own that scrolls when the page is too narrow.

    The index, or the first column where the index only numbers the rows, gives the row headers. A column
    `reason` that gives none is left out. `daggers` says of each row whether its decimals have a DAGGER after
    them. Styles are inline because a notebook has no style sheet of ours.

    Raises:
        ValueError: if the caption is empty or `formats` names a column that is not there.
    """
    formats, shown = formats or {}, with_index(frame)
    if not caption.strip():
        raise ValueError("a table needs a caption")
    if unknown := set(formats) - set(shown.columns):
        raise ValueError(f"formats name columns that are not there: {sorted(unknown)}")
    n_headers = max(1, shown.shape[1] - frame.shape[1])
    if "reason" in shown and (shown["reason"].isna() | (shown["reason"] == "")).all():
        shown = shown.drop(columns="reason")
    head, columns = "", []
    for place, name in enumerate(shown):
        column = shown.iloc[:, place]  # by place: two columns may have one name
        is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        tag, scope = ("th", 'scope="row" ') if place < n_headers else ("td", "")
        words = str(name) if name == "top_p" else str(name).replace("_", " ")  # that one is a name
        head += _cell("th", html.escape(words), is_number, 'scope="col" ')
        texts = _texts(column, formats.get(name), is_number)
        if len(daggers) and pd.api.types.is_float_dtype(column):
            texts = [text + DAGGER * has for text, has in zip(texts, daggers, strict=True)]
        columns.append([_cell(tag, text, is_number, scope) for text in texts])
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    label = html.escape(caption)
    # The caption is no wider than the screen, even where the table is.
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0" '
        'style="overflow-x:auto;max-width:100%">\n<table>\n<caption style="caption-side:top;text-align:left">'
        f'<span style="display:inline-block;max-width:min(85vw,56rem)">{label}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _texts(column: pd.Series, fmt: Format | None, is_number: bool) -> list[str]:
    """The cells of a column as escaped text."""
    show, minus = fmt or (number if is_number else str), "−" if is_number and isinstance(fmt, str) else "-"

    def shown(value: Any) -> str:
        text = show(value) if callable(show) else format(value, show)
        return html.escape(visible(text.replace("-", minus)))

    cells = zip(column, column.isna(), strict=True)
    return [MISSING if is_missing else shown(value) for value, is_missing in cells]


def _cell(tag: str, text: str, is_number: bool, scope: str) -> str:
    align = "right" if is_number else "left"
    # Short texts stay whole and long ones get room: a table that is too wide scrolls.
    width = min(max(len(text) / 3, 8), 16)
    room = "white-space:nowrap" if len(text) <= SHORT else f"min-width:min(70vw,{width:.0f}em)"
    return f'<{tag} {scope}style="text-align:{align};{room}">{text}</{tag}>'
