"""One cell of the grid: regime x arm x seed x learning rate. A finished one lies on disk as one JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning.arms import ARMS, Arm
from benchmarks.learning.regimes import REGIMES, Regime, data_name
from benchmarks.learning.world import Scale
from embervlm.errors import UserError
from embervlm.train.checkpoint import write_json

EDITION = 1
"""Goes up when a change of the code makes earlier cells say something else."""


@dataclass(frozen=True)
class Cell:
    """What is trained; `key` follows from all that decides the outcome."""

    scale: Scale
    regime: str
    arm: str
    seed: int
    rate: float

    @property
    def data(self) -> str:
        return data_name(REGIMES[self.regime], ARMS[self.arm].reads)

    def definition(self) -> dict[str, Any]:
        """Without the regime's name: where two regimes give an arm the same data, they are one cell."""
        return {
            "edition": EDITION,
            "scale": asdict(self.scale),
            "data": self.data,
            "arm": self.arm,
            "flags": ARMS[self.arm].decides,
            "seed": self.seed,
            "learning_rate": self.rate,
        }

    @property
    def key(self) -> str:
        digest = hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.data}.{self.arm}.s{self.seed}.lr{self.rate:g}.{digest}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Cell:
        return cls(**{**content, "scale": Scale(**content["scale"])})


class Results:
    """A folder of finished cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.json"

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """What was measured; None where the cell was not run. UserError for a file that is not about this cell."""
        path = self.path(cell)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            raise UserError(f"{path} cannot be read ({problem}); delete it, the cell is run again") from problem
        if found.get("definition") != cell.definition():
            raise UserError(f"{path} is about another cell than its name says; delete it, the cell is run again")
        return found

    def put(self, cell: Cell, measured: dict[str, Any]) -> None:
        """Whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path(cell), {"definition": cell.definition(), **measured})


def regime_of(cell: Cell) -> Regime:
    return REGIMES[cell.regime]


def arm_of(cell: Cell) -> Arm:
    return ARMS[cell.arm]
