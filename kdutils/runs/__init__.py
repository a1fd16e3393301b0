"""One run, from a spec to stored, scored answers.

Offers: `run` (experiment), the store of runs (store), what a run reads, and all that can be wrong with it
(inputs), what is kept of its teacher (teacher_outputs), a student's answers (answers, ranking), how they
compare (comparison), and what others read: its model card, trackers, other programs' formats (exports).
May import: io, data, builds, adapters, penalties, the training module; devices, at several_devices and
experiment.
"""
