"""The work that programs are compared on: two networks, a batch, and which of its tokens are scored.

A case is fixed by its numbers alone. Weights are random, from one seed. The loss is a divergence of METHODS
at temperature 1, averaged over all scored tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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

SEED, RATE = 0, 1e-5
METHODS = {"fkl": ("forward_kl", 0.0), "revkd": ("reverse_kl", 1.0), "gkd": ("jsd", 0.5)}  # and TRL's beta
Step = Callable[[str], float]  # a method's mean loss, whose gradient has been added to the student's
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
    """The networks and the batch of a case on a device, made when they are asked for.

    On a GPU the student's products and the teacher are in bfloat16, on a CPU all is in float32.

    Args:
        methods: of METHODS, those that are measured.
    """

    def __init__(self, case: Case, *, device: str = "cpu", methods: tuple[str, ...] = ("gkd",)) -> None:
        self.case, self.device, self.methods = case, device, methods
        self.is_cuda = device.startswith("cuda")

    @cached_property
    def student(self) -> PreTrainedModel:
        """Transformers' network, float32, in training mode."""
        return network_of(self.case.student, seed=SEED, device=self.device).train()

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """Transformers' network, frozen, in evaluation mode."""
        network = network_of(self.case.teacher, seed=SEED + 1, device=self.device)
        return (network.bfloat16() if self.is_cuda else network).eval().requires_grad_(False)

    def computing(self) -> contextlib.AbstractContextManager:
        """Autocast to bfloat16 on a GPU."""
        import torch

        return torch.autocast("cuda", torch.bfloat16) if self.is_cuda else contextlib.nullcontext()

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

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The batch as transformers' networks take it, on the device."""
        batch = self.batch
        inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_BT}
        return {name: values.to(self.device) for name, values in inputs.items()}

    @cached_property
    def labels_BT(self) -> Tensor:
        """Tokens on the device, -100 where nothing is scored."""
        return self.batch.input_ids_BT.masked_fill(~self.batch.scored_BT, -100).to(self.device)

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
            adamw.state[weight] = {"step": torch.zeros((), device=weight.device)} | moments
        return adamw


def network_of(shape: Architecture, *, seed: int, device: str = "cpu") -> PreTrainedModel:
    """A network of that shape with random weights: of Qwen2 if it has biases, else of Llama."""
    import torch
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
    with seeded(seed), torch.device(device):
        return AutoModelForCausalLM.from_config(config)
