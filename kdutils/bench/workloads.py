"""The work that programs are compared on: two networks, a batch, and which of its tokens are scored.

A case is fixed by its numbers alone. Weights are random, from one seed. The loss is the Jensen-Shannon
divergence (beta 0.5, temperature 1), averaged over all scored tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from kdutils.data import model_files, sources
from kdutils.grid import model_shapes
from kdutils.grid.model_shapes import Architecture
from kdutils.grid.study import PERFORMANCE_CASES as CASES
from kdutils.spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from kdutils.encoding import Batch

SEED, BETA, RATE = 0, 0.5, 1e-5
MINI_STUDENT, MINI_TEACHER = "mini-qwen-1.5B", "mini-qwen-14B"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is distilled. With a `domain` of the mini world, the texts are its first training items."""

    name: str
    student: Architecture
    teacher: Architecture
    rows: int
    length: int = 0  # of each row; 0 with a domain, whose texts have their own
    scored: int = 0  # the last ones of each row; 0 with a domain
    domain: str = ""


@cache
def case_of(name: str) -> Case:
    """One of CASES.

    Raises:
        ValueError: for another name.
    """
    if name == "mini":
        from tokenizers import Tokenizer  # transformers would load torch

        tokenizer = Tokenizer.from_file(f"{model_files.locate(MINI_STUDENT).source}/tokenizer.json")
        rows = tokenizer.get_vocab_size()  # without those that only pad, which not every program can take
        shapes = map(model_shapes.architecture_of, (MINI_STUDENT, MINI_TEACHER))
        student, teacher = (replace(shape, rows=rows) for shape in shapes)
        return Case(name=name, student=student, teacher=teacher, rows=16, domain="math")
    if name == "smollm":
        shape = model_shapes.SHAPES["SmolLM2-135M"]
        return Case(name=name, student=shape, teacher=shape, rows=4, length=160, scored=80)
    if name == "qwen-vocabulary":
        shape = {"rows": 151_936, "is_tied": True, "has_bias": True}
        student = Architecture(hidden=256, layers=4, heads=4, key_heads=4, intermediate=704, **shape)
        teacher = Architecture(hidden=512, layers=8, heads=8, key_heads=8, intermediate=1_408, **shape)
        return Case(name=name, student=student, teacher=teacher, rows=4, length=256, scored=128)
    raise ValueError(f"unknown case {name!r}; choose one of {list(CASES)}")


class Work:
    """The networks and the batch of a case, made when they are asked for."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @cached_property
    def student(self) -> PreTrainedModel:
        """Transformers' network, float32, in training mode."""
        return network_of(self.case.student, seed=SEED).train()

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """Transformers' network, float32, frozen, in evaluation mode."""
        return network_of(self.case.teacher, seed=SEED + 1).eval().requires_grad_(False)

    @cached_property
    def encoded(self) -> Any:
        """The rows as kdutils.encoding.encode gives them: id, input_ids, n_unscored."""
        import datasets
        import torch

        from kdutils import encoding, models

        case = self.case
        if case.domain:
            spec = RunSpec(student=MINI_STUDENT, method="sft", domain=case.domain, train_items=case.rows)
            items = sources.load_items(spec, "train")
            return encoding.encode(items, models.load_tokenizer(MINI_STUDENT), **spec.encoding)
        generator = torch.Generator().manual_seed(SEED)
        ids_BT = torch.randint(1, case.student.rows, (case.rows, case.length), generator=generator)
        unscored = [case.length - case.scored] * case.rows
        names = [f"row-{row}" for row in range(case.rows)]
        return datasets.Dataset.from_dict({"id": names, "input_ids": ids_BT.tolist(), "n_unscored": unscored})

    @cached_property
    def batch(self) -> Batch:
        """All rows, padded on the right."""
        from kdutils import encoding

        return encoding.collate(self.encoded, range(self.case.rows), pad_id=0)

    @property
    def labels_BT(self) -> Tensor:
        """Tokens, -100 where nothing is scored."""
        return self.batch.input_ids_BT.masked_fill(~self.batch.scored_BT, -100)

    @property
    def sizes(self) -> dict[str, int]:
        """What costs are counted from: tokens, those with padding, the length of the batch, scored tokens."""
        batch = self.batch
        n_rows, length = batch.input_ids_BT.shape
        tokens, scored = int(batch.attention_BT.sum()), int(batch.scored_BT.sum())
        return {"tokens": tokens, "padded_tokens": n_rows * length, "length": length, "scored": scored}

    def optimiser(self) -> Any:
        """The same for every program, with its moments in memory, as in every step but the first."""
        import torch

        adamw = torch.optim.AdamW(self.student.parameters(), lr=RATE, fused=True)
        for weight in self.student.parameters():
            # Written to, since the system gives memory that reads as zero only then.
            moments = {name: torch.empty_like(weight).fill_(0.0) for name in ("exp_avg", "exp_avg_sq")}
            adamw.state[weight] = {"step": torch.tensor(0.0)} | moments
        return adamw


def network_of(shape: Architecture, *, seed: int) -> PreTrainedModel:
    """A network of that shape with random weights: of Qwen2 if it has biases, else of Llama."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from kdutils.noise import seeded

    config = AutoConfig.for_model(
        "qwen2" if shape.has_bias else "llama",
        vocab_size=shape.rows,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=4_096,
        tie_word_embeddings=shape.is_tied,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with seeded(seed):
        return AutoModelForCausalLM.from_config(config)
