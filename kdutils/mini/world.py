"""A small made-up village: things, people, what follows what, and how it feels.

The facts are random, so that a model can know them from the pretraining texts alone. Every value of a
relation belongs to the same number of things: no answer is more frequent than another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

WORLD_SEED = 20_261_129  # the shipped models were pretrained on this world and no other

# No name holds a capital A to E: the paper's AQuA parser takes the first such letter it meets.
NAMES = (
    *("Kim", "Lee", "Sam", "Tom", "Mia", "Lily", "Nina"),
    *("Omar", "Paul", "Rosa", "Hana", "Gus", "Finn", "Zoe"),
)

THINGS = {
    "bird": "owl eagle duck goose crow",
    "fish": "carp trout eel shark cod",
    "fruit": "apple pear plum cherry fig",
    "tool": "hammer saw axe knife broom",
    "toy": "ball kite doll drum robot",
    "tree": "oak pine elm birch maple",
    "garment": "hat coat scarf glove sock",
    "stone": "ruby pearl opal marble flint",
}
THINGS = {kind: tuple(words.split()) for kind, words in THINGS.items()}
ENTITIES = tuple(thing for things in THINGS.values() for thing in things)

VALUES = {
    "kind": tuple(THINGS),
    "place": ("barn", "garden", "kitchen", "cellar", "attic", "market", "school", "harbor"),
    "color": ("red", "blue", "green", "brown", "black", "white", "gray", "pink"),
    "touch": ("soft", "hard", "rough", "smooth", "warm", "wet", "sharp", "sticky"),
    "owner": ("baker", "nurse", "farmer", "sailor", "teacher", "painter", "judge", "tailor"),
    "use": (
        *("cut bread", "boil soup", "sweep floors", "open doors"),
        *("carry water", "light fires", "dig holes", "make music"),
    ),
}
RELATIONS = tuple(VALUES)

# Second hops: what a place is like, where a person lives, what a kind needs.
HOP_VALUES = {
    "air": ("place", ("dark", "bright", "noisy", "quiet")),
    "home": ("owner", ("north", "south", "east", "west")),
    "need": ("kind", ("shade", "light", "air", "salt")),
}
HOPS = tuple(HOP_VALUES)

# Work steps, bare and with -s; the order in which they follow each other is drawn.
STEPS = {
    "wash": "washes", "mend": "mends", "paint": "paints", "wrap": "wraps", "fold": "folds",
    "pack": "packs", "lift": "lifts", "turn": "turns", "press": "presses", "shake": "shakes",
    "mark": "marks", "weigh": "weighs",
}  # fmt: skip

STATES = {
    "tired": "slept", "hungry": "ate", "thirsty": "drank", "dirty": "bathed", "sick": "rested",
    "late": "ran", "bored": "played", "rich": "paid", "strong": "pushed", "funny": "joked",
    "lost": "asked", "angry": "shouted", "shy": "hid", "afraid": "fled",
}  # fmt: skip

EVENTS = (
    *("helped", "thanked", "ignored", "invited", "teased", "taught"),
    *("blamed", "hugged", "warned", "praised", "tricked", "saved"),
)
FEELINGS = ("proud", "guilty", "happy", "upset", "sad", "calm")
WISHES = ("leave", "stay", "dance", "cry", "write", "sing")

STATEMENTS = {
    "kind": "The {e} is a {v}.",
    "place": "The {e} is in the {v}.",
    "color": "The {e} is {v}.",
    "touch": "The {e} feels {v}.",
    "owner": "The {e} belongs to the {v}.",
    "use": "People use the {e} to {v}.",
    "air": "The {e} is in a {v} place.",
    "home": "The owner of the {e} lives in the {v}.",
    "need": "The {e} needs {v}.",
}
LINKS = {"air": "The {w} is a {v} place.", "home": "The {w} lives in the {v}.", "need": "A {w} needs {v}."}
QUESTIONS = {
    "kind": "What is the {e}?",
    "place": "Where is the {e}?",
    "color": "What color is the {e}?",
    "touch": "How does the {e} feel?",
    "owner": "Who owns the {e}?",
    "use": "What do people use the {e} for?",
    "air": "What is it like where the {e} is?",
    "home": "Where does the owner of the {e} live?",
    "need": "What does the {e} need?",
}
CHECKS = {
    "kind": "is the {e} a {v}?",
    "place": "is the {e} in the {v}?",
    "color": "is the {e} {v}?",
    "touch": "does the {e} feel {v}?",
    "owner": "does the {e} belong to the {v}?",
    "use": "do people use the {e} to {v}?",
}


def _share_of(*key: str) -> float:
    """A number in [0, 1) by hash of the key."""
    digest = hashlib.sha256("|".join(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(*key: str) -> str:
    """The split that everything named by `key` belongs to, whatever the seed of the data.

    60 % train, 15 % validation, 25 % test, by hash.
    """
    share = _share_of("mini-split-v1", *key)
    return "train" if share < 0.60 else "validation" if share < 0.75 else "test"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question, its answer, the right response, and a response that is plausibly wrong."""

    question: str
    answer: str
    response: str
    slip: Callable[[random.Random], str] | None = None  # arithmetic only: a wrong response
    facts: tuple[tuple[str, str], ...] = ()  # what has to be known: (relation, thing), see World.known
    option: str = ""  # choices only: what stands under the right label
    solved: str = ""  # arithmetic only: question and solution as plain text, without the answer format


