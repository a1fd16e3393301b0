"""One run on several devices, by FSDP2.

Offers: the processes of a run (launch), what each of them does (worker), a student in parts (fsdp).
May import: io, data and the training module.
"""
