"""What the readers of the official files share: JSON with a clear complaint, and rows that are read or rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.data.record import Record
from embervlm.errors import UserError

_DIGITS = re.compile(r"(\d{12})\.\w+$")


@dataclass(frozen=True)
class Reject:
    """One row that became no record."""

    file: str
    row: int
    reason: str


class BadRow(ValueError):
    """Raised inside a reader for one row; the message is the reason."""


@dataclass
class Read:
    """What came out of the files of one source."""

    records: list[Record] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def rows(self, file: Path, rows: Iterable[Any], make: Callable[[int, Any], Record]) -> None:
        """`make(row number, row)` for each row; a BadRow is kept as a reject."""
        for number, row in enumerate(rows):
            try:
                self.records.append(make(number, row))
            except BadRow as problem:
                self.rejects.append(Reject(str(file), number, str(problem)))

    def __iadd__(self, other: Read) -> Read:
        self.records += other.records
        self.rejects += other.rejects
        return self


def load_json(path: Path, expected: type | tuple[type, ...], what: str) -> Any:
    """The file's content. UserError when it is missing, not JSON, or not of the `expected` type (dict or list)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise UserError(
            f"{path} is not JSON: {problem.msg} at line {problem.lineno}, column {problem.colno}; download it again"
        ) from problem
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not UTF-8 text"
        raise UserError(f"cannot read {path} ({reason}); expected {what}") from problem
    if not isinstance(content, expected):
        found = "an object" if isinstance(content, dict) else "an array" if isinstance(content, list) else "one value"
        raise UserError(f"{path} holds {found}; expected {what}")
    return content


def text(row: Any, key: str) -> str:
    """A text of a row, stripped; BadRow when it is missing, empty or no text."""
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{key} is missing or empty")
    return value.strip()


def image_key(name: str) -> str:
    """What makes two names the same picture: the twelve digits of COCO's names, else the path.

    COCO_train2014_000000123456.jpg, train2017/000000123456.jpg and 000000123456.jpg are one picture.
    """
    match = _DIGITS.search(name)
    return match[1] if match else name
