"""``python -m lib.bench``: the same as ``python -m lib bench``."""

import sys

from lib.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
