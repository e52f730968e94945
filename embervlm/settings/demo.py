"""Flags of the demo and of the embedded world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embervlm.options import option
from embervlm.settings.places import TOY


@dataclass(frozen=True)
class ToySettings:
    """Draw the embedded world in the official file formats."""

    out: Path = option(TOY, "Folder to write")
    train_images: int = option(4000, "Pictures of train", minimum=1)
    val_images: int = option(500, "Pictures of val", minimum=1)
    annotated: float = option(1.0, "Share of train's pictures whose questions people answered", minimum=0, maximum=1)
    seed: int = option(0, "Equal seeds give equal bytes", minimum=0)


@dataclass(frozen=True)
class DemoSettings:
    """The whole story on the embedded world, up to its report."""

    out: Path = option(Path("outputs/demo"), "Folder for everything the demo writes")
    quick: bool = option(False, "A minute's worth of it, to see that all works")
    seed: int = option(0, "Seed of everything random", minimum=0)
