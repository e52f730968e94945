"""The guide's name for `embervlm cache`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["cache", *sys.argv[1:]]))
