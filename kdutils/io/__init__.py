"""Files, locks, child processes and facts about the machine.

Offers: atomic writes, digests and the user's cache (disk), leases, child_processes, results that are computed
once (cache), records, text_safety, versions (environment), memory.
May import: nothing of kdutils.
"""
