"""The figures of a grid as a table, as JSON, and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich.table import Table

from benchmarks.learning.arms import ARMS
from benchmarks.learning.cells import Results
from benchmarks.learning.plan import Grid
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import compare, mean_curve, steps_to
from embervlm.evaluate.pages.plots import Line, line_chart

Measured = Mapping[int, Mapping[str, Any]]
"""Seed -> what its cell measured."""


@dataclass(frozen=True)
class Figures:
    """All that is known of a grid. `cells` is regime -> arm -> seed -> cell; cells that were not run are not there."""

    cells: Mapping[str, Mapping[str, Measured]]
    rates: Mapping[str, float]
    references: Mapping[str, float]  # teacher, floors: points on the half that is reported
    pictures: Sequence[str]  # of each question of that half

    @classmethod
    def read(cls, grid: Grid, results: Results, references: Mapping[str, float], pictures: Sequence[str]) -> Figures:
        cells: dict[str, dict[str, dict[int, Any]]] = {}
        rates: dict[str, float] = {}
        for cell, regime in grid.named_cells(results):
            measured = results.get(cell)
            if measured is not None:
                cells.setdefault(regime, {}).setdefault(cell.arm, {})[cell.seed] = measured
                rates[cell.arm] = cell.rate
        return cls(cells, rates, references, pictures)

    def rows(self, regime: str) -> dict[str, dict[str, Any]]:
        """Of each arm that was run: `stats.compare`, the steps to SFT's accuracy, and the share of the gap closed."""
        arms = self.cells[regime]
        teacher = self.references.get("teacher")
        found = {}
        for arm, measured in arms.items():
            sft = arms.get(ARMS[arm].against, {})
            row = compare(measured, sft, self.pictures)
            both = [seed for seed in measured if seed in sft]
            if both:
                goal = max(value for _, value in mean_curve([sft[seed] for seed in both]))
                reached = steps_to(mean_curve([measured[seed] for seed in both]), goal)
                alone = steps_to(mean_curve([sft[seed] for seed in both]), goal)
                row["steps_to_sft"] = None if reached is None or alone is None else reached / alone
                gap = None if teacher is None else teacher - (row["accuracy"] - row["gain"]["mean"])
                row["gap_closed"] = row["gain"]["mean"] / gap if gap else None
            row["learning_rate"] = self.rates[arm]
            row["seconds"] = _mean(cell["seconds"]["training"] for cell in measured.values())
            row["teacher_seconds"] = _mean(cell["seconds"]["teacher"] for cell in measured.values())
            found[arm] = row
        return found

    def to_json(self) -> dict[str, Any]:
        return {"references": dict(self.references), "regimes": {name: self.rows(name) for name in self.cells}}


COLUMNS = (
    "arm",
    "seeds",
    "accuracy",
    "gain over SFT",
    "± seeds",
    "± pictures",
    "gap closed",
    "without yes/no",
    "unseen pairs",
    "KL",
    "calibration error",
    "steps",
)


IN_CONSOLE = ("seeds", "accuracy", "gain over SFT", "± pictures", "without yes/no", "KL", "steps")
"""What fits into 80 columns beside the arm's short name."""


def shown(arm: str, row: Mapping[str, Any]) -> list[str]:
    """One line of a table, a string for each of `COLUMNS`."""
    gain, parts = row.get("gain"), row["parts"]
    is_gain = gain is not None and arm != "sft"
    return [
        ARMS[arm].title,
        str(row["seeds"]),
        f"{row['accuracy']:.1f}",
        f"{gain['mean']:+.1f}" if is_gain else "",
        _interval(gain["over_seeds"]) if is_gain else _interval(row["over_seeds"], signed=False),
        _interval(gain["over_pictures"]) if is_gain else "",
        "" if not is_gain or row.get("gap_closed") is None else f"{row['gap_closed']:.0%}",
        f"{parts['without yes/no']:.1f}",
        f"{parts['unseen pairs']:.1f}" if "unseen pairs" in parts else "",
        f"{parts['KL']:.2f}" if "KL" in parts else "",
        f"{parts['calibration error']:.1%}" if "calibration error" in parts else "",
        "" if row.get("steps_to_sft") is None else f"{row['steps_to_sft']:.2f}",
    ]


def console_table(figures: Figures, regime: str) -> Table:
    table = Table("arm", *IN_CONSOLE, title=REGIMES[regime].title, title_justify="left")
    for arm, row in figures.rows(regime).items():
        texts = dict(zip(COLUMNS, shown(arm, row), strict=True))
        table.add_row(arm, *(texts[column] for column in IN_CONSOLE))
    return table


def markdown(figures: Figures, regime: str) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(shown(arm, row)) + " |" for arm, row in figures.rows(regime).items()]
    return "\n".join(lines)


def write_page(figures: Figures, grid: Grid, run: tuple[int, int], path: Path) -> None:
    """One HTML file without anything from outside; `run` are the cells that there are, and those of the whole grid."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(("html", "jinja"))
    )
    regimes = []
    for name, arms in figures.cells.items():
        lines = [
            Line(ARMS[arm].title, f"c{list(figures.rates).index(arm)}", *zip(*curve, strict=True))
            for arm, measured in arms.items()
            if len(curve := mean_curve(list(measured.values()))) > 1
        ]
        chart = line_chart(lines, f"accuracy over steps, {REGIMES[name].title}")
        rows = [shown(arm, row) for arm, row in figures.rows(name).items()]
        key = [(line.kind, line.name) for line in lines]
        regimes.append({"title": REGIMES[name].title, "chart": chart, "rows": rows, "key": key})
    text = environment.get_template("page.html.jinja").render(
        regimes=regimes,
        columns=COLUMNS,
        references=figures.references,
        scale=grid.scale,
        rates=figures.rates,
        searched=grid.rates,
        titles={name: arm.title for name, arm in ARMS.items()},
        run=run,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _interval(interval: Sequence[float] | None, signed: bool = True) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{low:+.1f} to {high:+.1f}" if signed else f"{low:.1f} to {high:.1f}"


def _mean(values: Any) -> float:
    some = list(values)
    return sum(some) / len(some)
