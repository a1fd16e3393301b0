"""How `python -m kdutils` begins: what takes long to import is imported meanwhile in another process."""

import contextlib
import os
import sys

# A hack: jsonschema, which nbformat imports, compiles a grammar of web addresses at every start, in 1.6 s,
# if it finds rfc3987_syntax, and does without if not. To go when that package compiles at its first use.
sys.modules["rfc3987_syntax"] = None

WITHOUT_NOTEBOOKS = ("-h", "--help", "--list", "--dry-run", "--shard")


def main() -> int:
    """The exit code of kdutils.report.cli.main."""
    from kdutils.grid.local_pool import NOTEBOOKS
    from kdutils.io import child_processes

    if not any(word.startswith(WITHOUT_NOTEBOOKS) for word in sys.argv):
        with contextlib.suppress(OSError):  # the executor tries again, and reports it
            child_processes.forking(NOTEBOOKS, os.environ)
    from kdutils.report import cli

    return cli.main()
