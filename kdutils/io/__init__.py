"""Files, locks, child processes and facts about the machine.

Offers: atomic writes, digests and the user's cache (disk), leases, child_processes, results kept for
reuse (cached_tables, measurements, code_digest), text_safety, versions and memory (environment).
May import: nothing of kdutils.
"""
