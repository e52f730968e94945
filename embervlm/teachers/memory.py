"""Batches that shrink where memory is too small for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from embervlm.console import console
from embervlm.data.record import Record
from embervlm.errors import UserError

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def in_halves(items: list[Result]) -> list[list[Result]]:
    middle = (len(items) + 1) // 2
    return [items[:middle], items[middle:]]


class Halving:
    """Work that is done in halves where it does not fit; later batches begin with that size.

    Args:
        verb: what the model does with a batch, for the note: "reads".

    Attributes:
        most: records that surely fit; infinite until a batch did not.
    """

    def __init__(self, name: str, model: Any, verb: str) -> None:
        self.name, self.model, self.verb = name, model, verb
        self.most: float = float("inf")

    def __call__(
        self,
        batch: Batch,
        records_of: Callable[[Batch], Sequence[Record]],
        work: Callable[[Batch], list[Result]],
        halves: Callable[[Batch], Sequence[Batch]],
    ) -> list[Result]:
        """What `work` makes of the batch, or of its halves one after the other.

        Raises:
            UserError: there is no memory for a single record.
        """
        records = records_of(batch)
        if len(records) <= self.most:
            try:
                return work(batch)
            except torch.OutOfMemoryError as error:
                if len(records) == 1:
                    raise UserError(
                        f"record {records[0].id} does not fit into the memory of {self.model.device} beside teacher "
                        f"{self.name} ({str(error).partition('.')[0]}); use another --device"
                    ) from None
            # Not inside of the handler, where the traceback would still hold the tensors of the failed batch.
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            self.most = (len(records) + 1) // 2
            console.print(
                f"[yellow]note[/] out of memory: {self.name} now {self.verb} {self.most} records at once",
                soft_wrap=True,
            )
        return [done for smaller in halves(batch) for done in self(smaller, records_of, work, halves)]
