"""Files, locks and facts about the machine.

Offers: whole-or-absent writes and digests (disk), leases, what was computed before (cached_tables,
measurements), the user's cache, text that may be shown (text_safety), versions and memory (environment).
May import: nothing of kdutils.
"""
