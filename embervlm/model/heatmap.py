"""`--heatmap`: attention laid over the picture, a panel for the whole answer and one for each word."""

from __future__ import annotations

import io
import math
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from embervlm.errors import UserError
from embervlm.files import write_whole
from embervlm.model.attention import Look, PictureAttention

WORDS = 8
"""Panels of single words at most: of a longer answer those that look at the picture most."""
COLUMNS, PANEL, DPI = 5, 2.1, 110  # panels in a row; inches of a panel's longer side; pixels an inch
ENOUGH = 480
"""Pixels of the longer side that a picture is drawn with."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
COLOURS = "YlOrRd"
_GREY = "#555555"
_MARGIN, _GAP, _BAR, _TITLE, _BASE, _LINE = 0.15, 0.12, 0.5, 0.28, 0.22, 0.19  # inches


def check_place(path: Path) -> None:
    """UserError where no picture can be written, before anybody has waited for one. Writes nothing."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--heatmap {path} has no ending of a picture; name it with one of {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise UserError(f"--heatmap {path} is a folder; name a file in it, such as {path / 'heatmap.png'}.")
    above = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if not above.is_dir():
        raise UserError(f"--heatmap {path} cannot be written: {above} is a file, not a folder.")
    if not os.access(above, os.W_OK):
        raise UserError(f"--heatmap {path} cannot be written: no right to write in {above}.")


def draw_heatmap(path: Path, picture: Image.Image, prompt: str, found: PictureAttention) -> None:
    """Write the overlay, whole or not at all."""
    figure = _figure(picture, found, prompt)
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # a letter that matplotlib's own font lacks is drawn as a box
        figure.savefig(file, format=path.suffix.lower().lstrip("."), dpi=DPI)
    try:
        write_whole(path, file.getvalue())
    except OSError as error:
        raise UserError(f"--heatmap {path} cannot be written: {error.strerror}.") from error


def spread(cells: np.ndarray, size: tuple[int, int], covered: float = 1.0) -> np.ndarray:
    """Values of cells [rows, columns] as a smooth field [height, width] over a picture.

    The student reads the whole picture, pressed into a square, so a cell has the picture's proportions. Between the
    middles of cells it is interpolated (bicubic, never beyond the values); outside them it goes on flat.

    Args:
        size: (width, height) of the picture.
        covered: how far the cells reach in each direction, in sides of the picture.
    """
    rows, columns = cells.shape
    edge = 2  # as far as the bicubic kernel reaches
    padded = Image.fromarray(np.pad(cells, edge, mode="edge").astype(np.float32))
    box = (edge, edge, edge + columns / covered, edge + rows / covered)
    smooth = np.asarray(padded.resize(size, Image.Resampling.BICUBIC, box=box))
    return smooth.clip(cells.min(), cells.max())


def most_looking(words: Sequence[Look], most: int = WORDS) -> list[Look]:
    """The words with the largest share of their attention on the picture, in the order of the answer."""
    ranked = sorted(range(len(words)), key=lambda at: -words[at].on_picture)[:most]
    return [words[at] for at in sorted(ranked)]


def times_even(look: Look, found: PictureAttention) -> np.ndarray:
    """Attention to each cell, as a multiple of what it would be if all that can be seen were attended to evenly."""
    return look.cells * look.cells.size * look.on_picture / found.even


