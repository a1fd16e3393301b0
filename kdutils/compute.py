"""How a run is computed, as opposed to what: fields that change results by rounding only, if at all.

All environment variables of the package; `Compute.from_environment` alone reads the first four:

| variable                 | values                      | meaning, and who reads it                        |
|--------------------------|-----------------------------|--------------------------------------------------|
| `KDUTILS_COMPILE`        | torch.compile backend       | `Compute.compile_backend`                        |
| `KDUTILS_CHECKPOINTING`  | `0` (default), `1`          | `Compute.activation_checkpointing`               |
| `KDUTILS_CPU_BFLOAT16`   | `auto` (default), `0`, `1`  | `Compute.cpu_bfloat16`                           |
| `KDUTILS_TEACHER_STATES` | `always` (default), `never` | `Compute.keeps_teacher_states`                   |
| `KDUTILS_DATA`           | folder                      | real questions, in its data/: data, grid         |
| `KDUTILS_MODELS`         | `NAME=PATH,...`             | files in the place of models of the hub: data    |
| `KDUTILS_RUN_TOKEN`      | set by the runner           | which of its runs a notebook belongs to: io      |
"""

from __future__ import annotations

import os
from dataclasses import dataclass

LARGE_PARAMETERS = 20_000_000  # from here on bf16 pays on a CPU that is fast at it (at 135M; not below 1M)
BUDGET_BYTES = 160 << 20  # for the logits that exist at one time, of both models together
BATCH_ROWS = 128  # texts that are generated together


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how a run is computed. The number of threads is torch's own (`torch.set_num_threads`)."""

    device: str | None = None  # of torch; None: the GPU if there is one, else the CPU
    compile_backend: str = ""  # of torch.compile, for decoder and divergence; "": eager
    cpu_bfloat16: bool | None = None  # of large models on a CPU; None: if it has AMX or AVX512_BF16
    activation_checkpointing: bool = False  # recompute activations in the backward pass: slower, less memory
    keeps_teacher_states: bool = True  # on disk, so that the teacher runs once; False: it runs at every step
    checkpoint_seconds: float = 60.0  # training seconds between two checkpoints; 0: after every step
    micro_batch_rows: int | None = None  # sequences in one pass; None: the batch, halved if memory runs out
    pass_tokens: int | None = None  # cost of a pass, see Batch.passes; None: as few as can be

    def __post_init__(self) -> None:
        if self.compile_backend:
            import torch

            known = torch.compiler.list_backends(exclude_tags=None)
            if self.compile_backend not in known:
                raise ValueError(
                    f"compile_backend={self.compile_backend!r} (KDUTILS_COMPILE) is none of torch.compile's: "
                    f"unset it, or use one of {known}"
                )
        for name, least in (("micro_batch_rows", 1), ("checkpoint_seconds", 0), ("pass_tokens", 0)):
            if (value := getattr(self, name)) is not None and not value >= least:
                raise ValueError(f"{name}={value} must be at least {least}")

    def uses_bfloat16(self, device: str) -> bool:
        """Whether large models compute in bfloat16 on that device of torch.

        A CPU without AMX or AVX512_BF16 is slower in it than in float32, up to hundreds of times.
        """
        import torch

        if torch.device(device).type != "cpu":
            return True
        is_fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return is_fast if self.cpu_bfloat16 is None else self.cpu_bfloat16

    @classmethod
    def from_environment(cls) -> Compute:
        """As the environment variables say; what they leave open is the default.

        Raises:
            ValueError: naming a variable with a value that is unknown, and the known ones.
        """
        return cls(
            compile_backend=os.environ.get("KDUTILS_COMPILE", ""),
            cpu_bfloat16=_choice("KDUTILS_CPU_BFLOAT16", {"auto": None, "0": False, "1": True}),
            activation_checkpointing=_choice("KDUTILS_CHECKPOINTING", {"0": False, "1": True}),
            keeps_teacher_states=_choice("KDUTILS_TEACHER_STATES", {"always": True, "never": False}),
        )


def _choice(variable: str, choices: dict[str, bool | None]) -> bool | None:
    """What the value of a variable stands for; unset or empty, the first choice."""
    value = os.environ.get(variable) or next(iter(choices))
    if value not in choices:
        raise ValueError(f"{variable}={value!r} is unknown: use {' or '.join(choices)}")
    return choices[value]


DEFAULT = Compute()
