"""One run, from a spec to stored, scored answers.

Offers: `run` and the store of runs (experiment, store), what a run reads and what can be wrong with it (inputs), what
is kept of its teacher (teacher_outputs), a student's answers beside its teacher's (comparison).
May import: io, data, the training module, and devices for runs on several.
"""
