"""The parameter table that a training starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from torch import nn


@dataclass(frozen=True)
class PartRow:
    """One part of the model, or the total."""

    part: str
    parameters: int
    trainable: int


def param_table(model: nn.Module) -> list[PartRow]:
    """One row for each part of the model, the total last. A shared weight is counted once."""
    rows = [_row(name.replace("_", " "), part) for name, part in model.named_children()]
    return [*rows, _row("total", model)]


def format_table(rows: Sequence[PartRow]) -> Table:
    """The table as rich prints it."""
    table = Table("part", title="Parameters")
    for heading in ("parameters", "trainable"):
        table.add_column(heading, justify="right")
    for row in rows:
        style = "bold" if row is rows[-1] else None
        table.add_row(row.part, f"{row.parameters:,}", f"{row.trainable:,}", style=style)
    return table


def _row(name: str, part: nn.Module) -> PartRow:
    sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
    return PartRow(name, sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained))
