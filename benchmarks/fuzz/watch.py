"""Cases in watched processes: one that crashes, hangs or eats memory is killed and counted, and the run goes on.

Processes are forked from a server that has everything imported, so a new one costs milliseconds.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from multiprocessing import connection
from pathlib import Path
from typing import Any

from benchmarks.fuzz.cases import CRASHED, HUNG, MEMORY, Result, Run, run_case

SECONDS = 20.0
"""Processor time that a case has; or time in which it does nothing, since the machine may be busy with others."""
BYTES = 1 << 30
"""Memory that a case may take above what its process held."""
WARM = "benchmarks.fuzz.warm"
_LOOK = 0.05
_IDLE = 0.05
_SHOWN = 4000


class Watched:
    """Some worker processes and what they are at. Use as a context.

    Args:
        seconds, memory: see SECONDS and BYTES.
        warm: module with what workers need; its RUNS says what runs a case, by the name of its group.
    """

    def __init__(
        self, processes: int, seed: int, seconds: float = SECONDS, memory: int = BYTES, warm: str = WARM
    ) -> None:
        self._seed, self._seconds, self._memory, self._warm = seed, seconds, memory, warm
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([warm])
        self._scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._workers: list[_Worker] = []
        self._count = processes

    def __enter__(self) -> Watched:
        self._workers = [self._start() for _ in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.dismiss()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self) -> _Worker:
        return _Worker(self._context, Path(tempfile.mkdtemp(dir=self._scratch)), self._seed, self._warm)

    def results(self, keys: Sequence[str]) -> Iterator[Result]:
        """Of each case, in the order in which they end."""
        waiting = deque(keys)
        left = len(waiting)
        while left:
            for worker in self._workers:
                if worker.ready and worker.key is None and waiting:
                    worker.begin(waiting.popleft())
            connection.wait([worker.pipe for worker in self._workers], timeout=_LOOK)
            for at, worker in enumerate(self._workers):
                result = worker.look(self._seconds, self._memory)
                if result is not None:
                    left -= 1
                    yield result
                if worker.gone:
                    worker.kill()
                    self._workers[at] = self._start()


class _Worker:
    def __init__(self, context: Any, folder: Path, seed: int, warm: str) -> None:
        self.folder, self.key, self.ready, self.gone = folder, None, False, False
        self.log = folder / "log"
        self.log.touch()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, seed, str(folder), warm), daemon=True)
        self.process.start()
        theirs.close()
        self.key: str | None
        self._began = self._worked = 0.0
        self._base = 0

    def begin(self, key: str) -> None:
        self.key, self._began = key, time.monotonic()
        self._worked, self._base = _worked(self.process.pid), _resident(self.process.pid)
        self.pipe.send(key)

    def look(self, seconds: float, memory: int) -> Result | None:
        """The result, once there is one; a process that is over a limit is killed for it."""
        try:
            if self.pipe.poll():
                said = self.pipe.recv()
                if not self.ready:
                    self.ready = True
                    return None
                self.key = None
                if said.peak > memory:
                    return Result(said.key, MEMORY, said.reasons, _took(said.peak), said.seconds, said.peak)
                return said
        except (EOFError, OSError):
            pass
        if not self.process.is_alive():
            return self._end(CRASHED, f"the process died: {_ending(self.process.exitcode)}")
        if self.key is None:
            return None
        took, worked = time.monotonic() - self._began, _worked(self.process.pid) - self._worked
        if worked > seconds or (took > seconds and worked < _IDLE * took):
            os.kill(self.process.pid, signal.SIGUSR1)  # faulthandler writes where it is
            time.sleep(0.3)
            return self._end(HUNG, f"still at it after {took:.0f} s, {worked:.1f} s of them at work")
        if (grown := _resident(self.process.pid) - self._base) > memory:
            return self._end(MEMORY, _took(grown))
        return None

    def _end(self, outcome: str, detail: str) -> Result | None:
        self.gone = True
        self.kill()
        log = self.log.read_text(errors="replace")[-_SHOWN:]
        if self.key is None:
            if not self.ready:
                raise SystemExit(f"a worker of the fuzz benchmark did not start ({detail})\n{log}")
            return None
        return Result(self.key, outcome, [], f"{detail}\n{log}", time.monotonic() - self._began)

    def dismiss(self) -> None:
        """Lets it end by itself, so that it tidies up."""
        self.pipe.close()
        if self.key is None:
            self.process.join(5)
        self.kill()

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)
        self.pipe.close()


def _took(grown: int) -> str:
    return f"took {grown / 2**20:,.0f} MiB more"


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _worked(pid: int) -> float:
    """Seconds of processor time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _serve(pipe: Any, seed: int, folder: str, warm: str) -> None:
    runs: Mapping[str, Run] = import_module(warm).RUNS
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(Path(folder) / "log", os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log)
    tempfile.tempdir = folder  # removed with all that a killed process leaves behind
    pipe.send(None)  # ready
    while True:
        try:
            key = pipe.recv()
        except EOFError:
            return
        os.ftruncate(log, 0)
        pipe.send(_measured(runs, key, seed, Path(folder)))


def _measured(runs: Mapping[str, Run], key: str, seed: int, home: Path) -> Result:
    before, began = _reset_peak(), time.monotonic()
    folder = home / "case"
    folder.mkdir()
    try:
        found = run_case(runs[key.rpartition("/")[0]], key, seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds, peak = time.monotonic() - began, max(0, _peak() - before)
    return Result(found.key, found.outcome, found.reasons, found.detail, seconds, peak)


def _reset_peak() -> int:
    """Forgets the most memory that this process held (proc(5), clear_refs); returns what it holds now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _resident(os.getpid())


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0
