"""`python -m kdutils`: see kdutils.report.cli."""

import sys

from kdutils.report import start

if __name__ == "__main__":
    sys.exit(start.main())
