"""One run, from a spec to stored, scored answers.

Offers: `run` (experiment), the store of runs (store), what a run reads, and all that can be wrong with it
(inputs), what is kept of its teacher (teacher_outputs), accuracies, agreement and fidelity (comparison),
and what others read of a run: its model card, trackers, results in the formats of other programs (exports).
May import: io, data, builds, adapters, penalties, the training module; devices, at several_devices and
experiment.
"""
