"""How answers are read from responses, and when they are right.

To add a way of reading answers, write its three functions and name them in READINGS; a task names its own in
kdutils.constants.
"""

import math
import operator
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from kdutils.constants import ALL_TASKS

NUMBER = re.compile(r"-?\d+\.?\d*")
LETTER = re.compile(r"[ABCDE]")
STRICT_NUMBER = re.compile(r"[Tt]he answer is:? *(-?\d+(?:\.\d+)?)\s*\.?\s*$")
STRICT_LETTER = re.compile(r"[Tt]he answer is:? *\(?([A-E])\)?\s*\.?\s*$")
STRICT_KEYWORD = re.compile(r"the correct answer is (\w+)\.?")
TOLERANCE = 1e-3  # absolute, as the authors'
RIGHT_ROUGE = 0.5  # instruction tasks have no right answer; only their ROUGE-L is analysed


class Reading(NamedTuple):
    """How the answer to a kind of task is read from a response, and when it is the gold one."""

    lenient: Callable[[str, str], str | None]  # task, text -> answer as the authors read it, None without one
    strict: Callable[[str, str], str | None]  # where the response format puts it, after what announces it
    robust: Callable[[str, str], str | None]  # in the many ways in which models write it
    is_right: Callable[[str, str], bool]  # answer, gold answer
    response: str  # what ends with an answer, written in place of {}


def _last_number(task: str, text: str) -> str | None:
    numbers = NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else None


def _announced_number(task: str, text: str) -> str | None:
    match = STRICT_NUMBER.search(text.replace(",", "").strip())
    return match and match[1]


def _first_letter(task: str, text: str) -> str | None:
    match = LETTER.search(text)
    return match and match[0]


def _announced_letter(task: str, text: str) -> str | None:
    match = STRICT_LETTER.search(text.replace(",", "").strip())
    return match and match[1]


def keywords(task: str) -> tuple[str, ...]:
    """The answers to a task. As the authors' they are the same for all `answerN`: answer5 is one of four."""
    options = ALL_TASKS[task].options
    return tuple(f"answer{n}" for n in range(1, 6)) if options[0] == "answer1" else options


@cache
def keyword_pattern(task: str) -> re.Pattern:
    """Any of the `keywords` of a task."""
    return re.compile("|".join(sorted(keywords(task), key=len, reverse=True)))  # `reddish` before `red`


def _first_keyword(task: str, text: str) -> str | None:
    match = keyword_pattern(task).search(text)
    return match and match[0]


def _announced_keyword(task: str, text: str) -> str | None:
    match = STRICT_KEYWORD.fullmatch(text.strip())
    return match[1] if match and keyword_pattern(task).fullmatch(match[1]) else None


def _whole_text(task: str, text: str) -> str | None:
    return text.strip() or None


