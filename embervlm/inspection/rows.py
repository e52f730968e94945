"""Packed rows as people see them: which positions belong to which picture and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from rich.text import Text

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import Sample
from embervlm.batch.encode import IGNORE
from embervlm.batch.pack import SHARED, Row, pack
from embervlm.inspection.view import COLOURS

ROWS_LEGEND = (
    "packed rows: one colour is one picture (underlined) and the samples that see it, which see no other sample; with "
    "the number of positions"
)


@dataclass(frozen=True)
class Segment:
    """Some positions of a row that stand one after the other."""

    name: str  # the picture's file, or the record's id
    group: int
    is_picture: bool
    positions: int
    labels: int


@dataclass(frozen=True)
class RowView:
    """One row; what the longest row of the batch has more than it is padding."""

    segments: tuple[Segment, ...]
    padding: int


def view_rows(samples: Sequence[Sample], processor: Any, max_length: int) -> list[RowView]:
    """A batch as `Collator` packs it."""
    rows = pack([sample.encoded for sample in samples], Collator(processor).shared, max_length)
    images = {sample.record.id: sample.record.image for sample in samples}
    longest = max(len(row.input_ids) for row in rows)
    return [RowView(_segments(row, images), longest - len(row.input_ids)) for row in rows]


def _segments(row: Row, images: dict[str, str | None]) -> tuple[Segment, ...]:
    changes = np.flatnonzero((np.diff(row.groups) != 0) | (np.diff(row.segments) != 0)) + 1
    names = {place.first: place.record_id for place in row.placed}
    pictures = iter(row.pictures)
    found = []
    for places in np.split(np.arange(len(row.input_ids)), changes):
        is_picture = bool(row.segments[places[0]] == SHARED)
        name = images[next(pictures)] if is_picture else next(names[place] for place in places if place in names)
        labels = int((row.shift_labels[places] != IGNORE).sum())
        found.append(Segment(name or "", int(row.groups[places[0]]), is_picture, len(places), labels))
    return tuple(found)


def render_row(view: RowView, number: int) -> Text:
    """For the terminal: name, positions and labels of each segment, and the padding."""
    line = Text(f"row {number}".ljust(16), style="bold")
    for segment in view.segments:
        line.append(f" {_say(segment)} ", style=f"not bold black on {_colour(segment)}{_underline(segment)}")
        line.append(" ")
    if view.padding:
        line.append(f"{view.padding} padding", style="not bold dim")
    return line


def _say(segment: Segment) -> str:
    labels = f", {segment.labels} labels" if segment.labels else ""
    return f"{segment.name} {segment.positions}{labels}"


def _colour(segment: Segment) -> str:
    return COLOURS[segment.group % len(COLOURS)]


def _underline(segment: Segment) -> str:
    return " underline" if segment.is_picture else ""


def rows_html(views: Sequence[RowView]) -> str:
    """Boxes as wide as their share of the row; the details are in their titles."""
    lines = []
    for view in views:
        boxes = [
            f'<span class="{"box shown" if segment.is_picture else "box"}" title="{escape(_say(segment))}" '
            f'style="flex-grow:{segment.positions};background:{_colour(segment)}">{escape(segment.name)}</span>'
            for segment in view.segments
        ]
        if view.padding:
            boxes.append(
                f'<span class="box" title="{view.padding} padding" style="flex-grow:{view.padding}">&nbsp;</span>'
            )
        lines.append(f'<div class="packed">{"".join(boxes)}</div>')
    return f"<p>{escape(ROWS_LEGEND[0].upper() + ROWS_LEGEND[1:])}.</p>" + "".join(lines)
