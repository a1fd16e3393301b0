"""Notebooks as reports: parameters, execution, pages, figures, the command line.

Offers: what a notebook calls (notebook_api, plots, figures, live) and what executes notebooks (runner, cli).
May import: every room but bench.
"""
