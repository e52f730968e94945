"""`make bench`: runs every benchmark; words after it, such as --quick, go to each of them."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "world",
    "learning",
    "cache_fidelity",
    "imported_tail",
    "alignment",
    "loss",
    "training",
    "teachers",
    "data",
    "gaming",
    "fuzz",
)

if __name__ == "__main__":
    codes = [subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]) for name in BENCHMARKS]
    sys.exit(max(codes))
