"""Batches as one self-contained HTML page: pictures as the student sees them, labels in colour, the teacher below."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from embervlm.errors import UserError
from embervlm.files import write_whole
from embervlm.inspection.expected import Expectation, Position, Share, percent
from embervlm.inspection.gather import Batch
from embervlm.inspection.marks import legible, visible
from embervlm.inspection.notices import Notice
from embervlm.inspection.rows import RowView, describe
from embervlm.inspection.view import COLOURS, ExampleView, Token, cut_words

LONGEST_EDGE = 448
"""Of a picture on the page, in pixels; a larger one is shown smaller."""
EXACT_BYTES = 48 << 10
"""A picture that PNG makes smaller is exact; another one becomes a JPEG."""
PICTURE_BYTES = 32 << 20
"""Of all pictures of a page; those beyond it are left out."""
MOST_CUT = 400
"""Tokens beyond the end of a row that are shown."""


@dataclass(frozen=True)
class Shown:
    """One sample, ready for people."""

    view: ExampleView
    answers: Sequence[tuple[Position, ...]]
    facts: str
    source: str
    problem: str = ""
    picture: Image.Image | None = None
    image: str | None = None  # its file; names of one picture may differ by their folder
    key: str | None = None  # what names the picture


@dataclass(frozen=True)
class Part:
    """One batch of a page."""

    batch: Batch
    heading: str
    shown: Sequence[Shown]
    rows: Sequence[RowView]
    notices: Sequence[Notice]


@dataclass(frozen=True)
class About:
    """What the page is about, and who teaches."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]  # a number and what it counts
    teachers: Sequence[tuple[str, float]]  # names and shares
    notes: Sequence[str]  # about the teachers
    temperature: float
    trained: str
    notices: Sequence[Notice]  # about all batches


