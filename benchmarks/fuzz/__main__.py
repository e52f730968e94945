"""Damaged and hostile inputs through prepare, image roots, the loader, image decoding, teacher caches and checkpoints.

    python -m benchmarks.fuzz                                # all of them, minutes on two cores
    python -m benchmarks.fuzz --quick                        # about 200 of them
    python -m benchmarks.fuzz --only image/png/flip/1        # one, here, with its traceback

Every input must be read, or rejected with a reason. A case that ends in another exception than UserError, in a signal
or an endless loop, that takes more than 1 GiB, opens a file outside the image root, or whose reason is empty or the
input over again, is a failure. What prepare accepts must also go through the loader. Linux: memory and devices are
looked at through /proc and /dev.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.fuzz.cases import FAILURES, OUTCOMES, Result, run_case
from benchmarks.fuzz.parts import PARTS, RUNS, keys
from benchmarks.fuzz.watch import SECONDS, Watched
from embervlm.console import console

QUICK_SHARE = 0.07
COMMON = 12
SHOWN = 8
"""Failures that are printed in full."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KEY", help="one case, as a table or a failure names it")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args(argv)
    if options.only:
        return only(options.only, options.seed)
    began = time.perf_counter()
    results = run(keys(QUICK_SHARE if options.quick else 1.0, tuple(options.parts)), options.seed)
    show(results)
    found = summary(results) | {"quick": options.quick, "seed": options.seed}
    found["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(found))
    return 0 if found["passed"] else 1


def run(chosen: Sequence[str], seed: int) -> list[Result]:
    """Results in the order of the keys."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results: dict[str, Result] = {}
    failures = 0
    with Watched(len(os.sched_getaffinity(0)), seed) as watched, Progress(*columns, console=console) as progress:
        bar = progress.add_task("inputs", total=len(chosen))
        for result in watched.results(chosen):
            results[result.key] = result
            failures += result.outcome in FAILURES
            progress.update(bar, advance=1, description=f"inputs, {failures} failures" if failures else "inputs")
    return [results[key] for key in chosen]


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The JSON line."""
    parts = {part: Counter(r.outcome for r in results if r.part == part) for part in PARTS}
    counts = Counter(r.outcome for r in results)
    return {
        "benchmark": "fuzz",
        "inputs": len(results),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "parts": {part: {outcome: found[outcome] for outcome in OUTCOMES} for part, found in parts.items() if found},
        "most_mib": round(max((r.peak for r in results), default=0) / 2**20),
        "slowest_s": round(max((r.seconds for r in results), default=0.0), 1),
        "failed": [r.key for r in results if r.outcome in FAILURES][:100],
        "passed": bool(results) and not any(counts[outcome] for outcome in FAILURES),
    }


def show(results: Sequence[Result]) -> None:
    """The table by part, the most common reasons, and what failed."""
    table = Table("part", "inputs", *OUTCOMES, "MiB", "s", title="Fuzz (MiB and s: the most)", title_justify="left")
    for part in (*PARTS, "all"):
        mine = [r for r in results if part in (r.part, "all")]
        if mine:
            counts = Counter(r.outcome for r in mine)
            cells = (
                f"{counts[o]:,}" if o not in FAILURES or not counts[o] else f"[red]{counts[o]:,}[/]" for o in OUTCOMES
            )
            most, slowest = max(r.peak for r in mine), max(r.seconds for r in mine)
            table.add_row(part, f"{len(mine):,}", *cells, f"{most / 2**20:,.0f}", f"{slowest:.1f}")
    console.print(table)
    reasons = Counter((r.part, reason) for r in results for reason in dict.fromkeys(r.reasons))
    if reasons:
        table = Table("inputs", "part", "reason", title="The most common reasons", title_justify="left")
        for (part, reason), count in reasons.most_common(COMMON):
            table.add_row(f"{count:,}", part, escape(reason))
        console.print(table)
    failed = [r for r in results if r.outcome in FAILURES]
    for result in failed[:SHOWN]:
        console.print(f"[red]{result.outcome}[/] {result.key}\n{escape(result.detail[-2500:])}")
    for result in failed[SHOWN:]:
        console.print(f"[red]{result.outcome}[/] {result.key}: {escape(result.detail.strip()[-200:].splitlines()[-1])}")
    if failed:
        console.print("Look at one with --only KEY, under the same --seed.")


def only(key: str, seed: int) -> int:
    """One case in this process, so that a debugger and a traceback see it; its files are kept."""
    group, _, number = key.rpartition("/")
    if group not in RUNS or not number.isdigit():
        raise SystemExit(f"there is no case {key!r}; the groups are {', '.join(RUNS)}")
    import benchmarks.fuzz.warm  # noqa: F401  # as in the workers

    console.quiet = False
    folder = Path(tempfile.mkdtemp(prefix="fuzz-only-"))
    console.print(f"{key} in {folder}")
    faulthandler.enable()
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
    result = run_case(RUNS[group], key, seed, folder, raises=True)
    faulthandler.cancel_dump_traceback_later()
    console.print(f"{result.outcome}: {escape('; '.join(result.reasons) or 'all of it')}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
