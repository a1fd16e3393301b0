"""An executable study of knowledge distillation of language models (arXiv 2505.15442).

Importing `kdutils` imports nothing else: each name below is imported when it is first asked for, and what the
released results need never imports torch.
"""

from typing import Any

__version__ = "0.1.0"

PUBLIC = {  # name -> the module that defines it; no module may have such a name, since it would hide it
    "RunSpec": "spec",
    "EvalSpec": "spec",
    "run": "runs.experiment",
    "train": "training",
    "divergence": "losses",
    "cross_entropy": "losses",
    "generate": "generation",
}
__all__ = [*PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'kdutils' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"kdutils.{PUBLIC[name]}"), name)
