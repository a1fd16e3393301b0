"""Items of the mini world: how many, of which tasks, with which share of wrong rationales."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from kdutils.items import SPLITS, Item, fingerprint
from kdutils.mini import arithmetic, commonsense, instructions
from kdutils.mini.world import Problem, shipped_world

GENERATORS: dict[str, dict[str, Callable[..., Problem]]] = {
    "math": arithmetic.TASKS,
    "commonsense": commonsense.TASKS,
    "instruction": instructions.TASKS,
}
TASKS_OF = {domain: tuple(tasks) for domain, tasks in GENERATORS.items()}
DRAWS_IN_VAIN = 2_000  # in a row; then a task is taken to have no other question
DOMAIN_OF = {task: domain for domain, tasks in TASKS_OF.items() for task in tasks}


def generate_items(
    task: str, *, split: str, n: int, rng: random.Random, wrong_rationale_share: float = 0.0
) -> list[Item]:
    """`n` different items of one task and split.

    Exactly round(wrong_rationale_share * n) arithmetic items get a rationale with a slip in one step and a
    wrong end; their `answer` stays right. ValueError for an unknown split, a share outside [0, 1], or too few
    different questions.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {list(SPLITS)}")
    if not 0.0 <= wrong_rationale_share <= 1.0:
        raise ValueError(f"wrong_rationale_share={wrong_rationale_share} is not in [0, 1]")
    world, domain = shipped_world(), DOMAIN_OF[task]
    generator = GENERATORS[domain][task]

    problems: dict[str, Problem] = {}
    in_vain = 0  # draws since the last new question
    while len(problems) < n and in_vain < DRAWS_IN_VAIN:
        problem = generator(rng, world, split)
        in_vain = in_vain + 1 if problem.question in problems else 0
        problems.setdefault(problem.question, problem)
    if len(problems) < n:
        raise ValueError(
            f"{task}/{split} yields only {len(problems)} different questions; ask for fewer than {n}"
        )

    n_wrong = round(wrong_rationale_share * n) if domain == "math" else 0
    wrong = set(rng.sample(range(n), n_wrong))
    items = []
    for i, problem in enumerate(problems.values()):
        response = problem.slip(rng) if i in wrong else problem.response
        items.append(
            Item(
                id=f"{task}-{split}-{i:05d}",
                task=task,
                question=problem.question,
                answer=problem.answer,
                rationale=response if domain == "math" else "",
                response=response,
            )
        )
    return items


def build_data(
    *, split: str, n_per_task: int, domain: str, wrong_rationale_share: float = 0.23, seed: int = 0
) -> list[Item]:
    """The items of a domain's split, task after task; the same arguments give the same items.

    Each task has its own generator, so that asking for fewer items changes no other task.
    `wrong_rationale_share` concerns training only: 23 % is what the real data hold.
    """
    share = wrong_rationale_share if split == "train" else 0.0
    items = []
    for task in TASKS_OF[domain]:
        rng = random.Random(f"mini/{seed}/{split}/{task}")
        items += generate_items(task, split=split, n=n_per_task, rng=rng, wrong_rationale_share=share)
    return items


@cache
def mini_digest(domain: str) -> str:
    """16 hexadecimal digits that change when the generator makes other items of a domain."""
    sample = [item for split in SPLITS for item in build_data(split=split, n_per_task=20, domain=domain)]
    return fingerprint(sample)
