"""Does distillation pay? The same student, data order and steps, taught in several ways, with few or wrong labels.

python -m benchmarks.learning --quick                    # minutes: one regime, three arms, a small world
python -m benchmarks.learning                            # hours: the study; goes on where it was stopped
python -m benchmarks.learning --parts labels rivals      # two of its questions
python -m benchmarks.learning --results benchmarks/learning/results --report_only    # what was measured here
python -m benchmarks.learning --arms sft soft --regimes one wrong40 --html page.html    # a grid of one's own
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
from benchmarks.learning.cells import Cell, Results
from benchmarks.learning.page import Figures, console_table, markdown, write_page
from benchmarks.learning.plan import RATES, Grid, Part, once
from benchmarks.learning.plot import write_png
from benchmarks.learning.references import read_references, write_references
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.runner import run_cells
from benchmarks.learning.study import STUDY
from benchmarks.learning.world import FULL, QUICK, World
from embervlm.console import console
from embervlm.errors import UserError

QUICK_ARMS, QUICK_REGIMES, QUICK_SEEDS, QUICK_RATES = ("sft", "soft", "answers"), ("one",), (0,), (2e-3,)


def main() -> int:
    options = read_options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its cells end with it, as after Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parts = options.parts
    world = World(options.out / ("quick" if options.quick else "full"), parts[0].scale)
    results = Results(options.results or options.out / "cells")
    try:
        if not options.report_only:
            run_cells(once(cell for part in parts for cell in part.search()), world, results, options.jobs)
            run_cells(cells_of(parts, results), world, results, options.jobs)
            write_references(world, results)
        references, pictures = read_references(world.scale, results)
        found = [(part, Figures.read(part, results, references, pictures)) for part in parts]
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What is finished is kept; repeat the command to go on.", file=sys.stderr)
        return 130
    for part, figures in found:
        console.rule(f"{part.title}, {part.scale.steps} steps")
        for regime in figures.cells:
            console.print(console_table(figures, regime))
            if options.markdown:
                print(markdown(figures, regime))
    console.print(", ".join(f"{name} {value:.1f}" for name, value in references.items()), highlight=False)
    cells = cells_of(parts, results)
    missing = sum(results.get(cell) is None for cell in cells)
    if options.html:
        write_page(found, (len(cells) - missing, len(cells)), options.html)
        console.print(f"wrote {options.html}")
    if options.png:
        write_png(found[0][1], options.png)
        console.print(f"wrote {options.png}")
    told = {
        "benchmark": "learning",
        "quick": options.quick,
        "cells": len(cells),
        "missing": missing,
        "references": references,
        "parts": {part.name: figures.to_json() for part, figures in found},
    }
    print(json.dumps(rounded(told)))
    return 0


def cells_of(parts: Sequence[Part], results: Results) -> list[Cell]:
    """Those of all parts, each once."""
    return once(cell for part in parts for cell in part.cells(results))


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """`parts` is what to run and report: the study, some of it, or one grid of one's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a small world, few steps, one regime, three arms, one seed"
    )
    names = [part.name for part in STUDY]
    parser.add_argument("--parts", nargs="+", choices=names, metavar="PART", help=f"of the study: {', '.join(names)}")
    own = [
        parser.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help=", ".join(ARMS)),
        parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), metavar="REGIME", help=", ".join(REGIMES)),
        parser.add_argument("--seeds", nargs="+", type=int, help="of the training; default 0 1 2"),
        parser.add_argument("--steps", type=int, help=f"of each training; default {FULL.steps}, --quick {QUICK.steps}"),
        parser.add_argument("--unfreeze_vision", type=int, help="last blocks to train, -1: all; default 0"),
        parser.add_argument(
            "--rates", nargs="+", type=float, help="learning rates to search; one: nothing is searched"
        ),
    ]
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once, a core each")
    parser.add_argument("--out", type=Path, default=Path("outputs/learning"), help="the world, data and caches")
    parser.add_argument("--results", type=Path, help="finished cells; default OUT/cells")
    parser.add_argument("--report_only", action="store_true", help="run nothing, report what is there")
    parser.add_argument("--html", type=Path, help="write a page with curves and tables")
    parser.add_argument("--png", type=Path, help="write the curves of a part, or of a grid of one's own, as a picture")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown, too")
    options = parser.parse_args(words)
    given = [option.option_strings[0] for option in own if getattr(options, option.dest) is not None]
    if options.parts and (given or options.quick):
        parser.error(f"--parts are of the study as it is; {(given or ['--quick'])[0]} makes a grid of one's own")
    if given or options.quick:
        options.parts = [own_part(options)]
    else:
        options.parts = [part for part in STUDY if not options.parts or part.name in options.parts]
    if options.png and len(options.parts) > 1:
        parser.error("--png draws one grid: name one of --parts, or --arms and --regimes")
    return options


def own_part(options: argparse.Namespace) -> Part:
    quick = options.quick
    scale = QUICK if quick else FULL
    grid = Grid(
        replace(scale, steps=options.steps or scale.steps, unfreeze_vision=options.unfreeze_vision or 0),
        options.regimes or (QUICK_REGIMES if quick else tuple(REGIMES)),
        options.arms or (QUICK_ARMS if quick else tuple(ARMS)),
        options.seeds or (QUICK_SEEDS if quick else (0, 1, 2)),
        options.rates or (QUICK_RATES if quick else RATES),
    )
    return Part("grid", "A grid of one's own", (grid,))


def rounded(value: Any) -> Any:
    """To five digits that count: learning rates are small."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
