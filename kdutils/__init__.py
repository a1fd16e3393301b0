"""An executable study of knowledge distillation of language models (arXiv 2505.15442).

Importing `kdutils` does nothing: each module is imported where it is used, and what the
released results need never imports torch.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`kdutils.run`, `kdutils.RunSpec` and `kdutils.EvalSpec`, imported when first asked for."""
    if name == "run":
        from kdutils.experiment import run

        return run
    if name in ("RunSpec", "EvalSpec"):
        from kdutils import spec

        return getattr(spec, name)
    raise AttributeError(f"module 'kdutils' has no attribute {name!r}")
