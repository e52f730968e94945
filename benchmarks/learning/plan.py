"""Which cells a grid has, and at which learning rate: each arm's is searched over the same rates, on the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.learning.arms import ARMS
from benchmarks.learning.cells import Cell, Results
from benchmarks.learning.worker import best_step
from benchmarks.learning.world import Scale

RATES = (5e-4, 1e-3, 2e-3, 4e-3)
SEARCH_REGIME, SEARCH_SEED = "all", 0


@dataclass(frozen=True)
class Grid:
    """What was asked for."""

    scale: Scale
    regimes: Sequence[str]
    arms: Sequence[str]
    seeds: Sequence[int]
    rates: Sequence[float] = RATES  # one: there is nothing to search

    def search(self) -> list[Cell]:
        """The cells that choose each arm's learning rate; none where there is nothing to choose."""
        if len(self.rates) == 1:
            return []
        arms = dict.fromkeys(ARMS[arm].searched_as or arm for arm in self.arms)
        return [Cell(self.scale, SEARCH_REGIME, arm, SEARCH_SEED, rate) for rate in self.rates for arm in arms]

    def cells(self, results: Results) -> list[Cell]:
        """The grid at the chosen rates, seed by seed: a grid that was stopped has the same arms in every regime."""
        return once(cell for cell, _ in self.named_cells(results))

    def named_cells(self, results: Results) -> list[tuple[Cell, str]]:
        """Every place of the grid: its cell, and the regime, of which several may share a cell."""
        rates = {arm: chosen_rate(self, arm, results) for arm in self.arms}
        return [
            (Cell(self.scale, regime, arm, seed, rates[arm]), regime)
            for seed in self.seeds
            for regime in self.regimes
            for arm in self.arms
        ]


@dataclass(frozen=True)
class Part:
    """One question of a study, and the grids of one scale that answer it."""

    name: str
    title: str
    grids: tuple[Grid, ...]

    @property
    def scale(self) -> Scale:
        return self.grids[0].scale

    def search(self) -> list[Cell]:
        return once(cell for grid in self.grids for cell in grid.search())

    def cells(self, results: Results) -> list[Cell]:
        return once(cell for cell, _ in self.named_cells(results))

    def named_cells(self, results: Results) -> list[tuple[Cell, str]]:
        """As those of its grids; what two of them have is there once."""
        found = (place for grid in self.grids for place in grid.named_cells(results))
        return list({(cell.key, regime): (cell, regime) for cell, regime in found}.values())


def once(cells: Iterable[Cell]) -> list[Cell]:
    """Each cell once, in their order."""
    return list({cell.key: cell for cell in cells}.values())


def chosen_rate(grid: Grid, arm: str, results: Results) -> float:
    """The rate with the highest accuracy on the half to stop on; of two equal, and where one is not done, the lower.

    Nothing is chosen on the half that is reported.
    """
    found = {}
    searched = ARMS[arm].searched_as or arm
    for rate in sorted(grid.rates):
        measured = results.get(Cell(grid.scale, SEARCH_REGIME, searched, SEARCH_SEED, rate))
        if measured is not None:
            found[rate] = stopped_at(measured)
    return max(found, key=lambda rate: (found[rate], -rate)) if found else sorted(grid.rates)[len(grid.rates) // 2]


def stopped_at(measured: dict) -> float:
    """Accuracy on the half to stop on, at the chosen step."""
    points = measured["curve"]
    step = best_step(points)
    return next(point["vqa_accuracy"] for point in points if point["step"] == step)
