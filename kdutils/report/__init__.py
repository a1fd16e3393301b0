"""Notebooks as reports: parameters, execution, pages, figures, the command line.

Offers: what a notebook calls (notebook_api, section and show_*), what draws (plots, *figures), what
trains from within (live) and what executes notebooks (runner, cli).
May import: every room but bench.
"""
