"""Work spread over processes, results in the order of the work: the same bytes for any number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self, TypeVar

from embervlm.errors import UserError

Work = TypeVar("Work")
Result = TypeVar("Result")


def processors() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Some processes, or this one alone. They start with the first work and serve until the context ends."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, work: Callable[[Work], Result], items: Iterable[Work]) -> Iterator[Result]:
        """`work` of each item, in their order.

        At most two items a process are under way, so that memory stays bounded whatever the length of `items`.

        Raises:
            UserError: a process has died (usually killed for its memory).
        """
        if self.count <= 1:
            yield from map(work, items)
            return
        if self._pool is None:
            # Spawned, since a fork of a process with threads (torch, tokenizers) may hang.
            self._pool = ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"), _start)
        under_way: deque[Future[Result]] = deque()
        try:
            for item in items:
                under_way.append(self._pool.submit(work, item))
                if len(under_way) >= 2 * self.count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as problem:
            raise UserError(
                "a worker process has died, perhaps for want of memory; run the same command with --num_workers 1"
            ) from problem
        finally:
            for future in under_way:
                future.cancel()


def _start() -> None:
    """Ctrl-C is for the parent, which then ends the workers; a parent that was killed takes them along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _end_with_parent() -> None:
    """Otherwise a worker waits forever for work: it holds the writing end of its own queue."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
