"""python -m starsessions: the command line."""

import sys

from starsessions.cli import main

if __name__ == "__main__":
    sys.exit(main())
