"""Terms added to the loss that keep a student near its start, or near what it was built from.

Offers: the terms of `constants.PENALTIES` (terms), which may need boxes of activations (intervals).
May import: io, data and the training module.
"""
