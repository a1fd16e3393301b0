"""`python -m kdutils`: see kdutils.report.cli."""

import contextlib
import os
import sys

# A hack: jsonschema, which nbformat imports, compiles a grammar of web addresses at every start, in 1.6 s,
# if it finds rfc3987_syntax, and does without if not. To go when that package compiles at its first use.
sys.modules["rfc3987_syntax"] = None

if __name__ == "__main__":
    from kdutils.grid.local_pool import NOTEBOOKS
    from kdutils.io.child_processes import forking

    WITHOUT_NOTEBOOKS = ("-h", "--help", "--list", "--dry-run", "--shard")
    if not any(word.startswith(WITHOUT_NOTEBOOKS) for word in sys.argv):
        with contextlib.suppress(OSError):  # the executor tries again, and reports it
            forking(NOTEBOOKS, os.environ)  # it imports while we do: a second or two
    from kdutils.report import cli

    sys.exit(cli.main())
