"""Files, locks and facts about the machine.

Offers: whole-or-absent writes and digests (disk), leases, results that are computed once (cache), the user's
cache, text that may be shown (text_safety), versions and memory (environment).
May import: nothing of kdutils.
"""
