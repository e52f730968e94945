"""The guide's name for `embervlm train`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
