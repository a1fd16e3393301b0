"""Six kinds of generated arithmetic word problem with worked rationales.

One step (addsub), one equation with an unknown (singleeq), two steps (multiarith), a number that does not
matter (svamp), three steps or more (gsm8k), five choices and a letter (aqua). All numbers are whole and below
100, each one token: what a small model lacks is then arithmetic and reading, not spelling.

A rationale says the same thing in one of many ways: a preface or none, openers, synonyms, the order of
operands and of steps that do not need each other. What is drawn is fixed with the problem.
"""

from __future__ import annotations

import operator
import random
from collections import defaultdict
from functools import partial

from kdutils.mini.templates import OPENERS, PREFACES, TEMPLATES, Numbers, Template, varied
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
    template: Template, words: dict[str, str], numbers: Numbers, miss: dict[int, int], rng: random.Random
) -> tuple[list[str], int]:
    """The sentences of a solution, as `rng` words them, and its result; `miss` is added to that of a step."""
    known = _results(template, numbers, miss)
    sentences = [varied(rng.choice(PREFACES), rng)]
    for i in _order(template, rng):
        step = template.steps[i - 1]
        operands = [known[step.left], known[step.right]]
        if step.sign in "+*" and rng.random() < 0.5:
            operands.reverse()
        expr = f"{operands[0]} {step.sign} {operands[1]} = {known[f's{i}']}"
        said = varied(f"{rng.choice(OPENERS)} {rng.choice(step.sayings)}", rng)
        sentences.append(said.format(expr=expr, r=known[f"s{i}"], **words))
    return [text.format(**words) for text in sentences if text], known[f"s{len(template.steps)}"]


def _order(template: Template, rng: random.Random) -> list[int]:
    """The numbers of the steps, from 1, in an order in which each finds the results it needs."""
    left, order = list(range(1, len(template.steps) + 1)), []
    while left:
        waiting = {f"s{i}" for i in left}
        ready = [i for i in left if not waiting & {template.steps[i - 1].left, template.steps[i - 1].right}]
        order.append(rng.choice(ready))
        left.remove(order[-1])
    return order


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
    for i, step in enumerate(template.steps, start=1):
        if step.sign == "/" and known[step.left] % known[step.right]:
            return {}
        known[f"s{i}"] = APPLY[step.sign](known[step.left], known[step.right]) + miss.get(i, 0)
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
        template = rng.choice(TEMPLATES[task])
        n, m = rng.sample(NAMES, 2)
        o, u = rng.sample(OBJECTS, 2)
        words = {"n": n, "m": m, "o": o, "u": u}
        masked = f"{template.story} {template.ask}".format_map(defaultdict(lambda: "#", words))
        if split_of("arithmetic", masked) != split:  # across the six tasks: some share a wording
            continue
        numbers = template.draw(rng)
        words |= {k: str(v) for k, v in numbers.items()}
        question = f"{template.story} {template.ask}".format(**words)
        lines, result = _solve(template, words, numbers, {}, rng)
        options = five_options(result, rng) if task == "aqua" else None
        if options or task != "aqua":
            break

    answer, solved = str(result), f"{question} {' '.join(lines)}"
    if options:
        answer = LETTERS[options.index(result)]
        said = f"{result} " if result % 2 else ""  # half of them name the number before its letter
        solved = f"{question} {listed(options)}. {' '.join(lines)} The answer is {said}{answer}."
        question = f"{question} Answer Choices: {listed(options)}"

    def slip(slips: random.Random) -> str:
        if options is None:
            miss = _misses(template, numbers, slips)
        else:
            wrong = slips.choice([option for option in options if option != result])
            miss = {len(template.steps): wrong - result}
        wrong_lines, end = _solve(template, words, numbers, miss, slips)
        return _response(wrong_lines, str(end) if options is None else LETTERS[options.index(end)])

    response = _response(lines, answer)
    return Problem(question=question, answer=answer, response=response, solved=solved, slip=slip)


def listed(options: list[int]) -> str:
    """Five numbers under their letters."""
    return " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))


def _response(lines: list[str], named: str) -> str:
    return " ".join([*lines, f"The answer is {named}."])


TASKS = {task: partial(generate, task=task) for task in TEMPLATES}
