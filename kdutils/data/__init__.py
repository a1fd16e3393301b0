"""Where items and models come from.

Offers: models and items by name (sources), real questions (benchmark, llm_adapters), the check of a hub,
GGUF headers, models inside packages, overlap of test and training questions (contamination).
May import: io, mini, and of the training module spec, items, constants and evaluate.
"""
