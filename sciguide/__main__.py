"""`python -m sciguide` is the command `sciguide`."""

import sys

from sciguide.cli import main

if __name__ == "__main__":
    sys.exit(main())
