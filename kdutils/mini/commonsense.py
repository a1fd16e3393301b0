"""Eight kinds of question about the village, in the format of the eight commonsense tasks.

Options are drawn alike, and the right one is chosen among them afterwards: its place, length and words
carry no information. A fact asked in test is never asked in training, in any task; questions about work,
states and events have disjoint combinations of words.
"""

from __future__ import annotations

import random

from kdutils.mini.world import (
    CHECKS,
    ENTITIES,
    EVENTS,
    FEELINGS,
    HOPS,
    NAMES,
    QUESTIONS,
    STEPS,
    WISHES,
    Problem,
    World,
    drawn_in,
)

HEADS = {
    "answer": "Please choose the correct answer to the question: ",
    "solution": "Please choose the correct solution to the question: ",
    "ending": "Please choose the correct ending to complete the given sentence: ",
    "option": "Please choose the correct answer to fill in the blank to complete the given sentence: ",
}
TRUE_FALSE = "Please answer the following question with true or false, question: "


def _choice(keyword: str, stem: str, options: list[str], gold: int, fact: tuple[str, str]) -> Problem:
    """The question as LLM-Adapters words it, and its response."""
    labels = [f"{keyword.capitalize()}{i}: {option}" for i, option in enumerate(options, start=1)]
    between = "\n\n" if keyword == "solution" else " "
    before_format = " " if keyword == "option" else "\n\n"
    formats = "/".join(f"{keyword}{i}" for i in range(1, len(options) + 1))
    question = f"{HEADS[keyword]}{stem}\n\n{between.join(labels)}{before_format}Answer format: {formats}"
    answer = f"{keyword}{gold + 1}"
    response = f"the correct answer is {answer}"
    return Problem(question=question, answer=answer, response=response, facts=(fact,), option=options[gold])


def _draw(world: World, relation: str, n: int, split: str, rng: random.Random) -> list[tuple[str, str]]:
    """`n` pairs (thing, value), values all different, their facts all of the split."""
    values = rng.sample(world.values(relation), n)
    return [(rng.choice(world.things(relation, value, split)), value) for value in values]


def ask_value(world: World, relations: tuple[str, ...], split: str, rng: random.Random) -> Problem:
    """A thing is named, its value is asked for, four options."""
    relation = rng.choice(relations)
    pairs, gold = _draw(world, relation, 4, split, rng), rng.randrange(4)
    stem = QUESTIONS[relation].format(e=pairs[gold][0])
    return _choice("answer", stem, [value for _, value in pairs], gold, (relation, pairs[gold][0]))


def arc_e(rng: random.Random, world: World, split: str) -> Problem:
    """One fact, asked forwards."""
    return ask_value(world, ("kind", "place", "color", "touch"), split, rng)


def arc_c(rng: random.Random, world: World, split: str) -> Problem:
    """Two facts to be joined: the air of its place, the home of its owner, the need of its kind."""
    return ask_value(world, HOPS, split, rng)


OBQA_STEMS = {
    "place": "{n} goes to the {v}. What is there?",
    "owner": "{n} visits the {v}. What is there?",
    "use": "{n} wants to {v}. What helps?",
}


def obqa(rng: random.Random, world: World, split: str) -> Problem:
    """One fact, asked backwards: which of four things has the value?"""
    relation = rng.choice(tuple(OBQA_STEMS))
    pairs, gold = _draw(world, relation, 4, split, rng), rng.randrange(4)
    stem = OBQA_STEMS[relation].format(n=rng.choice(NAMES), v=pairs[gold][1])
    return _choice("answer", stem, [thing for thing, _ in pairs], gold, (relation, pairs[gold][0]))


def boolq(rng: random.Random, world: World, split: str) -> Problem:
    """Is this the value of that thing? As often true as false, for every value."""
    relation = rng.choice(tuple(CHECKS))
    pairs = _draw(world, relation, 2, split, rng)
    true = rng.random() < 0.5
    check = CHECKS[relation].format(e=pairs[0][0], v=pairs[0 if true else 1][1])
    stem = f"{rng.choice(NAMES)} wants to know: {check}"  # without a name there are too few true questions
    answer = "true" if true else "false"
    return Problem(
        question=f"{TRUE_FALSE}{stem}\n\nAnswer format: true/false",
        answer=answer,
        response=f"the correct answer is {answer}",
        facts=((relation, pairs[0][0]),),
    )


