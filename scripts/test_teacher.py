"""The guide's name for `embervlm test-teacher`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["test-teacher", *sys.argv[1:]]))
