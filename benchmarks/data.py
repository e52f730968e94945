"""The data path at size.

    python -m benchmarks.data            # official files of full size, 3 GB below --folder, minutes
    python -m benchmarks.data --quick    # a twentieth of them

prepare: `embervlm prepare` on generated official files (benchmarks/full_size.py) of VQA-v2 (443,757 questions, 4.4M
answers), LLaVA-Instruct (157,712 rows) and OK-VQA (9,009), every picture looked for, with the guide's subset of VQA-v2.
Rows a second are those read and checked. Memory is the most that the command and its processes held together, pages
that they share counted once (PSS, sampled). check_images: the same with every picture decoded, on a hundredth.
packing, features: `python -m benchmarks.packing` and `benchmarks.features`, of which each also runs by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import features, packing
from benchmarks.full_size import prepare_words, write_full_size
from embervlm.console import console

SECONDS, GIB = 120, 2.0
"""What 300,000 records may take on two cores."""
QUICK_SHARE = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="where the files go; kept, and used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found: dict[str, Any] = {"benchmark": "data", "quick": options.quick}
        for name in options.parts:
            found[name] = PARTS[name](folder, options.quick)
    found["passed"] = all(found[name]["passed"] for name in options.parts)
    print(json.dumps(found))
    return 0 if found["passed"] else 1


def prepare(folder: Path, quick: bool) -> dict[str, Any]:
    """Rows a second, seconds and memory of `embervlm prepare`."""
    share = QUICK_SHARE if quick else 1.0
    files = _files(folder / f"share{share:g}", share)
    run = measured_prepare(files, folder / "prepared", f"--vqa_samples={round(100_000 * share)}")
    run["passed"] = run["peak_gib"] <= GIB and run["seconds"] <= (SECONDS if not quick else SECONDS * share + 20)
    show("prepare", run)
    return run


def check_images(folder: Path, quick: bool) -> dict[str, Any]:
    """Pictures a second of --check_images, and what a second run costs that finds them all in the journal."""
    files = _files(folder / "share0.01", 0.01)
    journal, pictures = folder / "checked" / "checked_images.jsonl", []
    journal.unlink(missing_ok=True)
    runs = []
    for _ in range(2):
        runs.append(measured_prepare(files, folder / "checked", "--check_images"))
        pictures.append(len(journal.read_text(encoding="utf-8").splitlines()))
    first, again = runs
    run = {
        "pictures": pictures[0],
        "pictures_per_second": round(pictures[0] / first["seconds"], 1),
        "decoded_again": pictures[1] - pictures[0],
        "seconds": first["seconds"],
        "seconds_again": again["seconds"],
        "peak_gib": first["peak_gib"],
        "passed": pictures[1] == pictures[0],
    }
    show("check_images", run)
    return run


def packed(folder: Path, quick: bool) -> dict[str, Any]:
    """Filling of rows, and how much faster packed steps are: benchmarks/packing.py."""
    return packing.measure(quick)


def frozen(folder: Path, quick: bool) -> dict[str, Any]:
    """Frozen features on top of it, and the share of waiting for data: benchmarks/features.py."""
    return features.measure_all(quick)


PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "prepare": prepare,
    "check_images": check_images,
    "packing": packed,
    "features": frozen,
}
"""Each measures one thing in `folder`, prints it, and returns what goes into the JSON line, "passed" among it."""


def _files(folder: Path, share: float) -> Path:
    if not (folder / "done").exists():
        console.print(f"writing {share:.0%} of the official files into {folder}")
        write_full_size(folder, share, pictures="links")
        (folder / "done").touch()
    return folder


def measured_prepare(files: Path, out: Path, *words: str) -> dict[str, Any]:
    """One run of the command as a person types it."""
    command = [sys.executable, "-m", "embervlm.cli", "prepare", f"--out={out}", *prepare_words(files), *words]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    said, _ = process.communicate()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = memory.stop()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said}")
    report = json.loads((out / "stage2" / "data_report.json").read_text(encoding="utf-8"))
    rows = sum(read["rows"] for read in report["read"]["train"].values())
    return {
        "rows": rows,
        "records": sum(split["records"] for split in report["totals"].values()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "rows_per_second": round(rows / seconds),
        "peak_gib": round(peak / 2**30, 2),
        "cores": len(os.sched_getaffinity(0)),
    }


class PeakMemory:
    """The most that a process and its children hold together, in bytes, looked at ten times a second (Linux)."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._peak = max(self._peak, sum(map(_proportional, [self._pid, *_children(self._pid)])))


def _children(pid: int) -> list[int]:
    try:
        direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [child for found in map(int, direct) for child in (found, *_children(found))]


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def show(title: str, run: dict[str, Any]) -> None:
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in run.items():
        table.add_row(name.replace("_", " "), str(value) if isinstance(value, bool) else f"{value:,}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
