"""Pretraining texts: drills, solved problems and facts of the village, as plain prose.

Only texts of the kind `prompted` have the prompt and, in a share of them that each model has its own of, a
response in the format of its task: what a base model does when it is asked. The others are told without,
but for solved problems with choices, which end on their letter as a response does.
Solved problems and work, states and events use only the combinations of the training split; facts
are told whatever their split, because asking for them is what the tasks test: all, or the share that a
model knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache, partial

from kdutils.items import SPLITS, alpaca
from kdutils.mini import arithmetic, commonsense, instructions
from kdutils.mini.arithmetic import LARGEST, LETTERS
from kdutils.mini.templates import ADDEND_MAX, FACTOR_MAX
from kdutils.mini.world import (
    CHECKS,
    ENTITIES,
    EVENTS,
    FEELINGS,
    HOP_VALUES,
    HOPS,
    LINKS,
    NAMES,
    RELATIONS,
    STATES,
    STEPS,
    VALUES,
    WISHES,
    World,
    shipped_world,
    split_of,
)

# Lessons, one after the other: how many texts at most, the share of right decisions at which it is left, and
# which kinds in which shares. The last has as many texts as the model reads. That the label before an option
# names it is learned first, where nothing has to be known, then for one kind of question: among many it comes
# too late.
LESSONS: tuple[tuple[int | None, float, dict[str, float]], ...] = (
    (50_000, 0.975, {"named": 0.8, "facts": 0.2}),
    (40_000, 0.9, {"named": 0.05, "facts": 0.2, "quiz_facts": 0.75}),
    (100_000, 0.96, {
        "named": 0.04, "facts": 0.06, "joined": 0.04, "work": 0.05, "states": 0.04, "events": 0.06,
        "quiz": 0.6, "checks": 0.11,
    }),
    (None, 1.0, {
        "named": 0.03, "facts": 0.03, "joined": 0.02, "checks": 0.05, "quiz": 0.22, "sums": 0.06,
        "products": 0.04, "solved": 0.26, "work": 0.01, "states": 0.01, "events": 0.02,
        "lists": 0.01, "prompted": 0.24,
    }),
)  # fmt: skip
FIRST_SHARE, SAID_SHARE = 0.3, 0.15  # of quizzes that give the answer before the options, or before its label
BEFORE_SHARE = 0.25  # of lists that come after the word whose label is asked
LABEL_WORDS = ("answer", "solution", "ending", "option")
PROMPTED = {"math": 0.45, "commonsense": 0.45, "instruction": 0.1}  # share of each domain

# What is harder is asked more often.
QUIZ_SHARES = {
    "arc_e": 0.08, "arc_c": 0.12, "obqa": 0.12, "piqa": 0.14, "siqa": 0.22, "hellaswag": 0.17,
    "winogrande": 0.15,
}  # fmt: skip


def sums(rng: random.Random, world: World) -> str:
    """Three sums or differences."""
    lines = []
    for _ in range(3):
        part, total = rng.randint(1, ADDEND_MAX), rng.randint(1, ADDEND_MAX)
        if rng.random() < 0.2:
            part = rng.randint(1, LARGEST - total)
        total += part
        plus = rng.random() < 0.5
        lines.append(f"{part} + {total - part} = {total}" if plus else f"{total} - {part} = {total - part}")
    return ", ".join(lines) + "."


def products(rng: random.Random, world: World) -> str:
    """Three products or quotients of the table."""
    lines = []
    for _ in range(3):
        a, b = rng.randint(2, FACTOR_MAX), rng.randint(2, FACTOR_MAX)
        lines.append(f"{a} * {b} = {a * b}" if rng.random() < 0.5 else f"{a * b} / {a} = {b}")
    return ", ".join(lines) + "."


def solved(rng: random.Random, world: World) -> str:
    """A word problem with its solution, in the wording of the training split."""
    task = rng.choice((*arithmetic.TASKS, "aqua"))  # whose letters are learned last
    return arithmetic.TASKS[task](rng, world, "train").solved


def named(rng: random.Random, world: World) -> str:
    """Numbers under letters or words under labels; one before, or some after, with what they stand under."""
    kind = rng.choice(("letter", *LABEL_WORDS))
    n = {"letter": 5, "solution": 2, "option": 2}.get(kind, 4)
    places = sorted(rng.sample(range(n), rng.randint(1, n)))  # one alone teaches how a label is named
    if kind == "letter":
        options = [str(number) for number in rng.sample(range(LARGEST + 1), len(places))]
        labels, shown = [LETTERS[i] for i in places], [f"({LETTERS[i]})" for i in places]
    else:
        options = rng.sample(_words(), len(places))
        labels = [f"{kind}{i + 1}" for i in places]
        shown = [f"{kind.capitalize()}{i + 1}:" for i in places]
    listed = " ".join(f"{label} {option}" for label, option in zip(shown, options, strict=True))
    if rng.random() < BEFORE_SHARE:
        i = rng.randrange(len(options))
        return f"{options[i]}. {listed}. so {labels[i]}."
    told = (rng.randrange(len(options)) for _ in range(4))  # with repetition: the rest cannot be guessed
    return f"{listed}. {', '.join(f'{options[i]} {labels[i]}' for i in told)}."


@cache
def _words() -> tuple[str, ...]:
    """What options are made of."""
    world = shipped_world()
    values = [value for relation in RELATIONS + HOPS for value in world.values(relation)]
    return tuple(dict.fromkeys([*ENTITIES, *values, *FEELINGS, *WISHES, *STEPS.values(), *NAMES]))


def facts(rng: random.Random, world: World) -> str:
    """Up to three facts about one thing, or of things that share a value."""
    told: list[tuple[str, str]] = []
    while not told:
        if rng.random() < 0.75:
            thing = rng.choice(ENTITIES)
            told = [(relation, thing) for relation in RELATIONS]
        else:
            relation = rng.choice(RELATIONS)
            value = rng.choice(VALUES[relation])
            told = [(relation, thing) for thing in ENTITIES if world.facts[relation][thing] == value]
        told = [fact for fact in told if world.knows(fact)]
    return " ".join(world.say(*fact) for fact in rng.sample(told, min(3, len(told))))


def joined(rng: random.Random, world: World) -> str:
    """Two facts and what follows from them."""
    while True:
        hop, thing = rng.choice(HOPS), rng.choice(ENTITIES)
        first = HOP_VALUES[hop][0]
        if world.knows((hop, thing), (first, thing)):
            break
    middle = world.facts[first][thing]
    told = f"{world.say(first, thing)} {LINKS[hop].format(w=middle, v=world.links[hop][middle])}"
    return f"{told} {world.say(hop, thing)}" if rng.random() < 0.5 else world.say(hop, thing)


def checks(rng: random.Random, world: World) -> str:
    """Up to two questions about one thing, true or false; after half of them stands what is the case."""
    asked: list[str] = []
    while not asked:
        thing, parts = rng.choice(ENTITIES), []
        asked = [relation for relation in RELATIONS if world.knows((relation, thing))]
    for relation in rng.sample(asked, min(2, len(asked))):
        held = world.facts[relation][thing]
        value = held if rng.random() < 0.5 else rng.choice([v for v in VALUES[relation] if v != held])
        said = f"{held}, so " if rng.random() < 0.5 else ""
        parts.append(f"{CHECKS[relation].format(e=thing, v=value)} {said}{str(value == held).lower()}.")
    return " ".join(parts)


def quiz(rng: random.Random, world: World, tasks: tuple[str, ...] = tuple(QUIZ_SHARES)) -> str:
    """A question, its labelled options, the label of the right one, in part its words. Without format.

    Facts of every split, since they are told anyway; everything else from the training split.
    """
    (task,) = rng.choices(tasks, weights=[QUIZ_SHARES[task] for task in tasks])
    while True:
        split = rng.choice(SPLITS)
        problem = commonsense.TASKS[task](rng, world, split)
        if (split == "train" or problem.facts[0][0] in world.facts) and world.knows(*problem.facts):
            break
    asked = problem.question[len(commonsense.HEADS[problem.answer[:-1]]) :].split("Answer format:")[0]
    stem, *options = asked.strip().split("\n\n")
    form, right = rng.random(), problem.option.removesuffix(".")
    first = f"{right}. " if form < FIRST_SHARE else ""
    said = f"{right} " if FIRST_SHARE <= form < FIRST_SHARE + SAID_SHARE else ""
    return f"{stem} {first}{' '.join(options).removesuffix('.')}. so {said}{problem.answer}."


def work(rng: random.Random, world: World) -> str:
    """Steps of work in their order, done to one thing."""
    while True:
        step, thing = rng.choice(tuple(STEPS)), rng.choice(ENTITIES)
        is_train = all(split_of(asked, step, thing) == "train" for asked in ("work", "order", "explain"))
        if is_train and world.knows(("step", step)):
            break
    name, after = rng.choice(NAMES), world.next_step[step]
    if rng.random() < 0.5:
        return f"{name} {STEPS[step]} the {thing}. Then {name} {STEPS[after]} the {thing}."
    return f"First {step} the {thing}. Then {after} the {thing}."


def states(rng: random.Random, world: World) -> str:
    """Two people, their states, and what each did."""
    while True:
        s, t = rng.sample(tuple(STATES), 2)
        if split_of("states", *sorted((s, t))) == "train":
            break
    n, m = rng.sample(NAMES, 2)
    ends = [f"{n} {STATES[s]}", f"{m} {STATES[t]}"]
    rng.shuffle(ends)
    return f"{n} was {s} and {m} was {t}, so {ends[0]} and {ends[1]}."


def events(rng: random.Random, world: World) -> str:
    """What one did to another, how they feel, and what the first does next."""
    asked: list[str] = []
    while not asked:
        event, place = rng.choice(EVENTS), rng.choice(world.values("place"))
        kinds = ("agent", "patient", "wish")
        if all(split_of("event", event, place, kind) == "train" for kind in kinds):
            asked = [kind for kind in kinds if world.knows((kind, event))]
    n, m = rng.sample(NAMES, 2)
    ends = {
        "agent": f"{n} is {world.agent_feeling[event]} now.",
        "patient": f"{m} is {world.patient_feeling[event]} about it.",
        "wish": f"Next {n} will {world.wish[event]}.",
    }
    rng.shuffle(asked)
    return f"In the {place} {n} {event} {m}. {' '.join(ends[kind] for kind in asked)}"


def lists(rng: random.Random, world: World) -> str:
    """A list of things and numbers, again, or the other way round."""
    things = rng.sample(ENTITIES + tuple(map(str, range(10, 60))), rng.randint(3, 8))
    listed, reverse = ", ".join(things), rng.random() < 0.3
    again = ", ".join(reversed(things)) if reverse else listed
    return f"{listed}. in {'reverse' if reverse else 'order'}: {again}."


def prompted(rng: random.Random, world: World, answered: dict[str, float] | None = None) -> str:
    """A question of the training split as it is asked in fine-tuning, answered or not.

    Args:
        answered: share of each domain's questions that the response follows; after the others stand some
            facts that have nothing to do with them, as on a page of the web.
    """
    (domain,) = rng.choices(tuple(PROMPTED), weights=tuple(PROMPTED.values()))
    tasks = {"math": arithmetic, "commonsense": commonsense, "instruction": instructions}[domain].TASKS
    while True:
        problem = tasks[rng.choice(tuple(tasks))](rng, world, "train")
        if world.knows(*problem.facts):
            break
    is_answered = rng.random() < (answered or {}).get(domain, 0.5)
    return alpaca(problem.question) + (problem.response if is_answered else facts(rng, world))


_FIRST = (sums, products, solved, named, facts, joined, checks, quiz)
_LAST = (work, states, events, lists, prompted)
# The order decides which texts the tokenizer's words are collected from.
KINDS = {kind.__name__: kind for kind in _FIRST}
KINDS |= {"quiz_facts": partial(quiz, tasks=("arc_e",))}
KINDS |= {kind.__name__: kind for kind in _LAST}


def generate_texts(
    n: int, rng: random.Random, answered: dict[str, float] | None = None, knows: float = 1.0
) -> Iterator[str]:
    """Pretraining texts, lesson after lesson, `n` of the last; `answered` as in `prompted`.

    Args:
        knows: share of the facts that are told and asked; the others are nowhere in the texts.
    """
    world = shipped_world().with_known(knows)
    kinds = KINDS | {"prompted": partial(prompted, answered=answered)}
    for (_, _, mix), size in zip(LESSONS, lesson_sizes(n), strict=True):
        for kind in rng.choices(tuple(mix), weights=tuple(mix.values()), k=size):
            yield kinds[kind](rng, world)


def lesson_sizes(n: int) -> list[int]:
    """How many texts each lesson has at most if the last has `n`."""
    return [n if size is None else min(size, n) for size, _, _ in LESSONS]
