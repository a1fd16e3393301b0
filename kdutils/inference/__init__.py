"""Tests, intervals and corrections, and how often they err.

Offers: resampling, tests over students, size effects, crossed bootstrap, and simulated studies (calibration).
May import: io, grid (the cell table) and the training module.
"""
