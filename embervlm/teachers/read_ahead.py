"""Pictures of the next passes are decoded, scaled and tokenised while a GPU is at the present one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from embervlm.teachers.passes import Pass, Row

Reader = Callable[[Sequence[Row], Path], Any]

DEPTH = 4
"""Passes that are read ahead, each on a thread of its own; decoding a picture leaves Python's lock."""


class ReadAhead:
    """A processor's batches, some of them made before they are asked for.

    Args:
        read: rows and the image root -> the processor's batch; called from several threads.
        device: of the model. On a CPU nothing is read ahead: the model has every core already.
        allowed: False: nothing is read ahead anywhere.
    """

    def __init__(self, read: Reader, device: torch.device, allowed: bool = True) -> None:
        self._reader = read
        self.depth = DEPTH if allowed and device.type != "cpu" else 0
        self._pending: dict[tuple[int, ...], Future[Any]] = {}

    def read(self, rows: Sequence[Row], image_root: Path) -> Any:
        """The batch of these rows, made now unless it was begun before. Raises what the reader raises."""
        begun = self._pending.pop(_key(rows), None)
        return self._reader(rows, image_root) if begun is None else begun.result()

    def through(
        self, passes: Iterable[Pass], rows_of: Callable[[Pass], Sequence[Row]], image_root: Path
    ) -> Iterator[Pass]:
        """The passes in their order, while the next ones are read. What was begun in vain goes at the end."""
        if not self.depth:
            yield from passes
            return
        coming = iter(passes)
        queue: list[Pass] = []
        with ThreadPoolExecutor(self.depth, thread_name_prefix="read-ahead") as threads:
            try:
                while True:
                    for part in islice(coming, self.depth + 1 - len(queue)):
                        queue.append(part)
                        rows = rows_of(part)
                        self._pending[_key(rows)] = threads.submit(self._reader, rows, image_root)
                    if not queue:
                        return
                    part = queue.pop(0)
                    yield part
                    self._pending.pop(_key(rows_of(part)), None)  # a pass may have been cut before it was read
            finally:
                for begun in self._pending.values():
                    begun.cancel()
                self._pending.clear()


def _key(rows: Sequence[Row]) -> tuple[int, ...]:
    return tuple(row.key for row in rows)
