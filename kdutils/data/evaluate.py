"""Scores of texts against gold answers; how answers are read is in data.answers, ranks in data.options."""

import math
from collections.abc import Sequence

from kdutils.constants import is_text
from kdutils.data.answers import is_correct, parse, parse_strict, rouge_l
from kdutils.items import Item


def score(
    item: Item, text: str, *, n_tokens: int, ended: bool, sample: int = 0, top1: Sequence[int] = ()
) -> dict[str, object]:
    """One row of items.parquet for one text; `top1` are the likeliest tokens along the item's response."""
    parsed, strict = parse(item.task, text), parse_strict(item.task, text)
    return {
        "task": item.task,
        "item_id": item.id,
        "sample": sample,
        "text": text,
        "answer": item.answer,
        "parsed": parsed,
        "parsed_strict": strict,
        "correct": is_correct(item.task, parsed, item.answer),
        "correct_strict": is_correct(item.task, strict, item.answer),
        "unparsed": parsed is None,
        "truncated": not ended,
        "n_tokens": n_tokens,
        "top1": list(top1),
        "rouge_l": rouge_l(text, item.answer) if is_text(item.task) else math.nan,
        "contaminated": item.contaminated,
    }
