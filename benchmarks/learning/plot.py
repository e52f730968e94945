"""The curves of a grid as one picture, for documents that show no SVG."""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure

from benchmarks.learning.page import Figures
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import mean_curve

ABREAST = 5


def write_png(figures: Figures, path: Path) -> None:
    """A panel for each regime: accuracy on the half to stop on over steps, mean over seeds; the teacher dashed."""
    columns = min(max(1, len(figures.cells)), ABREAST)
    rows = max(1, math.ceil(len(figures.cells) / columns))
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for empty in panels[len(figures.cells) :]:
        empty.set_axis_off()
    handles = {}
    for panel, (regime, arms) in zip(panels, figures.cells.items(), strict=False):
        for arm, measured in arms.items():
            curve = mean_curve(list(measured.values()))
            if curve:
                colour = f"C{list(figures.rates).index(arm)}"
                style = {"color": "black", "linewidth": 2.2} if arm == "sft" else {"color": colour}
                handles[arm] = panel.plot(*zip(*curve, strict=True), marker="o", markersize=3, label=arm, **style)[0]
        if "teacher" in figures.references:
            panel.axhline(figures.references["teacher"], linestyle="--", color="grey", linewidth=1)
        panel.set_title(fill(REGIMES[regime].title, 48), fontsize=9)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    for first in grid[:, 0]:
        first.set_ylabel("VQA accuracy")
    figure.legend(handles.values(), list(handles), loc="outside lower center", ncols=len(handles) or 1, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
