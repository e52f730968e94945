"""The guide's name for `embervlm evaluate`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
