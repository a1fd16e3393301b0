"""What the paper says, the rules, the verdicts.

Offers: every claim with its statement and verdicts (claims), the rules, their sensitivity, the answer sheet;
this study's own declared contrasts (contrasts).
May import: io, constants, grid, inference and results.
"""
