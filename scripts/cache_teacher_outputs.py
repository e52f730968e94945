"""The guide's name for `embervlm cache build`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["cache", "build", *sys.argv[1:]]))