def _figure(picture: Image.Image, found: PictureAttention, prompt: str) -> Figure:
    small = picture.copy()
    small.thumbnail((ENOUGH, ENOUGH))
    shown = most_looking(found.words)
    panels = [(found.answer, "mean of the answer"), *((look, look.text) for look in shown)]
    rows = math.ceil((len(panels) + 1) / COLUMNS)
    columns = math.ceil((len(panels) + 1) / rows)
    wide, high = (PANEL * side / max(picture.size) for side in picture.size)
    wide = max(wide, 1.6)  # a title needs its room
    width = max(2 * _MARGIN + columns * (wide + _GAP) + _BAR, 6.5)
    said = textwrap.wrap(f"{prompt}  \u2192  {found.answer.text or '(nothing)'}", int(width * 13), max_lines=4)
    note = textwrap.wrap(_note(found, len(shown)), int(width * 17))
    top, foot = _MARGIN + _LINE * len(said), _MARGIN + _LINE * len(note)
    height = top + rows * (high + _TITLE) + 0.1 + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)

    def axes_at(left: float, down: float, wide: float, high: float) -> Any:
        """Inches, from the upper left corner."""
        return figure.add_axes((left / width, 1 - (down + high) / height, wide / width, high / height))

    def write(left: float, down: float, text: str, size: float, colour: str, **more: Any) -> None:
        at = left / width, 1 - down / height
        more = {"va": "top", "linespacing": 1.3, **more}
        figure.text(*at, text, fontsize=size, color=colour, parse_math=False, **more)

    norm = Normalize(0, max(float(times_even(look, found).max()) for look, _ in panels))
    write(_MARGIN, _MARGIN, "\n".join(said), 10, "black")
    write(_MARGIN, height - foot, "\n".join(note), 7.5, _GREY)
    for number in range(len(panels) + 1):
        row, column = divmod(number, columns)
        left, down = _MARGIN + column * (wide + _GAP), top + row * (high + _TITLE)
        axes = axes_at(left, down + _TITLE, wide, high)
        axes.set_anchor("NW")
        if number == 0:
            axes.imshow(np.asarray(small))
            write(left, down + _BASE, "the picture", 9, _GREY, va="baseline")
        else:
            look, name = panels[number - 1]
            _overlay(axes, small, look, found, norm)
            name = name if len(name) <= 18 else name[:15] + "..."
            weight = "normal" if number == 1 else "bold"
            write(left, down + _BASE, name, 9, "black", va="baseline", weight=weight)
            share = f"{100 * look.on_picture:.0f}%"
            write(left + wide, down + _BASE, share, 9, _GREY, va="baseline", ha="right")
        axes.set_axis_off()
    scale = axes_at(_MARGIN + columns * (wide + _GAP), top + _TITLE, 0.12, rows * (high + _TITLE) - _TITLE)
    figure.colorbar(ScalarMappable(norm, colormaps[COLOURS]), cax=scale)
    scale.tick_params(labelsize=8)
    scale.set_title("\u00d7 even", fontsize=8, color=_GREY, loc="left")
    return figure


def _overlay(axes: Any, picture: Image.Image, look: Look, found: PictureAttention, norm: Normalize) -> None:
    """Heat over the picture in grey; cold places let it through. The hottest cell is outlined: no finer is known."""
    field = np.asarray(norm(spread(times_even(look, found), picture.size, found.covered)))
    axes.imshow(np.asarray(picture.convert("L")), cmap="gray", vmin=-90, vmax=255)
    axes.imshow(colormaps[COLOURS](field), alpha=0.8 * np.sqrt(field))
    rows, columns = look.cells.shape
    row, column = divmod(int(look.cells.argmax()), columns)
    wide, high = picture.width / columns * found.covered, picture.height / rows * found.covered
    corner = (column * wide - 0.5, row * high - 0.5)
    axes.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor="#1f5fbf", linewidth=0.9))


def _note(found: PictureAttention, shown: int) -> str:
    first, last = found.layers
    words = len(found.words)
    which = "" if shown == words else f"; the {shown} of {words} words with most of it on the picture"
    return (
        f"Attention to each of the {found.answer.cells.size} visual tokens when the word is chosen, mean of all heads "
        f"of layers {first} to {last} of {found.depth}{which}. Colour: times an even share of all that can be seen. "
        f"%: of the attention that falls on the picture (even: {100 * found.even:.0f}%). Outlined: the hottest token. "
        "It shows where was read from, not why this was said."
    )
