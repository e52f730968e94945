"""A file of JSON lines that only grows, so that a run that was stopped goes on with what it has.

The first line says what the others are about; each other line is one finished piece of work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from embervlm.errors import UserError

Row = Mapping[str, Any]


class OtherJournal(Exception):
    """The file is about something else; `there` is its first line."""

    def __init__(self, there: Row) -> None:
        super().__init__(f"about {there}")
        self.there = there


class Journal:
    """`rows` is what there was when it was opened; `add` appends."""

    def __init__(self, path: Path, header: Row, *, restart: bool = False) -> None:
        """Open, or begin. A line that a killed run left half-written is cut off.

        Args:
            header: what the lines are about, as JSON can hold it; another one is another journal.
            restart: begin anew where the file is another journal or cannot be read.

        Raises:
            OtherJournal: the file has another header. UserError: a line is not JSON.
        """
        self.path = path
        try:
            there, self.rows = read_journal(path)
            if there is not None and there != header:
                raise OtherJournal(there)
        except (OtherJournal, UserError):
            if not restart:
                raise
            path.unlink()
            there, self.rows = None, []
        path.parent.mkdir(parents=True, exist_ok=True)
        if there is None:
            path.unlink(missing_ok=True)
            self.add([header])
        else:
            whole = path.read_bytes().rfind(b"\n") + 1
            with path.open("r+b") as file:
                file.truncate(whole)

    def add(self, rows: Iterable[Row]) -> None:
        """They are on disk when this returns."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("ab") as file:
            file.write(lines.encode("utf-8", "surrogatepass"))


def read_journal(path: Path) -> tuple[Row | None, list[Row]]:
    """The header, None where there is none yet, and the rows; a half-written last line is left out.

    Raises:
        UserError: a whole line is not a JSON object.
    """
    text = path.read_bytes() if path.exists() else b""
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} instead of an object")
        except ValueError as problem:
            raise UserError(
                f"{path}, line {number}: not one of ours ({problem!r}); delete that line, or the file"
            ) from problem
        rows.append(row)
    return (rows[0], rows[1:]) if rows else (None, [])
