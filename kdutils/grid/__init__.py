"""Many runs: which a study needs, what they cost, who makes them.

Offers: profiles, plan, the cell table, fill (makes what is missing, by a local pool, Ray or shards), dry run.
May import: io, data, mini, devices and the training module.
"""
