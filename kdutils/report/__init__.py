"""Notebooks as reports: parameters, execution, pages, figures, the command line.

Offers: what a notebook calls (notebook_api, section and show_*), what draws (plots, *figures), what
trains from within (live), what executes notebooks (runner, cli) and what checks stated numbers (codecheck).
May import: every room but bench.
"""
