"""Tests, intervals and corrections, and how often they err.

Offers: resampling, tests over students, size effects, crossed bootstrap, and simulated studies (calibration).
May import: io, constants and the cell table; the simulations also the rules of results that they judge.
"""
