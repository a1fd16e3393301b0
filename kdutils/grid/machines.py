"""What computes: how fast, with how much memory, and how much of that is used in practice."""

from dataclasses import dataclass

from kdutils.compute import LARGE_PARAMETERS, Compute
from kdutils.grid.model_shapes import Architecture


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A GPU or the processors of a machine.

    The shares and the time of a launch are assumptions for code as ours: eager PyTorch, short sequences.
    """

    name: str
    flops: float  # a second, dense matrix products in bf16 with sums in float32
    bytes_per_second: float  # of its memory
    memory_gb: float  # 10^9 bytes
    flops_float32: float | None = None  # of a CPU, where small models compute in float32; None: a GPU
    forward_share: float = 0.5  # of `flops`, in forward passes over many tokens
    full_share: float = 0.4  # of `flops`, in forward and backward passes
    lora_share: float = 0.35  # of `flops`, in those of LoRA, whose products are small and many
    bytes_share: float = 0.7  # of `bytes_per_second`, in passes over few tokens
    runtime_gb: float = 1.5  # of CUDA's own, and of what its allocator leaves unused
    layer_seconds: float = 1e-3  # to launch a layer's kernels in one forward pass, whatever its size

    def number_bytes(self, shape: Architecture) -> int:
        """Bytes of a weight and an activation of a model (models.policy_for)."""
        is_large = shape.parameters >= LARGE_PARAMETERS
        if self.flops_float32 is None or is_large and Compute.from_environment().uses_bfloat16("cpu"):
            return 2
        return 4


HERE = "this machine"
DEFAULT = "A100-80GB"
# Dense TFLOP/s without sparsity, TB/s and GB from the vendor's data sheets.
GPUS = {
    name: Machine(name=name, flops=tera * 1e12, bytes_per_second=bandwidth * 1e12, memory_gb=gb)
    for name, tera, bandwidth, gb in (
        ("A100-40GB", 312, 1.555, 40),
        ("A100-80GB", 312, 2.039, 80),
        ("H100-80GB", 989, 3.35, 80),
        ("H200-141GB", 989, 4.8, 141),
        ("L40S-48GB", 362, 0.864, 48),
        ("RTX-4090-24GB", 165, 1.008, 24),
        ("L4-24GB", 121, 0.3, 24),
    )
}
# Measured with Qwen2.5 0.5B on two cores with bf16 matrix units: 1,450 tokens/s forward, 235 in
# full fine-tuning, 175 with LoRA, 0.4 s a decoding step of 32 rows. The memory is that of torch and others.
PROCESSORS = {
    **{"forward_share": 0.65, "full_share": 0.3, "lora_share": 0.16},
    **{"bytes_share": 0.2, "runtime_gb": 0.6},
}


def machine_of(name: str) -> Machine:
    """A GPU by its name, or `this machine`, measured now.

    Raises:
        ValueError: for another name.
    """
    if name == HERE:
        return this_machine()
    if name not in GPUS:
        raise ValueError(f"unknown GPU {name!r}; choose one of {[*GPUS, HERE]}")
    return GPUS[name]


def this_machine() -> Machine:
    """The machine at hand, measured in about two seconds: square matrix products, a copy of 128 MB."""
    import psutil
    import torch
    from torch.utils.benchmark import Timer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 4_096 if device == "cuda" else 1_024

    def best_seconds(work) -> float:  # what is slower was disturbed
        timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
        return min(timer.blocked_autorange(min_run_time=0.5).times)

    def product_rate(dtype) -> float:
        left = torch.ones(side, side, device=device, dtype=dtype)
        return 2 * side**3 / best_seconds(lambda: left @ left)

    source = torch.ones(32 << 20, device=device)  # float32
    target = torch.empty_like(source)
    copied = 2 * 4 * source.numel() / best_seconds(lambda: target.copy_(source))
    exact = product_rate(torch.float32)
    # Where bfloat16 is emulated one product may take minutes, and nothing computes in it.
    flops = product_rate(torch.bfloat16) if Compute.from_environment().uses_bfloat16(device) else exact
    measured = {"name": HERE, "flops": flops, "bytes_per_second": copied}
    if device == "cuda":
        return Machine(**measured, memory_gb=torch.cuda.get_device_properties(0).total_memory / 1e9)
    memory_gb = psutil.virtual_memory().total / 1e9
    return Machine(**measured, memory_gb=memory_gb, flops_float32=exact, **PROCESSORS)
