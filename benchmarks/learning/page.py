"""The figures of a grid as a table, as JSON, and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich.table import Column, Table

from benchmarks.learning.arms import ARMS, Arm
from benchmarks.learning.cells import Results
from benchmarks.learning.plan import RATES, Part, stopped_at
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import compare, mean_curve, steps_to
from embervlm.evaluate.pages.plots import Line, line_chart

Measured = Mapping[int, Mapping[str, Any]]
"""Seed -> what its cell measured."""
AT = "@"
"""Between an arm and its learning rate, where a regime has that arm at several."""


@dataclass(frozen=True)
class Figures:
    """All that is known of a part. `cells` is regime -> arm -> seed -> cell; cells that were not run are not there."""

    cells: Mapping[str, Mapping[str, Measured]]
    rates: Mapping[str, float]
    references: Mapping[str, float]  # teacher, floors: points on the half that is reported
    pictures: Sequence[str]  # of each question of that half

    @classmethod
    def read(cls, part: Part, results: Results, references: Mapping[str, float], pictures: Sequence[str]) -> Figures:
        places = part.named_cells(results)
        tried: dict[tuple[str, str], set[float]] = {}
        for cell, regime in places:
            tried.setdefault((regime, cell.arm), set()).add(cell.rate)
        cells: dict[str, dict[str, dict[int, Any]]] = {}
        rates: dict[str, float] = {}
        for cell, regime in places:
            measured = results.get(cell)
            if measured is not None:
                name = f"{cell.arm}{AT}{cell.rate:g}" if len(tried[regime, cell.arm]) > 1 else cell.arm
                cells.setdefault(regime, {}).setdefault(name, {})[cell.seed] = measured
                rates[name] = cell.rate
        return cls(cells, rates, references, pictures)

    def rows(self, regime: str) -> dict[str, dict[str, Any]]:
        """Of each arm that was run: `stats.compare`, the steps to SFT's accuracy, and the share of the gap closed."""
        arms = self.cells[regime]
        teacher = self.references.get("teacher")
        found = {}
        for arm, measured in arms.items():
            sft = arms.get(arm_named(arm).against, {})
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
            row["stopped_at"] = 100 * _mean(stopped_at(cell) for cell in measured.values())
            row["seconds"] = _mean(cell["seconds"]["training"] for cell in measured.values())
            row["teacher_seconds"] = _mean(cell["seconds"]["teacher"] for cell in measured.values())
            found[arm] = row
        return found

    def to_json(self) -> dict[str, Any]:
        return {"regimes": {name: self.rows(name) for name in self.cells}}


def arm_named(name: str) -> Arm:
    return ARMS[name.partition(AT)[0]]


def title_of(name: str) -> str:
    """An arm's title, with its learning rate where the name has one."""
    rate = name.partition(AT)[2]
    return f"{arm_named(name).title}, at {rate}" if rate else arm_named(name).title


COLUMNS = (
    "arm",
    "rate",
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
    "to stop on",
)


IN_CONSOLE = ("seeds", "accuracy", "gain over SFT", "± pictures", "KL", "steps")
"""What fits into 80 columns beside the arm's short name."""


def shown(arm: str, row: Mapping[str, Any]) -> list[str]:
    """One line of a table, a string for each of `COLUMNS`."""
    gain, parts = row.get("gain"), row["parts"]
    is_gain = gain is not None and arm != "sft"
    return [
        arm_named(arm).title,
        f"{row['learning_rate']:g}",
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
        f"{row['stopped_at']:.1f}",
    ]


def console_table(figures: Figures, regime: str) -> Table:
    table = Table(Column("arm", no_wrap=True), *IN_CONSOLE, title=REGIMES[regime].title, title_justify="left")
    for arm, row in figures.rows(regime).items():
        texts = dict(zip(COLUMNS, shown(arm, row), strict=True))
        table.add_row(arm, *(texts[column] for column in IN_CONSOLE))
    return table


def markdown(figures: Figures, regime: str) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for arm, row in figures.rows(regime).items():
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in shown(arm, row)) + " |")
    return "\n".join(lines)


def write_page(found: Sequence[tuple[Part, Figures]], run: tuple[int, int], path: Path) -> None:
    """One HTML file without anything from outside; `run`: how many cells there are, of how many."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(("html", "jinja"))
    )
    text = environment.get_template("page.html.jinja").render(
        parts=[_section(part, figures) for part, figures in found],
        columns=COLUMNS,
        references=found[0][1].references,
        scale=found[0][0].scale,
        searched=RATES,
        run=run,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _section(part: Part, figures: Figures) -> dict[str, Any]:
    regimes = []
    for name, arms in figures.cells.items():
        lines = [
            Line(title_of(arm), f"c{list(figures.rates).index(arm)}", *zip(*curve, strict=True))
            for arm, measured in arms.items()
            if len(curve := mean_curve(list(measured.values()))) > 1
        ]
        chart = line_chart(lines, f"accuracy over steps, {REGIMES[name].title}")
        rows = [shown(arm, row) for arm, row in figures.rows(name).items()]
        key = [(line.kind, line.name) for line in lines]
        regimes.append({"title": REGIMES[name].title, "chart": chart, "rows": rows, "key": key})
    return {"name": part.name, "title": part.title, "scale": part.scale, "regimes": regimes}


def _interval(interval: Sequence[float] | None, signed: bool = True) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{low:+.1f} to {high:+.1f}" if signed else f"{low:.1f} to {high:.1f}"


def _mean(values: Any) -> float:
    some = list(values)
    return sum(some) / len(some)
