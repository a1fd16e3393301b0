"""`python -m kdutils`: see kdutils.report.cli."""

import sys

# A hack: jsonschema, which nbformat imports, compiles a grammar of web addresses at every start, in 1.6 s,
# if it finds rfc3987_syntax, and does without if not. To go when that package compiles at its first use.
sys.modules["rfc3987_syntax"] = None

if __name__ == "__main__":
    from kdutils.report import cli

    sys.exit(cli.main())
