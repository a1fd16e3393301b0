"""What computes: how fast, with how much memory, and how much of that is used in practice."""

from __future__ import annotations

import time
from dataclasses import dataclass

HERE = "this machine"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A GPU or the processors of a machine.

    The shares and the time of a launch are assumptions for code as ours: eager PyTorch, short sequences.
    """

    name: str
    flops: float  # a second, dense matrix products in bf16 with sums in float32
    bytes_per_second: float  # of its memory
    memory_gb: float  # 10^9 bytes
    flops_float32: float | None = None  # where small models compute in float32; None: as `flops`
    forward_share: float = 0.5  # of `flops`, in forward passes over many tokens
    training_share: float = 0.4  # of `flops`, in forward and backward passes
    adapter_share: float = 0.35  # of `flops`, in those of LoRA, whose products are small and many
    bytes_share: float = 0.7  # of `bytes_per_second`
    decoding_share: float = 0.7  # of `bytes_per_second`, in steps of decoding
    runtime_gb: float = 1.5  # of CUDA's own, and of what its allocator leaves unused
    layer_seconds: float = 1e-3  # to launch a layer's kernels in one forward pass, whatever its size


# Dense peak without sparsity and bandwidth from the vendor's data sheets.
GPUS = {
    machine.name: machine
    for machine in (
        Machine(name="A100-40GB", flops=312e12, bytes_per_second=1.555e12, memory_gb=40),
        Machine(name="A100-80GB", flops=312e12, bytes_per_second=2.039e12, memory_gb=80),
        Machine(name="H100-80GB", flops=989e12, bytes_per_second=3.35e12, memory_gb=80),
        Machine(name="H200-141GB", flops=989e12, bytes_per_second=4.8e12, memory_gb=141),
        Machine(name="L40S-48GB", flops=362e12, bytes_per_second=0.864e12, memory_gb=48),
        Machine(name="RTX-4090-24GB", flops=165e12, bytes_per_second=1.008e12, memory_gb=24),
        Machine(name="L4-24GB", flops=121e12, bytes_per_second=0.3e12, memory_gb=24),
    )
}
DEFAULT = "A100-80GB"


def machine_of(name: str) -> Machine:
    """A GPU by its name, or `this machine`, measured now.

    Raises:
        ValueError: for a name that is in neither.
    """
    if name == HERE:
        return this_machine()
    if name not in GPUS:
        raise ValueError(f"unknown GPU {name!r}; choose one of {[*GPUS, HERE]}")
    return GPUS[name]


def this_machine() -> Machine:
    """The machine at hand, measured in about two seconds: products of 1024 x 1024, a copy of 128 MB."""
    import psutil
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {dtype: _product_rate(device, dtype) for dtype in (torch.bfloat16, torch.float32)}
    rate = {"flops": rates[torch.bfloat16], "bytes_per_second": _copy_rate(device)}
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine(name=HERE, memory_gb=memory / 1e9, **rate)
    return processors(
        memory_gb=psutil.virtual_memory().total / 1e9, flops_float32=rates[torch.float32], **rate
    )


def processors(*, flops: float, flops_float32: float, bytes_per_second: float, memory_gb: float) -> Machine:
    """All cores of a machine without a GPU.

    The shares were measured with Qwen2.5 0.5B on two cores with bf16 matrix units: 1,450 tokens/s forward,
    235 in full fine-tuning, 175 with LoRA, and 0.4 s a decoding step of 32 rows.
    """
    return Machine(
        name=HERE,
        flops=flops,
        flops_float32=flops_float32,
        bytes_per_second=bytes_per_second,
        memory_gb=memory_gb,
        forward_share=0.65,
        training_share=0.3,
        adapter_share=0.16,
        bytes_share=1.0,
        decoding_share=0.2,
        runtime_gb=0.6,  # torch and transformers
    )


def _product_rate(device: str, dtype) -> float:
    """FLOPs a second, the best of some products: what is slower was disturbed."""
    import torch

    side = 4_096 if device == "cuda" else 1_024
    left = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _best_seconds(lambda: left @ left, device)


def _copy_rate(device: str) -> float:
    """Bytes a second that are read or written."""
    import torch

    source = torch.ones(32 << 20, device=device)  # float32
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(work, device: str, *, within_seconds: float = 0.5) -> float:
    import torch

    best, ends = float("inf"), time.monotonic() + within_seconds
    while time.monotonic() < ends:
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best
