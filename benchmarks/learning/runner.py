"""Runs cells side by side, each in a process with one thread, and says how far it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.live import Live
from rich.table import Table

from benchmarks.learning.cells import Cell, Results, arm_of, regime_of
from benchmarks.learning.regimes import make_cache, make_data
from benchmarks.learning.stage1 import align
from benchmarks.learning.world import World
from embervlm.console import console
from embervlm.errors import UserError
from embervlm.train.checkpoint import write_json


@dataclass
class Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float = field(default_factory=time.monotonic)


def prepare(cells: Sequence[Cell], world: World) -> None:
    """The world, and each data set and cache that these cells read."""
    world.make()
    for cell in cells:
        arm, regime = arm_of(cell), regime_of(cell)
        (make_cache if arm.cached else make_data)(world, regime, arm.reads)
        align(world, arm.student, arm.alignment)


def run_cells(cells: Sequence[Cell], world: World, results: Results, jobs: int) -> None:
    """Those that are not finished yet, `jobs` at once, in their order. Ctrl-C ends them; what is finished stays.

    Raises:
        UserError: a cell failed; its log is named, the others that were running are ended.
    """
    left = [cell for cell in cells if results.get(cell) is None]
    if not left:
        return
    prepare(left, world)
    state = Progress(cells, left, jobs)
    running: list[Running] = []
    try:
        with Live(state.table(), console=console, refresh_per_second=1, transient=True) as live:
            while left or running:
                while left and len(running) < jobs:
                    running.append(start(left.pop(0), world, results))
                time.sleep(0.3)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    job.log.close()
                    if job.process.returncode:
                        raise UserError(
                            f"Cell {job.cell.key} failed; see {log_of(job.cell, world)}. The others are kept: repeat "
                            "the command to go on."
                        )
                    state.finished(job, results)
                live.update(state.table([job.cell for job in running]))
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            job.log.close()


def start(cell: Cell, world: World, results: Results) -> Running:
    """The worker's process; what it prints goes to a log."""
    file = world.folder / "runs" / f"{cell.key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, cell.to_json())
    log = log_of(cell, world).open("ab")  # another grid may be at this cell
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command(file, world, results),
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **threads},
    )
    return Running(cell, process, log)


def command(file: Path, world: World, results: Results) -> list[str]:
    return [sys.executable, "-m", "benchmarks.learning.worker", str(world.folder), str(results.folder), str(file)]


def log_of(cell: Cell, world: World) -> Path:
    return world.folder / "runs" / f"{cell.key}.log"


class Progress:
    """A table of regimes and arms, how much is done, and when the rest will be."""

    def __init__(self, cells: Sequence[Cell], left: Sequence[Cell], jobs: int) -> None:
        self.cells, self.jobs = list(cells), jobs
        self.left = {cell.key for cell in left}
        self.seconds: list[float] = []

    def finished(self, job: Running, results: Results) -> None:
        self.left.discard(job.cell.key)
        self.seconds.append(time.monotonic() - job.began)
        measured = results.get(job.cell)
        assert measured is not None
        accuracy = 100 * measured["report"]["accuracy"]
        console.print(
            f"{job.cell.regime} {job.cell.arm} seed {job.cell.seed} at {job.cell.rate:g}: {accuracy:.1f} "
            f"(step {measured['best_step']}, {self.seconds[-1]:.0f} s)  {self.eta()}",
            highlight=False,
        )

    def eta(self) -> str:
        if not self.seconds:
            return f"{len(self.left)} cells left"
        rest = len(self.left) * sum(self.seconds) / len(self.seconds) / self.jobs
        return f"{len(self.left)} cells left, about {rest / 60:.0f} min"

    def table(self, now: Sequence[Cell] = ()) -> Table:
        table = Table("", "cells", "now", title=self.eta(), title_justify="left")
        done = Counter(cell.regime for cell in self.cells if cell.key not in self.left)
        for regime, every in Counter(cell.regime for cell in self.cells).items():
            busy = (f"{cell.arm} {cell.seed}" for cell in now if cell.regime == regime)
            table.add_row(regime, f"{done[regime]}/{every}", ", ".join(busy))
        return table
