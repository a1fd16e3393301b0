"""On-policy steps: which steps train on the student's own responses, and these responses."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdutils import encoding
from kdutils.encoding import Batch
from kdutils.generation import Text, generate
from kdutils.models import LoadedModel
from kdutils.noise import generator
from kdutils.spec import RunSpec


@dataclass
class Rollouts:
    """Responses that a student samples in training, of `spec.sampled_share` of the steps."""

    student: LoadedModel
    spec: RunSpec
    item_ids: list[str]
    prompts: list[list[int]]  # token ids, by row
    rows: Callable[[int], list[int]]  # the items of a step
    n_steps: int

    def is_due(self, step: int) -> bool:
        """Whether a step is on-policy."""
        coin = torch.rand((), generator=generator(self.spec.seed, "policy", step))
        return float(coin) < self.spec.sampled_share

    def batch(self, step: int, sampled: dict[int, list[Text]]) -> Batch:
        """The step's prompts with responses sampled by the student, each with EOS if it ended by EOS.

        Args:
            sampled: step -> responses; this step's are taken from it, after those of the next
                `spec.rollout_steps` on-policy steps have been sampled together where they are missing.
        """
        if step not in sampled:
            upcoming = (one for one in range(step, self.n_steps) if self.is_due(one))
            sampled |= self._sample(list(itertools.islice(upcoming, self.spec.rollout_steps)))
        prompts, eos = [self.prompts[row] for row in self.rows(step)], self.student.tokenizer.eos_token_id
        responses = [text.token_ids + [eos] * text.ended for text in sampled.pop(step)]
        token_ids = [(p + r)[: self.spec.max_tokens] for p, r in zip(prompts, responses, strict=True)]
        n_unscored = [1 if self.spec.scores_prompt else len(prompt) for prompt in prompts]
        return encoding.batch_of(self._keys(step), token_ids, n_unscored, pad_id=self.student.pad_id)

    def _sample(self, steps: list[int]) -> dict[int, list[Text]]:
        texts = iter(
            generate(
                self.student,
                [self.prompts[row] for step in steps for row in self.rows(step)],
                max_new_tokens=self.spec.max_new_tokens,
                temperature=self.spec.sampling_temperature,
                keys=[key for step in steps for key in self._keys(step)],
                seed=self.spec.seed,
            )
        )
        return {step: list(itertools.islice(texts, len(self.rows(step)))) for step in steps}

    def _keys(self, step: int) -> list[str]:
        return [f"{self.item_ids[row]}@{step}" for row in self.rows(step)]
