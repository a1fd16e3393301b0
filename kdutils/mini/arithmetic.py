"""Six kinds of generated arithmetic word problem with worked rationales.

One step (addsub), one equation with an unknown (singleeq), two steps (multiarith), a number that does not
matter (svamp), three steps or more (gsm8k), five choices and a letter (aqua). All numbers are whole and below
100, each one token: what a small model lacks is then arithmetic and reading, not spelling.
"""

from __future__ import annotations

import operator
import random
from functools import partial

from kdutils.mini.templates import TEMPLATES, Numbers, Template
from kdutils.mini.world import NAMES, Problem, World, split_of

OBJECTS = (
    *("books", "coins", "cards", "shells", "beads", "cookies"),
    *("pens", "nuts", "stamps", "eggs", "beans", "rings"),
)
LETTERS = "ABCDE"
SLIPS = (1, -1, 2, -2, 10, -10)  # how far a wrong step misses
LARGEST = 99  # number that has a token

APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def _solve(
    template: Template, words: dict[str, str], numbers: Numbers, miss: dict[int, int]
) -> tuple[list[str], int]:
    """The sentences of the solution and its result; `miss` is added to the result of a step."""
    known = _results(template, numbers, miss)
    sentences = []
    for i, (text, left, sign, right) in enumerate(template.steps, start=1):
        expr = f"{known[left]} {sign} {known[right]} = {known[f's{i}']}"
        sentences.append(text.format(expr=expr, **words))
    return sentences, known[f"s{len(template.steps)}"]


def _misses(template: Template, numbers: Numbers, rng: random.Random) -> dict[int, int]:
    """An error in one step after which the other steps can still be computed, with another result."""
    last = f"s{len(template.steps)}"
    right = _results(template, numbers, {})[last]
    while True:
        miss = {rng.randint(1, len(template.steps)): rng.choice(SLIPS)}
        results = _results(template, numbers, miss)
        if results and all(0 <= n <= LARGEST for n in results.values()) and results[last] != right:
            return miss


def _results(template: Template, numbers: Numbers, miss: dict[int, int]) -> Numbers:
    """All numbers after the last step; empty if a division leaves a remainder."""
    known = dict(numbers)
    for i, (_, left, sign, right) in enumerate(template.steps, start=1):
        if sign == "/" and known[left] % known[right]:
            return {}
        known[f"s{i}"] = APPLY[sign](known[left], known[right]) + miss.get(i, 0)
    return known


def five_options(result: int, rng: random.Random) -> list[int] | None:
    """Five evenly spaced numbers, the result at any rank alike, shuffled; None near 0 and LARGEST.

    Only gaps that leave room for every rank: otherwise the smallest number would be right more often.
    """
    gaps = [gap for gap in (1, 2, 3, 10) if 4 * gap <= min(result, LARGEST - result)]
    if not gaps:
        return None
    gap, rank = rng.choice(gaps), rng.randrange(5)
    options = [result + (i - rank) * gap for i in range(5)]
    rng.shuffle(options)
    return options


def generate(rng: random.Random, world: World, split: str, *, task: str) -> Problem:
    """One problem of that task whose wording, numbers masked, belongs to the split."""
    del world  # arithmetic is the same in every village
    while True:
        which = rng.randrange(len(TEMPLATES[task]))
        template = TEMPLATES[task][which]
        n, m = rng.sample(NAMES, 2)
        o, u = rng.sample(OBJECTS, 2)
        words = {"n": n, "m": m, "o": o, "u": u}
        masked = (template.story + " " + template.ask).format_map(_Masked(words))
        if split_of("arithmetic", masked) != split:  # across the six tasks: some share a wording
            continue
        numbers = template.draw(rng)
        words |= {k: str(v) for k, v in numbers.items()}
        sentences, result = _solve(template, words, numbers, {})
        story = template.story.format(**words)
        question = story + " " + template.ask.format(**words)
        solved = question + " " + " ".join(sentences)
        options = five_options(result, rng) if task == "aqua" else None
        if options or task != "aqua":
            break

    answer = str(result)
    if options:
        choices = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))
        question, answer = f"{question} Answer Choices: {choices}", LETTERS[options.index(result)]

    def write(misses: dict[int, int]) -> str:
        lines, end = _solve(template, words, numbers, misses)
        named = end if options is None else LETTERS[options.index(end)]
        return " ".join([*lines, f"The answer is {named}."])

    def slip(slips: random.Random) -> str:
        if options is None:
            return write(_misses(template, numbers, slips))
        wrong = slips.choice([option for option in options if option != result])
        return write({len(template.steps): wrong - result})

    return Problem(
        question=question, answer=answer, response=write({}), key=(masked,), solved=solved, slip=slip
    )


class _Masked(dict):
    """Words as given, numbers as #."""

    def __missing__(self, key: str) -> str:
        return "#"


TASKS = {task: partial(generate, task=task) for task in TEMPLATES}
