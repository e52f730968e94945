"""Two columns that must be equal, and the questions where they are not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from embervlm.console import console

SHOWN = 5


@dataclass(frozen=True)
class Compared:
    """One number of both sides, and a line for each question where they differ."""

    name: str
    theirs: float
    ours: float
    differing: Sequence[str] = field(default_factory=tuple)


def print_compared(title: str, benchmark: str, compared: Sequence[Compared]) -> int:
    """The table, the questions that differ, one line of JSON; 0 where nothing differs, else 1."""
    table = Table("", "harness", "embervlm", "questions that differ", title=title, title_justify="left")
    for row in compared:
        table.add_row(
            row.name,
            f"{row.theirs:.4f}".rstrip("0").rstrip("."),
            f"{row.ours:.4f}".rstrip("0").rstrip("."),
            str(len(row.differing)),
        )
    console.print(table)
    for row in compared:
        for line in row.differing[:SHOWN]:
            console.print(f"{row.name}\n  {line}", markup=False, soft_wrap=True)
        if len(row.differing) > SHOWN:
            console.print(f"  and {len(row.differing) - SHOWN} more")
    found = {row.name: [row.theirs, row.ours, len(row.differing)] for row in compared}
    passed = not any(row.differing for row in compared)
    print(json.dumps({"benchmark": benchmark, "passed": passed, "found": found}))
    return 0 if passed else 1
