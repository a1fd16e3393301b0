"""The eight models of the mini family and a hybrid one: names, what they stand for, sizes, budgets.

`mini-qwen-14B` has 0.5 million parameters, not 14 billion: names say which released model one stands for, in
the ladder of accuracies and in the pairs. Without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

ROWS = 640  # the tokenizer has fewer entries; the rest is padding
WIDE_ROWS = 672  # the two largest Qwen-like models, as Qwen2.5-7B and -14B have more rows than the others
MODEL_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class MiniModel:
    """Shape and pretraining of one model of the family."""

    name: str
    stands_for: str  # a released model
    hidden: int
    layers: int
    heads: int
    key_heads: int  # of keys and values, shared by groups of heads
    learning_rate: float  # of pretraining
    texts: int  # of the last lesson; the others end when they are learned
    knows: float  # share of the facts of the village that its texts tell: larger models know more
    # Share of the prompted questions in its texts that are answered, which base accuracy comes from:
    answers_math: float
    answers_commonsense: float
    rows: int = ROWS
    required_lessons: int = 2  # of pretraining, that have to end at their bar; else it begins anew

    @property
    def architecture(self) -> str:
        """qwen (Qwen2), llama, or hybrid (Qwen3.5: attention in the second layer, else Gated DeltaNet)."""
        return self.name.split("-")[1]

    @property
    def intermediate(self) -> int:
        """Width within an MLP: in a hybrid less, by what its attention has more, at equal parameters."""
        return 4 * self.hidden // 3 if self.architecture == "hybrid" else 2 * self.hidden

    @property
    def answered(self) -> dict[str, float]:
        """Domain -> share of prompted questions that are answered in pretraining."""
        other = self.answers_commonsense
        return {"math": self.answers_math, "commonsense": other, "instruction": other}

    @property
    def fine_tuning_rate(self) -> float:
        """The default learning rate of a run."""
        return 0.05 * self.learning_rate


# Several heads, since an option has to look back at its label and at the question, and few keys and values:
# with one head, or keys for each, the label of the right option was learned late or never (CALIBRATION.md).
FAMILY = tuple(
    MiniModel(f"mini-{name}", *rest)
    for name, *rest in (
        ("qwen-0.5B", "Qwen2.5-0.5B", 48, 4, 3, 1, 3e-3, 160_000, 0.32, 0.52, 0.11),
        ("qwen-1.5B", "Qwen2.5-1.5B", 64, 4, 4, 1, 2.5e-3, 150_000, 0.60, 0.58, 0.14),
        ("qwen-3B", "Qwen2.5-3B", 80, 4, 5, 1, 2.2e-3, 170_000, 0.74, 0.75, 0.34),
        ("qwen-7B", "Qwen2.5-7B", 96, 4, 6, 1, 2e-3, 170_000, 0.82, 0.83, 0.44, WIDE_ROWS),
        ("qwen-14B", "Qwen2.5-14B", 112, 4, 7, 1, 1.8e-3, 170_000, 0.88, 0.92, 0.52, WIDE_ROWS),
        ("llama-1B", "Llama-3.2-1B", 48, 4, 3, 1, 3e-3, 150_000, 0.24, 0.30, 0.28),
        ("llama-3B", "Llama-3.2-3B", 64, 4, 4, 1, 2.5e-3, 170_000, 0.65, 0.30, 0.28),
        ("llama-8B", "Llama-3.1-8B", 96, 4, 6, 1, 2e-3, 170_000, 0.78, 0.40, 0.45),
    )
)
# mini-qwen-0.5B with linear attention: its recipe and vocabulary, 113,714 parameters to its 111,344.
HYBRID = replace(
    FAMILY[0], name="mini-hybrid-0.5B", stands_for="no released model", texts=60_000, required_lessons=0
)
MINI_MODELS = {model.name: model for model in (*FAMILY, HYBRID)}
