"""LLaVA-Instruct-150K and LLaVA-Pretrain: a JSON array of {id, image?, conversations: [{from, value}, ...]}.

And what was made after them: `conversation`, `messages` with role and content, `image` as a list or an object, JSONL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.data.official import BadRow, Piece, Read, cut, read
from embervlm.data.record import Record
from embervlm.data.rows import is_jsonl, parse, scan_array, scan_lines

PLACEHOLDER = "<image>"
_TURNS = ("conversations", "conversation", "messages")
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def read_llava(path: Path, prefix: str = "llava-", source: str = "llava_instruct") -> Read:
    """One record a row, conversations whole. Record ids are "<prefix><row>": the file's own ids are not unique.

    As LLaVA's own code reads them: a first turn from gpt is dropped, then human and gpt must alternate; `<image>` is
    taken out of every human turn of a row with a picture, wherever it stands. Rows without `image` are text only, and
    rejected where a human turn has the marker: they ask about a picture that they do not name.
    """
    return read(LlavaFile(path, LlavaMaker(prefix, source)))


@dataclass(frozen=True)
class LlavaMaker:
    """See `read_llava`."""

    prefix: str
    source: str

    def make(self, number: int, row: bytes) -> Record:
        return llava_record(parse(row), f"{self.prefix}{number}", self.source)


class LlavaFile:
    """A JSON array, or lines where the name ends in .jsonl (then rows are lines, numbered from 1)."""

    def __init__(self, path: Path, maker: LlavaMaker) -> None:
        self.path, self.maker = path, maker
        what = "LLaVA's JSON array of conversations"
        self._lines = list(scan_lines(path, what)) if is_jsonl(path) else None
        self._rows = scan_array(path, what) if self._lines is None else []

    def __len__(self) -> int:
        return len(self._rows) if self._lines is None else len(self._lines)

    def pieces(self) -> Iterator[Piece]:
        if self._lines is not None:
            for rows in cut(self._lines):
                yield Piece(self.maker, str(self.path), [line for _, line in rows], "line")
        for rows in cut(self._rows):
            yield Piece(self.maker, str(self.path), [(number, bytes(raw)) for number, raw in rows])


def llava_record(row: Any, record_id: str, source: str) -> Record:
    """One row as LLaVA has it; BadRow where it cannot be used."""
    turns = next((row[key] for key in _TURNS if key in row), None) if isinstance(row, dict) else None
    if not isinstance(turns, list):
        raise BadRow("conversations is missing or not a list")
    image = _image(row.get("image") or row.get("images"))
    pairs = _pairs(turns, image is not None)
    metadata = {"source": source, "difficulty": "high" if len(pairs) > 1 or len(pairs[0][1]) > 200 else "medium"}
    if "id" in row:
        metadata["id"] = str(row["id"])  # mix665k mixes numbers and texts
    return Record(
        id=record_id,
        image=image,
        instruction=pairs[0][0],
        response=pairs[0][1],
        conversations=tuple(pairs) if len(pairs) > 1 else None,
        metadata=metadata,
    )


def _image(value: Any) -> str | None:
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if isinstance(value, dict):  # as Arrow has it; bytes cannot stand in JSON
        value = value.get("path") or value
    if value is None or isinstance(value, str):
        return value or None
    raise BadRow(f"image is {type(value).__name__} of several pictures or of no path")


def _pairs(turns: list[Any], has_image: bool) -> list[tuple[str, str]]:
    said = [_turn(turn) for turn in turns]
    if said and said[0][0] == "gpt":
        said = said[1:]
    if any(speaker != ("human", "gpt")[i % 2] for i, (speaker, _) in enumerate(said)):
        raise BadRow("human and gpt do not alternate")
    values = [value for _, value in said]
    if has_image:
        values[::2] = [value.replace(PLACEHOLDER, "") for value in values[::2]]
    refuse_marker(values[::2])
    values = [value.strip() for value in values]
    pairs = list(zip(values[::2], values[1::2], strict=False))  # a last question without an answer teaches nothing
    if not pairs or not all(answer for _, answer in pairs):
        raise BadRow("a conversation without an answer")
    if not all(question for question, _ in pairs):
        raise BadRow("an empty question")
    return pairs


def refuse_marker(questions: Iterable[str]) -> None:
    """BadRow for the marker in a question about no picture: the student has no place for one, teachers stop at it."""
    if any(PLACEHOLDER in question for question in questions):
        raise BadRow(f"a question has {PLACEHOLDER}, but the row names no image")


def _turn(turn: Any) -> tuple[str, str]:
    """("human" or "gpt", text) of {from, value} or {role, content}, content a text or a list of parts."""
    speaker = value = None
    if isinstance(turn, dict):
        speaker = turn.get("from", turn.get("role"))
        value = turn.get("value", turn.get("content"))
        if isinstance(value, list):
            parts = [part.get("text") for part in value if isinstance(part, dict)]
            value = "\n".join(part for part in parts if isinstance(part, str) and part)
    known = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if known is None or not isinstance(value, str):
        raise BadRow(f"a turn is from {speaker!r}; expected human or gpt with a text")
    return known, value
