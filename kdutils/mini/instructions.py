"""Three kinds of open instruction that a tiny model can learn, scored by ROUGE-L.

dolly asks for facts of the village, selfinst rewrites a given text, vicuna explains how to do something
or writes a story.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kdutils.mini.problem import Problem
from kdutils.mini.world import ENTITIES, NAMES, RELATIONS, STATEMENTS, STATES, STEPS, World, split_of

DESCRIBE = ("Describe the {e}.", "Tell me about the {e}.", "Write what you know about the {e}.")


def _first(
    rng: random.Random, split: str, draw: Callable[[random.Random], tuple[str, ...]], *label: str
) -> tuple[str, ...]:
    """The first drawn combination that belongs to the split."""
    while True:
        words = draw(rng)
        if split_of(*label, *words) == split:
            return words


def statement(world: World, relation: str, thing: str) -> str:
    """The sentence that says what the thing's value is."""
    return STATEMENTS[relation].format(e=thing, v=world.facts[relation][thing])


def dolly(rng: random.Random, world: World, split: str) -> Problem:
    """Say two asked-for facts about a thing."""

    def draw(source: random.Random) -> tuple[str, ...]:
        return (source.choice(ENTITIES), *source.sample(RELATIONS, 2))

    thing, *asked = _first(rng, split, draw, "dolly")
    stem = rng.choice(DESCRIBE).format(e=thing)
    question = f"{stem} Name its {asked[0]} and its {asked[1]}."
    text = " ".join(statement(world, relation, thing) for relation in asked)
    return Problem(question=question, answer=text, response=text, key=("dolly", thing, *asked))


def selfinst(rng: random.Random, world: World, split: str) -> Problem:
    """Reverse a list, repeat its first or last word, or change a word in a sentence."""

    def draw(source: random.Random) -> tuple[str, ...]:
        kind = source.choice(("reverse", "copy", "first", "replace"))
        return (kind, *source.sample(ENTITIES, source.choice((3, 4))))

    kind, *things = _first(rng, split, draw, "selfinst")
    listed = ", ".join(things)
    if kind == "reverse":
        question, text = f"Write the list in reverse order: {listed}.", ", ".join(reversed(things)) + "."
    elif kind == "copy":
        question, text = f"Copy the list: {listed}.", listed + "."
    elif kind == "first":
        question, text = f"Copy the list but not the first word: {listed}.", ", ".join(things[1:]) + "."
    else:
        name, (old, new), step = rng.choice(NAMES), things[:2], rng.choice(tuple(STEPS.values()))
        question = f"Replace the {old} with the {new}: {name} {step} the {old} near the {things[2]}."
        text = f"{name} {step} the {new} near the {things[2]}."
    return Problem(question=question, answer=text, response=text, key=("selfinst", kind, *things))


def vicuna(rng: random.Random, world: World, split: str) -> Problem:
    """Explain three steps of work, or tell a story that follows from two states."""
    if rng.random() < 0.5:
        step, thing = _first(rng, split, lambda r: (r.choice(tuple(STEPS)), r.choice(ENTITIES)), "explain")
        second = world.next_step[step]
        question = f"I want to {step} the {thing}. What are the next steps?"
        third = world.next_step[second]
        text = f"First {step} the {thing}. Then {second} the {thing}. Then {third} the {thing}."
        return Problem(question=question, answer=text, response=text, key=("explain", step, thing))

    def draw(source: random.Random) -> tuple[str, ...]:
        return (*source.sample(tuple(STATES), 2), source.choice(ENTITIES))

    first, second, thing = _first(rng, split, draw, "story")
    n, m = rng.sample(NAMES, 2)
    place = world.facts["place"][thing]
    question = f"Write a story. {n} is {first}, {m} is {second}, and they find the {thing}."
    found = f"{n} and {m} find the {thing} in the {place}."
    text = f"{found} {n} was {first}, so {n} {STATES[first]}. {m} was {second}, so {m} {STATES[second]}."
    return Problem(question=question, answer=text, response=text, key=("story", first, second, thing))


TASKS = {"dolly": dolly, "selfinst": selfinst, "vicuna": vicuna}
