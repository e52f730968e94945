"""Several processes at one job, as `torchrun` starts them: who is who, and waiting for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from embervlm.errors import UserError

_PATIENCE = timedelta(days=30)
"""How long one process waits for the others' work. One that dies closes its connection, which is noticed at once."""


@dataclass(frozen=True)
class Processes:
    """This process and how many there are. The one of rank 0 writes what there is one of."""

    rank: int = 0
    count: int = 1

    def share(self, value: Any) -> Any:
        """What rank 0 passes, on every rank. Returns when all have come here.

        Raises:
            UserError: another process has ended.
        """
        if self.count == 1:
            return value
        box = [value]
        with self._together():
            torch.distributed.barrier()
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """What each rank passes, by rank, on every rank. Returns when all have come here.

        Raises:
            UserError: another process has ended.
        """
        if self.count == 1:
            return [value]
        box: list[Any] = [None] * self.count
        with self._together():
            torch.distributed.all_gather_object(box, value)
        return box

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"Another of the {self.count} processes has ended, so this one does, too ({reason}). Mend what that "
                "one complains about and run the same command again: it continues from what is on the disk."
            ) from None


ALONE = Processes()


@contextmanager
def start_processes() -> Iterator[Processes]:
    """What RANK and WORLD_SIZE say; connected while the context lasts."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    torch.distributed.init_process_group("gloo", rank=rank, world_size=count, timeout=_PATIENCE)
    try:
        yield Processes(rank, count)
    finally:
        torch.distributed.destroy_process_group()


def own_device(name: str) -> str:
    """`--device` for this process: of several processes, each takes the GPU numbered LOCAL_RANK."""
    local = os.environ.get("LOCAL_RANK")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and local is not None and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        return f"cuda:{local}"
    return name
