"""Students that are made smaller before they are trained: low rank, pruned, with shared parameters.

Offers: `build`, and how what it makes is stored, read and made dense (built), the ways of `constants.BUILDS`
(low_rank, pruned, shared), how two students are connected (connectivity).
May import: io, data and the training module.
"""
