"""``python -m genmetrics`` is the command ``genmetrics``."""

import sys

from genmetrics.cli import main

if __name__ == "__main__":
    sys.exit(main())
