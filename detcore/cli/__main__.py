"""`python -m detcore.cli`: the command where no script of it is installed."""

import sys

from detcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
