"""The guide's name for `embervlm infer`."""

import sys

from embervlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
