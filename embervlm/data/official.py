"""What the readers of the official files share: rows read or rejected, pieces of files as work for processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from embervlm.data.images import BARE_NAME, COCO_NAME
from embervlm.data.record import Record
from embervlm.errors import shortened

PIECE = 2000
"""Rows that go to a process at once: milliseconds of work against microseconds of sending."""


@dataclass(frozen=True)
class Reject:
    """One row that became no record."""

    file: str
    row: int
    reason: str
    unit: str = "row"  # rows count from 0, lines of a JSONL file from 1

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, self.unit: self.row, "reason": self.reason}

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.row}: {self.reason}"


class BadRow(ValueError):
    """Raised inside a reader for one row; the message is the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(shortened(reason))


class Maker(Protocol):
    """How one row becomes a record. Travels to other processes, so it is a small frozen dataclass."""

    def make(self, number: int, row: Any) -> Record:
        """Raises BadRow for a row that cannot be used."""
        ...


@dataclass(frozen=True)
class Piece:
    """Some rows of one file, in their order, as they stand in the file."""

    maker: Maker
    file: str
    rows: Sequence[tuple[int, Any]]  # (number, what the maker takes)
    unit: str = "row"

    def records(self) -> Iterator[tuple[int, Record | Reject]]:
        """(number, the record or why there is none)."""
        for number, row in self.rows:
            try:
                yield number, self.maker.make(number, row)
            except BadRow as problem:
                yield number, Reject(self.file, number, str(problem), self.unit)


class Source(Protocol):
    """A file, or a pair of files, of one official format."""

    def __len__(self) -> int: ...

    def pieces(self) -> Iterable[Piece]: ...


@dataclass
class Read:
    """What came out of the files of one source."""

    records: list[Record] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def read(source: Source) -> Read:
    """All of a source, in this process and in memory."""
    found = Read()
    for piece in source.pieces():
        for _, made in piece.records():
            if isinstance(made, Reject):
                found.rejects.append(made)
            else:
                found.records.append(made)
    return found


def cut(rows: Sequence[Any], size: int = PIECE) -> Iterator[list[tuple[int, Any]]]:
    """Numbered rows, some at a time."""
    for start in range(0, len(rows), size):
        yield list(enumerate(rows[start : start + size], start))


def text(row: Any, key: str) -> str:
    """A text of a row, stripped; BadRow when it is missing, empty or no text."""
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{key} is missing or empty")
    return value.strip()


def ask(template: str, question: str) -> str:
    """The question in a prompt template."""
    return template.replace("{question}", question)


def image_key(name: str) -> str:
    """What makes two names the same picture: the twelve digits of COCO's names, else the path.

    COCO_train2014_000000123456.jpg, train2017/000000123456.jpg and 000000123456.jpg are one picture;
    left/202401151230.jpg and right/202401151230.jpg are two.
    """
    match = COCO_NAME.fullmatch(name) or BARE_NAME.fullmatch(name)
    return match["number"] if match else name
