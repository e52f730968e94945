"""The embedded world: pictures of shapes, with questions, conversations and captions in the official file formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from embervlm.data.toyworld.files import write_toy

if TYPE_CHECKING:
    from embervlm.settings import ToySettings

__all__ = ["run_toy", "write_toy"]


def run_toy(settings: ToySettings) -> None:
    """`embervlm toy`: draws the world below `settings.out` and says what was written."""
    console = Console(highlight=False)
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=settings.train_images + settings.val_images)
        counts = write_toy(
            settings.out,
            settings.train_images,
            settings.val_images,
            settings.seed,
            lambda: progress.advance(bar),
            settings.annotated,
        )
    table = Table(
        "", *counts, title=f"The embedded world in {settings.out}, in the official file formats", title_justify="left"
    )
    for name in counts["train"]:
        table.add_row(name, *(f"{split[name]:,}" for split in counts.values()))
    console.print(table)
