"""The default data and models: a generated world of tasks and nine tiny pretrained models.

They show that the code works and what the analyses look like; they are no evidence about real models.
Offers: items (build_data), family (MINI_MODELS), tokenizer, pretrain (makes the models again).
May import: io, and the training module.
"""
