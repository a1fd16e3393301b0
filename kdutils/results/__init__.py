"""Tables of what happened, released and live: gains, agreement, fidelity, item by item.

Offers: the authors' tables, gains and their tests, agreement and fidelity, paired items, the paradox,
students that have not learned the response format, other decodings (beside the table of Hot or Cold).
May import: io, data, mini, the training module, grid and inference.
"""