def as_picture(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Pixels [3, H, W] after preprocessing -> the picture they stand for."""
    array = pixels.float().numpy().transpose(1, 2, 0) * np.array(std) + np.array(mean)
    return Image.fromarray((array * 255).round().clip(0, 255).astype(np.uint8))


def write_page(path: Path, page: str) -> None:
    """Whole or not at all. UserError where that is impossible."""
    try:
        write_whole(path, page)
    except OSError as error:
        raise UserError(f"The page {path} could not be written ({error.strerror}).") from None


def render_page(about: About, parts: Sequence[Part]) -> str:
    """The page. Everything that data and models wrote is escaped, and what does not show is made visible."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"legible": legible, "visible": visible, "percent": percent}
    template = environment.from_string(_file("embervlm.inspection", "inspect.html.jinja"))
    pictures = Pictures()
    batches = [_batch(part, pictures, len(parts) > 1) for part in parts]
    return template.render(
        about=about,
        batches=batches,
        sources=sorted({shown.source for part in parts for shown in part.shown}),
        samples=sum(len(part.shown) for part in parts),
        left_out=pictures.left_out,
        positions=[_positions(shown) for part in parts for shown in part.shown],
        facts={
            "teachers": [[legible(name), round(share, 4)] for name, share in about.teachers],
            "temperature": about.temperature,
            "ranks": about.trained == "uld",
        },
        css=Markup(_file("embervlm.evaluate.pages", "report.css") + _file("embervlm.inspection", "inspect.css")),
        js=Markup(_file("embervlm.inspection", "inspect.js")),
    )


def _file(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


class Pictures:
    """Pictures as data URIs, until the page has enough of them."""

    def __init__(self, room: int = PICTURE_BYTES) -> None:
        self._room = room
        self.left_out = 0

    def __call__(self, picture: Image.Image) -> str | None:
        small = picture.copy()
        small.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
        kind, data = "png", _encoded(small, "PNG", optimize=True)
        if len(data) > EXACT_BYTES:
            kind, data = "jpeg", _encoded(small, "JPEG", quality=88)
        self._room -= len(data)
        if self._room < 0:
            self.left_out += 1
            return None
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _batch(part: Part, pictures: Pictures, several: bool) -> dict[str, Any]:
    """For the template: samples that stand one after the other and share a picture share its place."""
    tags: dict[str, list[str]] = {}
    for notice in part.notices:
        for record in notice.records:
            tags.setdefault(record, []).append(notice.tag)
    groups = []
    for _, of_one in groupby(
        enumerate(part.shown), key=lambda pair: pair[0] if pair[1].key is None else f"picture {pair[1].key}"
    ):
        members = [shown for _, shown in of_one]
        picture = next((shown.picture for shown in members if shown.picture is not None), None)
        groups.append(
            {
                "uri": None if picture is None else pictures(picture),
                "size": None if picture is None else picture.size,
                "image": ", ".join(dict.fromkeys(shown.image for shown in members if shown.image is not None)),
                "problem": next((shown.problem for shown in members if shown.problem), ""),
                "samples": [_sample(shown, tags.get(shown.view.record_id, [])) for shown in members],
            }
        )
    return {
        "number": part.batch.number,
        "heading": part.heading,
        "notices": part.notices if several else (),
        "rows": [_row(row) for row in part.rows],
        "groups": groups,
    }


def _row(row: RowView) -> dict[str, Any]:
    segments = [
        {
            "name": segment.name,
            "colour": segment.colour % len(COLOURS),
            "is_picture": segment.is_picture,
            "positions": segment.positions,
            "title": describe(segment),
            "runs": segment.runs,
        }
        for segment in row.segments
    ]
    return {"segments": segments, "padding": row.padding}


def _sample(shown: Shown, tags: Sequence[str]) -> dict[str, Any]:
    view = shown.view
    kept = [token for token in view.row if not token.cut]
    cut = view.row[len(kept) :]
    number = _numbers(shown)
    text = " ".join((view.record_id, view.image or "", "".join(token.text for token in view.row)))
    return {
        "id": view.record_id,
        "source": shown.source,
        "facts": shown.facts,
        "tags": tags,
        "text": legible(text).casefold(),
        "tokens": [_token(token, number, shown) for token in kept],
        "cut": [_token(token, {}, shown) for token in cut[:MOST_CUT]],
        "cut_more": max(0, len(cut) - MOST_CUT),
        "cut_words": cut_words(view) if view.truncated else "",
        "teacher": [answer.teacher for answer in view.answers if answer.teacher],
    }


def _numbers(shown: Shown) -> dict[tuple[int, int], int]:
    """Place of a label -> its number among all labels of the sample."""
    places = [(answer, at) for answer, positions in enumerate(shown.answers) for at in range(len(positions))]
    return {place: number for number, place in enumerate(places)}


def _token(token: Token, numbers: dict[tuple[int, int], int], shown: Shown) -> dict[str, Any]:
    number = None if token.place is None else numbers.get(token.place)
    told: dict[str, Any] = {
        "text": token.text,
        "colour": token.colour,
        "number": number,
        "kind": token.kind,
        "top": None,
    }
    if number is not None and token.place is not None:
        position = shown.answers[token.place[0]][token.place[1]]
        speaking = [said for said in position.said if said.events]
        told["first"] = token.place[1] == 0
        if position.said:
            told["kind"] = speaking[0].kind if speaking else "none"
        if speaking:
            best = speaking[0].events[0]
            told |= {
                "top": best.text,
                "share": best.share.plain,
                "label": speaking[0].label.plain,
                "hit": best.is_label,
            }
    return told


def _positions(shown: Shown) -> list[dict[str, Any]]:
    return [
        {
            "at": position.at,
            "reads": visible(position.reads),
            "label": visible(position.label),
            "id": position.label_id,
            "said": [_expectation(said) for said in position.said],
        }
        for positions in shown.answers
        for position in positions
    ]


def _expectation(said: Expectation) -> dict[str, Any]:
    return {
        "kind": said.kind,
        "events": [[visible(event.text), *_pair(event.share), int(event.is_label)] for event in said.events],
        "others": [said.others, *_pair(said.others_share)],
        "rest": _pair(said.rest),
        "label": _pair(said.label),
    }


def _pair(share: Share) -> list[float]:
    return [round(float(share.plain), 6), round(float(share.tempered), 6)]