def piqa(rng: random.Random, world: World, split: str) -> Problem:
    """Which of two things serves a purpose, or which of two steps of work comes first?"""
    gold = rng.randrange(2)
    if rng.random() < 0.5:
        pairs = _draw(world, "use", 2, split, rng)
        stem, fact = f"What do you take to {pairs[gold][1]}?", ("use", pairs[gold][0])
        return _choice("solution", stem, [thing for thing, _ in pairs], gold, fact)
    step, thing = drawn_in(split, lambda: (rng.choice(tuple(STEPS)), rng.choice(ENTITIES)), "order")
    after = world.next_step[step]
    named = [step, after] if rng.random() < 0.5 else [after, step]  # in the question, in either order
    stem = f"You {named[0]} and {named[1]} the {thing}. What do you do first?"
    options = [step, after] if gold == 0 else [after, step]
    return _choice("solution", stem, options, gold, ("step", step))


def siqa(rng: random.Random, world: World, split: str) -> Problem:
    """How one of two people feels after an event, or what the one who acted wants next."""
    gold = rng.randrange(3)

    def draw() -> tuple[str, ...]:
        asked = rng.choice(("agent", "patient", "wish"))
        return rng.choice(EVENTS), rng.choice(world.values("place")), asked

    event, place, asked = drawn_in(split, draw, "event")
    agent, patient = rng.sample(NAMES, 2)
    story = f"In the {place} {agent} {event} {patient}."
    held, values, stem = {
        "agent": (world.agent_feeling, FEELINGS, f"{story} How is {agent} now?"),
        "patient": (world.patient_feeling, FEELINGS, f"{story} How does {patient} take it?"),
        "wish": (world.wish, WISHES, f"{story} What will {agent} do next?"),
    }[asked]
    right = held[event]
    others = rng.sample([value for value in values if value != right], 2)
    options = others[:gold] + [right] + others[gold:]
    return _choice("answer", stem, options, gold, (asked, event))


def hellaswag(rng: random.Random, world: World, split: str) -> Problem:
    """What comes next: the step of work that follows, among four."""
    step, thing = drawn_in(split, lambda: (rng.choice(tuple(STEPS)), rng.choice(ENTITIES)), "work")
    name, place, gold = rng.choice(NAMES), rng.choice(world.values("place")), rng.randrange(4)
    after = world.next_step[step]
    verbs = rng.sample([other for other in STEPS if other not in (step, after)], 3)
    verbs.insert(gold, after)
    stem = f"In the {place}: {name} {STEPS[step]} the {thing}. And then?"
    options = [STEPS[verb] for verb in verbs]
    return _choice("ending", stem, options, gold, ("step", step))


BLANKS = {
    "place": "_ was in the {v}.",
    "color": "_ was {v}.",
    "touch": "_ felt {v}.",
    "owner": "_ was of the {v}.",
}


def winogrande(rng: random.Random, world: World, split: str) -> Problem:
    """Which of two things of a sentence does its second half speak of? One fact, asked backwards."""
    relation = rng.choice(tuple(BLANKS))
    pairs, gold = _draw(world, relation, 2, split, rng), rng.randrange(2)
    seen = [thing for thing, _ in rng.sample(pairs, 2)]  # in either order
    blank = BLANKS[relation].format(v=pairs[gold][1])
    stem = f"{rng.choice(NAMES)} saw the {seen[0]} and the {seen[1]}, and {blank}"
    return _choice("option", stem, [thing for thing, _ in pairs], gold, (relation, pairs[gold][0]))


TASKS = {
    generate.__name__: generate for generate in (arc_c, arc_e, boolq, hellaswag, obqa, piqa, siqa, winogrande)
}
