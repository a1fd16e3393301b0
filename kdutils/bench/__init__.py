"""Speed and memory compared with other programs, and with what the machine allows.

Offers: performance and speed_figures for notebook 09, roofline, lm_eval_check, mini_ladder, decoding_state.
May import: every room.
"""
