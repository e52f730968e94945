"""The guide's name for `embervlm verify`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
