"""Packed rows as people see them: which positions belong to which picture and sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.text import Text

from embervlm.batch.encode import IGNORE
from embervlm.batch.pack import SHARED, Row
from embervlm.data.official import image_key
from embervlm.inspection.gather import Batch
from embervlm.inspection.marks import legible
from embervlm.inspection.view import COLOURS

ROWS_LEGEND = (
    "rows: one colour is one picture (underlined) and the samples that see it, which see no other sample; with "
    "the number of positions"
)


@dataclass(frozen=True)
class Segment:
    """Some positions of a row that stand one after the other."""

    name: str  # the picture's file, or the record's id
    colour: int  # one for each picture of the batch, and for each sample without one
    is_picture: bool
    positions: int
    labels: int
    runs: tuple[tuple[int, bool], ...] = ()  # positions one after the other, and whether they have labels


@dataclass(frozen=True)
class RowView:
    """One row; what the longest row of the batch has more than it is padding."""

    segments: tuple[Segment, ...]
    padding: int


def view_rows(batch: Batch) -> list[RowView]:
    """A batch as `Collator` lays it out."""
    colours: dict[str, int] = {}
    return [RowView(_segments(row, batch.images, colours), batch.longest - len(row.input_ids)) for row in batch.rows]


def _segments(row: Row, images: dict[str, str | None], colours: dict[str, int]) -> tuple[Segment, ...]:
    names = {place.first: place.record_id for place in row.placed}
    pictures = iter(row.pictures)
    found = []
    for places in _split(np.stack([row.groups, row.segments])):
        is_picture = bool(row.segments[places[0]] == SHARED)
        record = next(pictures) if is_picture else next(names[place] for place in places if place in names)
        image = images[record]
        colour = colours.setdefault(f"alone:{record}" if image is None else image_key(image), len(colours))
        labelled = row.shift_labels[places] != IGNORE
        runs = tuple((len(part), bool(labelled[part[0]])) for part in _split(labelled[None]))
        name = image if is_picture and image is not None else record
        found.append(Segment(name, colour, is_picture, len(places), int(labelled.sum()), runs))
    return tuple(found)


def _split(columns: np.ndarray) -> list[np.ndarray]:
    """Places [n] of `columns` [k, n], cut where any of the columns changes."""
    changes = np.flatnonzero((np.diff(columns, axis=1) != 0).any(0)) + 1
    return np.split(np.arange(columns.shape[1]), changes)


def render_row(view: RowView, number: int) -> Text:
    """For the terminal: name, positions and labels of each segment, and the padding."""
    line = Text(f"row {number}".ljust(16), style="bold")
    for segment in view.segments:
        colour = COLOURS[segment.colour % len(COLOURS)]
        underline = " underline" if segment.is_picture else ""
        line.append(f" {describe(segment)} ", style=f"not bold black on {colour}{underline}")
        line.append(" ")
    if view.padding:
        line.append(f"{view.padding} padding", style="not bold dim")
    return line


def describe(segment: Segment) -> str:
    """Name, positions, labels."""
    labels = f", {segment.labels} labels" if segment.labels else ""
    return f"{legible(segment.name)} {segment.positions}{labels}"
