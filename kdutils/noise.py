"""Keyed random numbers, and Gaussian noise on a teacher's logits keyed by (seed, item, position).

Counter-based: a draw is a function of its key and its column, without state, so batching, chunking, padding
and the number of threads cannot change it.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood 2014), its constants in two's complement.
GAMMA, MIX_1, MIX_2 = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, eq=False)
class LogitNoise:
    """sigma * N(0, 1) on the teacher's logits (N, V) of `losses.divergence`, added before the temperature."""

    keys: Tensor  # (N,) int64 from `noise_keys`, one a row
    sigma: float  # standard deviation, in logits; 0 is legal and draws nothing

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"noise sigma={self.sigma} must be at least 0 and finite: 0 means no noise")

    def __len__(self) -> int:
        return len(self.keys)

    def added_to(self, logits_RV: Tensor, rows: slice) -> Tensor:
        """The logits of these rows with their noise added, in place."""
        if self.sigma == 0:
            return logits_RV
        noise_RV = gaussian_noise(self.keys[rows].to(logits_RV.device), logits_RV.shape[1])
        return logits_RV.add_(noise_RV, alpha=self.sigma)


def key_of(seed: int, *parts: object) -> int:
    """A seed for one use, named by `parts`: the same on every machine."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


def generator(seed: int, *parts: object) -> torch.Generator:
    """A generator for one use, named by `parts`, see `key_of`."""
    return torch.Generator().manual_seed(key_of(seed, *parts))


def noise_keys(seed: int, item_ids_N: Sequence[str], positions_N: Sequence[int]) -> Tensor:
    """One 64-bit key (N,) for each (seed, item, position), the same in every process and on every machine.

    Args:
        item_ids_N: the item of row n; for a sampled continuation, item and sample.
        positions_N: the position of row n in its item, counted in tokens without padding.
    """
    rows = [f"{seed}/{position}/{item}" for item, position in zip(item_ids_N, positions_N, strict=True)]
    digests = (hashlib.blake2b(row.encode(), digest_size=8).digest() for row in rows)
    return torch.tensor(
        [int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64
    )


def random_bits(keys_R: Tensor, n_columns: int) -> Tensor:
    """64 random bits (R, n_columns), int64: SplitMix64's output number `column` from state `key`."""
    bits = keys_R[:, None] + torch.arange(1, n_columns + 1, device=keys_R.device).mul_(GAMMA)
    return _xor_shift(_xor_shift(_xor_shift(bits, 30).mul_(MIX_1), 27).mul_(MIX_2), 31)


def gaussian_noise(keys_R: Tensor, n_columns: int) -> Tensor:
    """Standard normal draws (R, n_columns), float32; a column's draw does not depend on `n_columns`.

    By Box and Muller, two normals of at most 6.6 from 64 bits. Bits are the same on every device, normals up
    to the rounding of log, sin and cos.
    """
    n_pairs = (n_columns + 1) // 2
    halves_RP2 = random_bits(keys_R, n_pairs).view(torch.int32).view(len(keys_R), n_pairs, 2)
    radius = (halves_RP2[..., 0] & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).log_().mul_(-2.0).sqrt_()
    angle = halves_RP2[..., 1].float().mul_(math.pi * 2.0**-31)
    noise_RP2 = torch.empty(halves_RP2.shape, device=keys_R.device)
    torch.mul(radius, torch.cos(angle), out=noise_RP2[..., 0])
    torch.mul(radius, angle.sin_(), out=noise_RP2[..., 1])
    return noise_RP2.view(len(keys_R), 2 * n_pairs)[:, :n_columns]


def _xor_shift(bits: Tensor, n: int) -> Tensor:
    """bits ^= bits >>> n, in place; the mask because the right shift of int64 is arithmetic."""
    return bits.bitwise_xor_((bits >> n).bitwise_and_((1 << (64 - n)) - 1))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's global generators are seeded, for libraries that use them; then as before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed is slow without a GPU
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
