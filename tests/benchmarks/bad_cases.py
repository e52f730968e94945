"""Cases that fail in every way that the watchdog must see."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.fuzz.cases import Place


def hangs(place: Place) -> list[str]:
    time.sleep(600)
    return []


def spins(place: Place) -> list[str]:
    while True:
        pass


def eats(place: Place) -> list[str]:
    return [str(len(b"x" * (400 << 20)))]


def dies(place: Place) -> list[str]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


RUNS = {"bad/hangs": hangs, "bad/spins": spins, "bad/eats": eats, "bad/dies": dies, "bad/reads": lambda place: []}
