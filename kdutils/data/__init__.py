"""Where items and models come from.

Offers: items of a run (sources), where models are read from (model_files) and what their files say
(model_facts), tokenizers, networks, their attention on a CPU and the check of their logits (logit_checks),
real questions (benchmark, llm_adapters), scores of texts (evaluate), overlap of test and training questions
(contamination), chat templates (chat_templates).
May import: io, mini and the training module.
"""
