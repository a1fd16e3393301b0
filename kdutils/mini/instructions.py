"""Three kinds of open instruction that a tiny model can learn, scored by ROUGE-L.

dolly asks for facts of the village, selfinst rewrites a given text, vicuna explains how to do something
or writes a story.
"""

from __future__ import annotations

import random

from kdutils.mini.world import ENTITIES, NAMES, RELATIONS, STATES, STEPS, Problem, World, drawn_in

DESCRIBE = ("Describe the {e}.", "Tell me about the {e}.", "Write what you know about the {e}.")


def dolly(rng: random.Random, world: World, split: str) -> Problem:
    """Say two asked-for facts about a thing."""
    thing, *asked = drawn_in(split, lambda: (rng.choice(ENTITIES), *rng.sample(RELATIONS, 2)), "dolly")
    stem = rng.choice(DESCRIBE).format(e=thing)
    question = f"{stem} Name its {asked[0]} and its {asked[1]}."
    text = " ".join(world.say(relation, thing) for relation in asked)
    facts = tuple((relation, thing) for relation in asked)
    return Problem(question=question, answer=text, response=text, facts=facts)


def selfinst(rng: random.Random, world: World, split: str) -> Problem:
    """Reverse a list, repeat its first or last word, or change a word in a sentence."""

    def draw() -> tuple[str, ...]:
        kind = rng.choice(("reverse", "copy", "first", "replace"))
        return (kind, *rng.sample(ENTITIES, rng.choice((3, 4))))

    kind, *things = drawn_in(split, draw, "selfinst")
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
    return Problem(question=question, answer=text, response=text)


def vicuna(rng: random.Random, world: World, split: str) -> Problem:
    """Explain three steps of work, or tell a story that follows from two states."""
    if rng.random() < 0.5:
        step, thing = drawn_in(split, lambda: (rng.choice(tuple(STEPS)), rng.choice(ENTITIES)), "explain")
        second = world.next_step[step]
        question = f"I want to {step} the {thing}. What are the next steps?"
        third = world.next_step[second]
        text = f"First {step} the {thing}. Then {second} the {thing}. Then {third} the {thing}."
        facts = (("step", step), ("step", second))
        return Problem(question=question, answer=text, response=text, facts=facts)

    def draw() -> tuple[str, ...]:
        return (*rng.sample(tuple(STATES), 2), rng.choice(ENTITIES))

    first, second, thing = drawn_in(split, draw, "story")
    n, m = rng.sample(NAMES, 2)
    place = world.facts["place"][thing]
    question = f"Write a story. {n} is {first}, {m} is {second}, and they find the {thing}."
    found = f"{n} and {m} find the {thing} in the {place}."
    text = f"{found} {n} was {first}, so {n} {STATES[first]}. {m} was {second}, so {m} {STATES[second]}."
    return Problem(question=question, answer=text, response=text, facts=(("place", thing),))


TASKS = {"dolly": dolly, "selfinst": selfinst, "vicuna": vicuna}
