"""The ten models of the mini family: names, sizes, folders, pairs. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

ROWS = 544  # the tokenizer has fewer entries; the rest is padding
WIDE_ROWS = 576  # the two largest Qwen-like models, as Qwen2.5-7B and -14B have more rows than the others
ARCHITECTURES = ("qwen", "llama")  # of Qwen2 and Llama
MODEL_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class MiniModel:
    """Shape and pretraining of one model of the family."""

    name: str
    architecture: str  # one of ARCHITECTURES
    hidden: int
    layers: int
    heads: int
    key_heads: int  # of keys and values, shared by groups of heads
    learning_rate: float  # of pretraining
    rows: int = ROWS

    @property
    def fine_tuning_rate(self) -> float:
        """The default learning rate of a run."""
        return 0.6 * self.learning_rate


# Several heads, since an option has to look back at its label and at the question, and few keys and values:
# with one head, or keys for each, the label of the right option was learned late or never (CALIBRATION.md).
FAMILY = tuple(
    MiniModel(f"mini-{architecture}-{size}", architecture, *shape)
    for architecture, size, *shape in (
        ("qwen", "14k", 16, 2, 1, 1, 6e-3, ROWS),
        ("qwen", "36k", 32, 2, 2, 1, 3e-3, ROWS),
        ("qwen", "66k", 48, 2, 4, 1, 2e-3, ROWS),
        ("qwen", "105k", 64, 2, 4, 1, 1.5e-3, ROWS),
        ("qwen", "296k", 96, 3, 6, 2, 1e-3, WIDE_ROWS),
        ("qwen", "493k", 128, 3, 8, 2, 1e-3, WIDE_ROWS),
        ("llama", "24k", 24, 2, 2, 1, 4e-3, ROWS),
        ("llama", "66k", 48, 2, 4, 1, 2e-3, ROWS),
        ("llama", "140k", 64, 3, 4, 1, 1.3e-3, ROWS),
        ("llama", "400k", 112, 3, 4, 2, 1e-3, ROWS),
    )
)
MINI_MODELS = {model.name: model for model in FAMILY}


def pairs() -> list[tuple[str, str]]:
    """(teacher, student) within a family, the teacher larger: 15 Qwen-like and 6 Llama-like."""
    found = []
    for architecture in ARCHITECTURES:
        members = [model.name for model in FAMILY if model.architecture == architecture]  # by size
        found += [(teacher, student) for student, teacher in combinations(members, 2)]
    return found
