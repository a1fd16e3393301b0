"""An executable study of knowledge distillation of language models (arXiv 2505.15442).

Importing `kdutils` does nothing: each module is imported where it is used, and what the
released results need never imports torch.
"""

__version__ = "0.1.0"