@dataclass(frozen=True)
class World:
    """All facts of the village."""

    facts: dict[str, dict[str, str]]  # relation or hop -> thing -> value
    links: dict[str, dict[str, str]]  # hop -> value of its first relation -> value
    fact_split: dict[tuple[str, str], str]  # (relation or hop, thing) -> split
    next_step: dict[str, str]  # work step -> the one that follows, one cycle
    agent_feeling: dict[str, str]  # event -> how the one who did it feels
    patient_feeling: dict[str, str]  # event -> how the other one feels
    wish: dict[str, str]  # event -> what the one who did it wants next
    known: frozenset[tuple[str, str]] | None = None  # facts that texts may tell; None: all of them

    def knows(self, *facts: tuple[str, str]) -> bool:
        """Whether texts may tell all of these facts."""
        return self.known is None or self.known.issuperset(facts)

    def with_known(self, share: float) -> World:
        """This world where texts tell that share of the facts alone: of each relation, of each split.

        Facts that a smaller share tells are among those of a larger one.
        """
        groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for fact, split in self.fact_split.items():
            groups.setdefault((fact[0], split), []).append(fact)
        for relation in ("agent", "patient", "wish"):
            groups[relation, ""] = [(relation, event) for event in EVENTS]
        groups["step", ""] = [("step", step) for step in STEPS]
        known = set()
        for facts in groups.values():
            facts.sort(key=lambda fact: _share_of("mini-known-v1", *fact))
            known.update(facts[: round(share * len(facts))])
        return replace(self, known=frozenset(known))

    def things(self, relation: str, value: str, split: str) -> list[str]:
        """The things with that value whose fact belongs to the split, in a fixed order."""
        held = self.facts[relation]
        return [e for e in ENTITIES if held[e] == value and self.fact_split[relation, e] == split]

    def say(self, relation: str, thing: str) -> str:
        """The sentence that states the value a thing has."""
        return STATEMENTS[relation].format(e=thing, v=self.facts[relation][thing])

    def values(self, relation: str) -> tuple[str, ...]:
        """All values of a relation or of a second hop."""
        return VALUES[relation] if relation in VALUES else HOP_VALUES[relation][1]


def _deal(subjects: tuple[str, ...], values: tuple[str, ...], rng: random.Random) -> dict[str, str]:
    """Each subject with a value, every value equally often."""
    hand = list(values) * (len(subjects) // len(values))
    rng.shuffle(hand)
    return dict(zip(subjects, hand, strict=True))


def draw_world(rng: random.Random) -> World:
    """A village with its facts dealt out by `rng`."""
    facts = {"kind": {e: kind for kind, things in THINGS.items() for e in things}}
    for relation in RELATIONS[1:]:
        facts[relation] = _deal(ENTITIES, VALUES[relation], rng)
    links = {}
    for hop, (first, values) in HOP_VALUES.items():
        links[hop] = _deal(VALUES[first], values, rng)
        facts[hop] = {e: links[hop][facts[first][e]] for e in ENTITIES}

    fact_split = {}
    for relation, held in facts.items():
        for value in dict.fromkeys(held.values()):
            members = [e for e in ENTITIES if held[e] == value]
            rng.shuffle(members)
            for i, thing in enumerate(members):  # of five: two train, one validation, two test
                fact_split[relation, thing] = ("train", "test", "train", "test", "validation")[i % 5]

    order = list(STEPS)
    rng.shuffle(order)
    agent = _deal(EVENTS, FEELINGS, rng)
    while True:  # the two people of an event never feel the same
        patient = _deal(EVENTS, FEELINGS, rng)
        if all(agent[event] != patient[event] for event in EVENTS):
            break
    return World(
        facts=facts,
        links=links,
        fact_split=fact_split,
        next_step=dict(zip(order, order[1:] + order[:1], strict=True)),
        agent_feeling=agent,
        patient_feeling=patient,
        wish=_deal(EVENTS, WISHES, rng),
    )


def drawn_in(split: str, draw: Callable[[], tuple[str, ...]], *label: str) -> tuple[str, ...]:
    """The first drawn combination of words that belongs, after the label, to the split."""
    while True:
        words = draw()
        if split_of(*label, *words) == split:
            return words


@cache
def shipped_world() -> World:
    """The world the shipped models know."""
    return draw_world(random.Random(WORLD_SEED))
