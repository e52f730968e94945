"""JSONL in the unified format, a bad line a reject (`record.read_records` stops at the first)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embervlm.data.llava import refuse_marker
from embervlm.data.official import BadRow, Piece, cut
from embervlm.data.record import Record
from embervlm.data.rows import parse, scan_lines
from embervlm.errors import UserError


@dataclass(frozen=True)
class UnifiedMaker:
    """One line."""

    def make(self, number: int, row: bytes) -> Record:
        try:
            record = Record.from_json(parse(row), "")
        except UserError as problem:
            raise BadRow(str(problem).removeprefix(": ")) from None
        if not all(question.strip() for question, _ in record.turns()):
            raise BadRow("an empty question or answer")
        if record.image is None:
            refuse_marker(question for question, _ in record.turns())
        # Nobody answered any turn: `embervlm answer` asks a teacher. Some: silence would be taught.
        if record.labelled and not all(answer.strip() for _, answer in record.turns()):
            raise BadRow("an empty question or answer")
        return record


class UnifiedFile:
    """Lines are numbered from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = list(scan_lines(path, "records in the unified format"))

    def __len__(self) -> int:
        return len(self._lines)

    def pieces(self) -> Iterator[Piece]:
        for rows in cut(self._lines):
            yield Piece(UnifiedMaker(), str(self.path), [line for _, line in rows], "line")
