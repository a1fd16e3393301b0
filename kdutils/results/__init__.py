"""Tables of what happened, released and live: gains, agreement, fidelity, item by item.

Offers: the authors' tables, gains and their tests, agreement and fidelity, paired items, the paradox,
students that have not learned the response format.
May import: io, data, mini, the training module, grid and inference.
"""
