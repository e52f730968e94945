"""What a picture shows, in words that travel with its records: what a teacher that only reads is told of it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embervlm.data.images import plain_name
from embervlm.data.official import BadRow, image_key
from embervlm.data.record import Record
from embervlm.data.rows import parse, scan_object
from embervlm.errors import UserError

SHOWS = "shows"
"""Key of `Record.metadata`: a text about the record's picture, or a list of texts (captions, objects)."""


def known(record: Record) -> str:
    """What the record says that its picture shows, a text a line; "" where it says nothing."""
    said = record.metadata.get(SHOWS) or ""
    texts = [said] if isinstance(said, str) else said
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f'record {record.id}: metadata["{SHOWS}"] must be a text or a list of texts, found {said!r}')
    return "\n".join(text.strip() for text in texts if text.strip())


def read_descriptions(paths: Sequence[Path], root: Path | None = None) -> dict[str, list[str]]:
    """`image_key` -> texts; what several files say of one picture adds up.

    The format is told from the file: {image: text or [texts]}, or COCO's captions_*.json and instances_*.json, of which
    the objects are counted ("dog, 2 person"). `root`: the image root, below which names may be absolute.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        values = scan_object(path, "an object {image: text}, or COCO's captions or instances")
        try:
            content = {key: parse(value) for key, value in values.items()}
        except BadRow as problem:
            raise UserError(f"{path} cannot be read: {problem}; download it again") from None
        coco = isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list)
        for image, said in _coco(path, content) if coco else content.items():
            texts = [said] if isinstance(said, str) else said
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{path}: {image!r} must have a text or a list of texts, found {type(said).__name__}")
            found[image_key(plain_name(image, root))] += [text.strip() for text in texts if text.strip()]
    return dict(found)


class Descriptions:
    """The files' texts, on their way into the records' metadata."""

    def __init__(self, paths: Sequence[Path], root: Path | None = None) -> None:
        self._texts = read_descriptions(paths, root)
        self._pictures: set[str] = set()

    def add(self, line: bytes) -> bytes:
        """A line of the unified format, with its picture's texts in the metadata."""
        record = Record.from_json(json.loads(line), "a prepared record")
        if record.image is None:
            return line
        self._pictures.add(image_key(record.image))
        return (json.dumps(described(record, self._texts).to_json(), ensure_ascii=False) + "\n").encode("utf-8")

    def summary(self) -> str:
        """How many of the pictures have a text.

        Raises:
            UserError: none has; the names are other pictures', most likely.
        """
        count, without = len(self._pictures), sorted(self._pictures - self._texts.keys())
        if count and len(without) == count:
            some = next(iter(self._texts), "nothing")
            raise UserError(f"--descriptions tells of {some}, ..., and of none of the pictures, such as {without[0]}")
        missing = f"; {len(without):,} have none, such as {without[0]}" if without else ""
        return f"What the picture shows is told of {count - len(without):,} of {count:,} pictures{missing}."


def described(record: Record, descriptions: Mapping[str, Sequence[str]]) -> Record:
    """The record with its picture's texts in its metadata, behind those that it has."""
    texts = descriptions.get(image_key(record.image)) if record.image is not None else None
    if not texts:
        return record
    both = dict.fromkeys([*filter(None, known(record).split("\n")), *texts])
    return replace(record, metadata=record.metadata | {SHOWS: list(both) if len(both) > 1 else next(iter(both))})


def _coco(path: Path, content: dict[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """(file name, texts) of the pictures of a file of COCO's."""
    categories = content.get("categories")
    names = {_id(row, "id"): str(row["file_name"]) for row in content["images"] if _id(row, "file_name")}
    rows = categories if isinstance(categories, list) else []
    kinds = {key: str(row.get("name")) for row in rows if (key := _id(row, "id"))}
    captions: dict[str, list[str]] = defaultdict(list)
    objects: dict[str, Counter[str]] = defaultdict(Counter)
    for row in content["annotations"]:
        if isinstance(row, dict) and isinstance(row.get("caption"), str):
            captions[_id(row, "image_id")].append(row["caption"])
        elif (kind := _id(row, "category_id")) in kinds:
            objects[_id(row, "image_id")][kinds[kind]] += 1
        else:
            raise UserError(f"{path} has an annotation with neither a caption nor a known category: {str(row)[:80]}")
    for image_id, name in names.items():
        counts = objects[image_id].items()
        listed = ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in counts)
        yield name, captions[image_id] + ([f"Objects: {listed}."] if listed else [])


def _id(row: Any, key: str) -> str:
    """A number or a text of a row, as text; "" where there is none."""
    value = row.get(key) if isinstance(row, dict) else None
    return str(value) if isinstance(value, (int, str)) else ""
