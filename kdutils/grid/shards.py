"""A part of the runs of a plan, for many callers who each make one: shard 2/8 is the second of eight.

Which shard a run is in depends on the plan alone and not on what is there, so callers may begin at different
times. Together they make everything; what two of them need, such as a teacher, is made by whoever takes its
lease, and the other waits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from kdutils.grid.schedule import Job


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            last = max(1, self.count)
            raise ValueError(f"shard {self} is not there; give one from 1/{last} to {last}/{last}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that `text` names, such as 2/8.

        Raises:
            ValueError: if it is none.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise ValueError(f"shard {text!r} is not I/N; give for example 2/8, the second of eight")
        return cls(int(match[1]), int(match[2]))

    def own(self, jobs: Mapping[str, Job]) -> list[str]:
        """Ids of the runs that are this shard's alone, in their order.

        They are dealt out like cards, the most expensive first, so that shards take about equally long.
        """
        dealt = sorted(jobs, key=lambda run_id: (*jobs[run_id].place, run_id))
        mine = set(dealt[self.index - 1 :: self.count])
        return [run_id for run_id in jobs if run_id in mine]

    def jobs(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        """The runs of this shard, and the teachers that they need."""
        own = self.own(jobs)
        needed = {*own, *(jobs[run_id].teacher for run_id in own)}
        return {run_id: job for run_id, job in jobs.items() if run_id in needed}
