"""The embedded default: a generated task world and ten tiny pretrained models.

A model world. It shows that the machinery works and what the analyses look like; it is no evidence about
Qwen2.5 or Llama-3.
"""
