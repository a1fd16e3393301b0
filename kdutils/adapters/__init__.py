"""How a student is adapted to its task: all its weights, a low-rank adapter, single entries, a side network.

Offers: the adapters of `constants.ADAPTERS`, how large they are, how they are read and merged (trainable),
training of single entries (masked), SPT (sensitivity), ShadowPEFT (side_network), what it came to (facts).
May import: io, data, builds and the training module.
"""
