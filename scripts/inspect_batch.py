"""The guide's name for `embervlm inspect`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
