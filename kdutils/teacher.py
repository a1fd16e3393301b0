"""The teacher as a signal: hidden states, head, noise and temperature, behind one interface.

Two kinds: `Teacher` runs its body on every batch, `CachedTeacher` reads what it said of the training items
from disk (kdutils.teacher_cache) and has a body only for sequences that no cache can hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdutils.encoding import Batch
from kdutils.head import Head
from kdutils.models import LoadedModel
from kdutils.noise import LogitNoise, noise_keys
from kdutils.teacher_cache import OpenStates


@dataclass
class Teacher:
    """A frozen model whose logits a student is compared with.

    `noise_sigma` is the standard deviation of Gaussian noise on its logits, drawn anew for every scored
    position of every item and the same whenever that position comes up again.
    """

    model: LoadedModel
    noise_sigma: float = 0.0
    seed: int = 0  # of the noise

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def head(self) -> Head:
        """Output head, as many rows as the model has."""
        return self.model.head

    def hidden_NH(self, batch: Batch) -> Tensor:
        """The hidden states that score the batch's scored tokens, in their row-major order."""
        return _online(self.model, batch)

    def noise(self, batch: Batch) -> LogitNoise | None:
        """The noise on those positions, None without noise.

        A position is counted in the item's own tokens: with padding on the right, the column.
        """
        return _noise(batch, self.noise_sigma, self.seed)


@dataclass
class CachedTeacher:
    """As `Teacher`, from states on disk; the body is loaded when a batch holds something else.

    That is a student's own samples alone, so that off-policy arms never hold two models.
    """

    name: str
    states: OpenStates
    load: Callable[[], LoadedModel]
    device: str
    noise_sigma: float = 0.0
    seed: int = 0

    @cached_property
    def model(self) -> LoadedModel:
        """The body, frozen."""
        model = self.load()
        model.network.requires_grad_(False)
        return model

    @cached_property
    def head(self) -> Head:
        """Output head, cut to the tokenizer's length."""
        return self.states.head(self.device)

    def hidden_NH(self, batch: Batch) -> Tensor:
        """As `Teacher.hidden_NH`."""
        if all(item_id in self.states for item_id in batch.ids):
            ids = batch.ids if batch.scored_BT.any() else []  # see Batch.unscored
            return self.states.hidden_NH(ids).to(self.device)
        return _online(self.model, batch)

    def noise(self, batch: Batch) -> LogitNoise | None:
        """As `Teacher.noise`."""
        return _noise(batch, self.noise_sigma, self.seed)


@torch.no_grad()
def _online(model: LoadedModel, batch: Batch) -> Tensor:
    return model.scoring_states(batch)


def _noise(batch: Batch, sigma: float, seed: int) -> LogitNoise | None:
    if sigma == 0:
        return None
    row_N, column_N = batch.scored_BT.nonzero(as_tuple=True)
    item_ids = [batch.ids[row] for row in row_N.tolist()]
    return LogitNoise(noise_keys(seed, item_ids, column_N.tolist()), sigma)
