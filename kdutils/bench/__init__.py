"""Speed and memory beside other programs, and how near they come to what the machine allows.

Offers: one training step (kd_steps), its measurements (performance), roofline, evaluation, whole grids.
May import: every room.
"""
