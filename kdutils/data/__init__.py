"""Where items and models come from.

Offers: items of a run (sources), where models are read from (model_files) and what their files say
(model_facts), real questions (benchmark, llm_adapters), the check of a hub, overlap of test and training
questions (contamination), chat templates (chat_templates).
May import: io, mini, and of the training module spec, items, constants and answers.
"""
