"""Does distillation pay? The same student, data order and steps, taught in several ways, with few or wrong labels.

python -m benchmarks.learning --quick                    # minutes: one regime, two arms, a small world
python -m benchmarks.learning                            # hours; goes on where it was stopped
python -m benchmarks.learning --arms sft soft --regimes one wrong40 --seeds 0 1 2 --html page.html
python -m benchmarks.learning --results benchmarks/learning/results --report_only    # what was measured here
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.learning.arms import ARMS
from benchmarks.learning.cells import Results
from benchmarks.learning.page import Figures, console_table, markdown, write_page
from benchmarks.learning.plan import RATES, Grid
from benchmarks.learning.plot import write_png
from benchmarks.learning.references import read_references, write_references
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.runner import run_cells
from benchmarks.learning.world import FULL, QUICK, World
from embervlm.console import console
from embervlm.errors import UserError

QUICK_ARMS, QUICK_REGIMES, QUICK_SEEDS, QUICK_RATES = ("sft", "soft", "answers"), ("one",), (0,), (2e-3,)


def main() -> int:
    options = read_options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its cells end with it, as after Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scale = QUICK if options.quick else FULL
    scale = replace(scale, steps=options.steps or scale.steps, unfreeze_vision=options.unfreeze_vision)
    grid = Grid(scale, options.regimes, options.arms, options.seeds, options.rates)
    world = World(options.out / ("quick" if options.quick else "full"), scale)
    results = Results(options.results or options.out / "cells")
    try:
        if not options.report_only:
            run_cells(grid.search(), world, results, options.jobs)
            run_cells(grid.cells(results), world, results, options.jobs)
            write_references(world, results)
        references, pictures = read_references(scale, results)
        figures = Figures.read(grid, results, references, pictures)
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What is finished is kept; repeat the command to go on.", file=sys.stderr)
        return 130
    cells = {cell.key: cell for cell in grid.cells(results)}  # regimes with the same data share cells
    missing = sum(results.get(cell) is None for cell in cells.values())
    for regime in figures.cells:
        console.print(console_table(figures, regime))
        if options.markdown:
            print(markdown(figures, regime))
    console.print(", ".join(f"{name} {value:.1f}" for name, value in references.items()), highlight=False)
    if options.html:
        write_page(figures, grid, (len(cells) - missing, len(cells)), options.html)
        console.print(f"wrote {options.html}")
    if options.png:
        write_png(figures, options.png)
        console.print(f"wrote {options.png}")
    print(
        json.dumps({"benchmark": "learning", "quick": options.quick, "missing": missing, **rounded(figures.to_json())})
    )
    return 0


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a small world, few steps, one regime, three arms, one seed"
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), metavar="REGIME", help=", ".join(REGIMES))
    parser.add_argument("--seeds", nargs="+", type=int, help="of the training; default 0 1 2")
    parser.add_argument("--steps", type=int, help=f"of each training; default {FULL.steps}, --quick {QUICK.steps}")
    parser.add_argument(
        "--unfreeze_vision", type=int, default=FULL.unfreeze_vision, help="last blocks to train, -1: all; default 0"
    )
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates to search; one: nothing is searched")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once, a core each")
    parser.add_argument("--out", type=Path, default=Path("outputs/learning"), help="the world, data and caches")
    parser.add_argument("--results", type=Path, help="finished cells; default OUT/cells")
    parser.add_argument("--report_only", action="store_true", help="run nothing, report what is there")
    parser.add_argument("--html", type=Path, help="write a page with curves and tables")
    parser.add_argument("--png", type=Path, help="write the curves as a picture")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown, too")
    options = parser.parse_args(words)
    quick = options.quick
    options.arms = options.arms or (QUICK_ARMS if quick else tuple(ARMS))
    options.regimes = options.regimes or (QUICK_REGIMES if quick else tuple(REGIMES))
    options.seeds = options.seeds or (QUICK_SEEDS if quick else (0, 1, 2))
    options.rates = options.rates or (QUICK_RATES if quick else RATES)
    return options


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