def same_number(left: str, right: str) -> bool:
    """Whether two numbers as text are equal within TOLERANCE; False if one is none."""
    try:
        return abs(float(left) - float(right)) <= TOLERANCE
    except ValueError:
        return False


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 in [0, 1] (package rouge-score, no stemming)."""
    return float(_rouge().score(reference, text)["rougeL"].fmeasure)


def _is_like(text: str, reference: str) -> bool:
    return rouge_l(text, reference) >= RIGHT_ROUGE


@cache
def _rouge():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


# --- the robust reading: what follows the last words that announce an answer, else the last answer

ANNOUNCED = re.compile(
    r"(?:answer|option|choice)\s*(?:is|:|=|(?:would|must|should|will) be)|####"
    r"|(?=\b(?:[A-E]|(?:answer|option|solution|ending) ?[1-5])\)? is (?:the )?(?:correct|right)\b)",
    re.IGNORECASE,
)
ENDS = re.compile(r"[.!?]\s|\n|\b(?:because|since)\b|[,;]\s*as\b")
MINUS = str.maketrans("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d\u2044", "-------/")
THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\}|\\,|\u00a0|\u2009|\u202f)\d{3})+(?!\d)")
VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")  # one character for a fraction
FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
SHORT_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*(\d)\s*(\d)")  # one digit needs no braces
TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}")
BOLD = re.compile(r"\*\*(\\?[$£€]?-?\d[^*\n]*)(?<![.:)])\*\*(?=[^*\n.=]*\.?\s*\Z)")  # in the last sentence
DECORATION = re.compile(r"(?<!\d)\*|\*(?!\d)|[_`$£€]|\\[()\[\]%!]")  # Markdown, not 7*2; currency; LaTeX
# A sign begins a number only where no other number ends (3-5), and no exponent (m^2) is one; then a mixed
# number, a fraction or a decimal.
VALUE = re.compile(
    r"(?<![\w.)^])(?<!\^\{)(?:(-?\d+) +(\d+) */ *([1-9]\d*)|([-+]?(?:\d+\.?\d*|\.\d+))(?: */ *(0*[1-9]\d*))?)"
)
ANNOUNCED_CAPITAL = re.compile(r"\b([A-E])\b|\(([a-e])\)|^\W*([a-e])(?:\W*$|\))")
CAPITAL = re.compile(  # A alone may be an article, B's a person's
    r"\(([A-Ea-e])\)|\b([B-E])\b(?!['\u2019]s)|\b(A)\b(?=\s*(?:[).:,;]|$))|^\W*([a-e])\W*$"
)


def _plain(text: str) -> str:
    """What follows the thinking, without decoration; fractions as a/b, boxes as announced answers."""
    text = text.rpartition("</think>")[2]
    text = THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = VULGAR.sub(lambda found: " " + unicodedata.normalize("NFKC", found[0]), text).translate(MINUS)
    announced = " answer is \\1 "
    ways = [(TEXT, r"\1"), (FRACTION, r" \1\2/\3"), (SHORT_FRACTION, r" \1\2/\3")]
    for pattern, plain in (*ways, (BOXED, announced), (BOLD, announced)):
        text = pattern.sub(plain, text)
    return DECORATION.sub("", text)


def _announced(text: str) -> str:
    """What follows the last words that announce an answer, up to a reason or a full stop; "" if none do."""
    ends = [found.end() for found in ANNOUNCED.finditer(text)]
    return ENDS.split(text[ends[-1] :].strip())[0] if ends else ""


def _robust_number(task: str, text: str) -> str | None:
    text = _plain(text)
    announced = VALUE.search(_announced(text).rpartition("=")[2])
    found = [announced] if announced else list(VALUE.finditer(text))[-1:]
    return _decimal(*found[0].groups()) if found else None


def _decimal(whole: str | None, above: str, below: str, value: str, divisor: str | None) -> str:
    """A mixed number, a fraction or a decimal, as a decimal."""
    if whole is not None:
        return repr(int(whole) + math.copysign(int(above) / int(below), -1 if whole.startswith("-") else 1))
    return value.rstrip(".") if divisor is None else repr(float(value) / int(divisor))


def _robust_letter(task: str, text: str) -> str | None:
    text = _plain(text)
    announced = ANNOUNCED_CAPITAL.search(_announced(text))
    found = [announced] if announced else list(CAPITAL.finditer(text))[-1:]
    return next(filter(None, found[0].groups())).upper() if found else None


@cache
def _loose_keywords(task: str) -> re.Pattern:
    """Whole words in any case, their number perhaps apart from them (answer 2)."""
    words = "|".join(re.sub(r"(?=\d)", r"\\s*", word) for word in keywords(task))
    return re.compile(rf"\b(?:{words})\b", re.IGNORECASE)


def _robust_keyword(task: str, text: str) -> str | None:
    text, pattern = _plain(text), _loose_keywords(task)
    announced = pattern.search(_announced(text))
    found = [announced] if announced else list(pattern.finditer(text))[-1:]
    return re.sub(r"\s", "", found[0][0].lower()) if found else None


READINGS = {
    "number": Reading(_last_number, _announced_number, _robust_number, same_number, "The answer is {}."),
    "letter": Reading(_first_letter, _announced_letter, _robust_letter, operator.eq, "The answer is {}."),
    "keyword": Reading(
        _first_keyword, _announced_keyword, _robust_keyword, operator.eq, "the correct answer is {}"
    ),
    "text": Reading(_whole_text, _whole_text, _whole_text, _is_like, "{}"),
}


def _last_group(task: str, text: str) -> str | None:
    found = [match[1] for match in re.finditer(ALL_TASKS[task].reading, text) if match[1] is not None]
    return found[-1].strip() if found else None


def _is_same(text: str, answer: str) -> bool:
    return text == answer or same_number(text, answer)


BY_PATTERN = Reading(_last_group, _last_group, _last_group, _is_same, READINGS["number"].response)


def reading_of(task: str) -> Reading:
    """How answers to a task are read; of a pattern, the one group of its last match in the text."""
    known = ALL_TASKS[task]
    reading = READINGS.get(known.reading, BY_PATTERN)
    return reading._replace(response=known.response) if known.response else reading


def parse(task: str, text: str) -> str | None:
    """The answer in a text as the authors read it, None if there is none.

    Math: the last number, commas removed; AQuA: the first capital A to E anywhere; commonsense: the first
    keyword. Instruction tasks: the text itself.
    """
    return reading_of(task).lenient(task, text)


def parse_strict(task: str, text: str) -> str | None:
    """The answer where the response format puts it, at the end and after the words that announce it.

    A keyword is announced by the whole text, as in the paper's responses in commonsense.
    """
    return reading_of(task).strict(task, text)


def parse_robust(task: str, text: str) -> str | None:
    """The answer in the many ways in which models write it, so that format alone makes nothing wrong.

    It is what follows the last words that announce an answer (`answer is`, `####`, a LaTeX box), else the
    last answer in the text. Numbers: other minus signs, thousands, currency, percent, fractions, LaTeX;
    letters in brackets and small; keywords as whole words in any case, `answer 2` too.
    """
    return reading_of(task).robust(task, text)


def is_correct(task: str, parsed: str | None, answer: str) -> bool:
    """Whether a parsed answer is the gold one: numbers within TOLERANCE, all else to the letter.

    Instruction tasks have no right or wrong; they count as correct from a ROUGE-L of RIGHT_ROUGE.
    """
    return parsed is not None and reading_of(task).is_right(parsed, answer)
