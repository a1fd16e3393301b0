"""The teacher as a signal: hidden states, head, noise and temperature, behind one interface.

Online for now: the teacher's body runs on every batch. A cache of its hidden states can stand behind the
same three methods, because nothing else of a teacher is ever asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdutils.data import Batch
from kdutils.losses import shifted
from kdutils.models import LoadedModel
from kdutils.noise import LogitNoise, noise_keys


@dataclass(frozen=True)
class Teacher:
    """A frozen model whose logits a student is compared with.

    `noise_sigma` is the standard deviation of Gaussian noise on its logits, drawn anew for every scored
    position of every item and the same whenever that position comes up again.
    """

    model: LoadedModel
    noise_sigma: float = 0.0
    seed: int = 0  # of the noise

    @property
    def head_VH(self) -> Tensor:
        """Output head, as many rows as the model has."""
        return self.model.head_VH

    @torch.no_grad()
    def hidden_NH(self, batch: Batch) -> Tensor:
        """The hidden states that score the batch's scored tokens, in their row-major order."""
        hidden_BTH = self.model.hidden_states(batch.input_ids_BT, batch.attention_BT)
        return shifted(hidden_BTH, batch.scored_BT.to(hidden_BTH.device))

    def noise(self, batch: Batch) -> LogitNoise | None:
        """The noise on those positions, None without noise.

        A position is counted in the item's own tokens: with padding on the right, the column.
        """
        if self.noise_sigma == 0:
            return None
        row_N, column_N = batch.scored_BT.nonzero(as_tuple=True)
        item_ids = [batch.ids[row] for row in row_N.tolist()]
        return LogitNoise(noise_keys(self.seed, item_ids, column_N.tolist()), self.noise_sigma)
