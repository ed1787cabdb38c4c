"""`python -m omnitck`."""

import sys

from omnitck.cli import main

if __name__ == "__main__":
    sys.exit(main())
