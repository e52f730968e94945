"""The guide's name for `embervlm download-teacher`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["download-teacher", *sys.argv[1:]]))
