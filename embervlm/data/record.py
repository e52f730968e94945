"""The unified record: one image instruction with everything that travels with it, one JSON object a line on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.errors import UserError

_DEPTH = 64
BORROWED = "borrowed"
"""The source of questions that a picture has from another: `--source_weights borrowed=0.5` reads them less often."""
SHORT_SOURCES = ("vqa_v2", "ok_vqa", BORROWED)


@dataclass(frozen=True, slots=True)
class Record:
    """One sample. `turns()` is what to read; `instruction` and `response` are the guide's names for the first turn."""

    id: str
    image: str | None  # relative to the image root; None = text only
    instruction: str
    response: str  # "" in every turn: nobody has answered yet
    conversations: tuple[tuple[str, str], ...] | None = None  # all (human, assistant) pairs when there are several
    answers: tuple[str, ...] | None = None  # what ten people answered
    answer_type: str | None = None  # "yes/no", "number" or "other"
    metadata: dict[str, Any] = field(default_factory=dict)

    def turns(self) -> tuple[tuple[str, str], ...]:
        """((human, assistant), ...), at least one pair."""
        return self.conversations or ((self.instruction, self.response),)

    @property
    def source(self) -> str:
        """Which data it comes from; "unknown" where it does not say."""
        return str(self.metadata.get("source") or "unknown")

    @property
    def short(self) -> bool:
        """People answer it with a word or two, whether they have or not: a question of VQA."""
        return bool(self.answers) or self.source in SHORT_SOURCES

    @property
    def labelled(self) -> bool:
        """Somebody has answered; an unlabelled record is for `embervlm answer` alone."""
        return any(answer.strip() for _, answer in self.turns())

    def to_json(self) -> dict[str, Any]:
        """The guide's unified format; optional keys are left out where there is nothing to say."""
        row: dict[str, Any] = {
            "id": self.id,
            "image": self.image,
            "instruction": self.instruction,
            "response": self.response,
        }
        if self.conversations:
            row["conversations"] = [
                {"from": speaker, "value": value}
                for turn in self.conversations
                for speaker, value in zip(("human", "gpt"), turn, strict=True)
            ]
        if self.answers:
            row["answers"] = list(self.answers)
        if self.answer_type:
            row["answer_type"] = self.answer_type
        return row | {"metadata": self.metadata}

    @classmethod
    def from_json(cls, row: Any, where: str) -> Record:
        """Raises UserError, naming `where`, for a row that is not in the unified format."""
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
        missing = [key for key in ("id", "instruction", "response") if not isinstance(row.get(key), str)]
        if missing:
            raise UserError(f"{where}: {', '.join(missing)} must be text in the unified format; check the record")
        image = row.get("image")
        if image is not None and not isinstance(image, str):
            raise UserError(f"{where}: image must be a path or null, found {type(image).__name__}")
        turns = row.get("conversations")
        pairs = None
        if turns:
            values = [_value(turn) for turn in turns] if isinstance(turns, list) else [None]
            if len(values) % 2 or None in values:
                raise UserError(f"{where}: conversations must be pairs of human and gpt turns with a text as value")
            said = [value for value in values if value is not None]
            pairs = tuple(zip(said[::2], said[1::2], strict=True))
        answers = row.get("answers")
        if answers and not (isinstance(answers, list) and all(type(answer) in (str, int, float) for answer in answers)):
            raise UserError(f"{where}: answers must be a list of texts")
        answer_type = row.get("answer_type")
        if answer_type is not None and not isinstance(answer_type, str):
            raise UserError(f"{where}: answer_type must be a text, found {type(answer_type).__name__}")
        metadata = row.get("metadata") or {}
        if not isinstance(metadata, dict) or not _shallow(metadata, _DEPTH):
            raise UserError(f"{where}: metadata must be an object, nested at most {_DEPTH} deep")
        return cls(
            id=row["id"],
            image=image,
            instruction=row["instruction"],
            response=row["response"],
            conversations=pairs,
            answers=tuple(str(answer) for answer in answers) if answers else None,
            answer_type=answer_type,
            metadata=dict(metadata),
        )


def _value(turn: Any) -> str | None:
    value = turn.get("value") if isinstance(turn, dict) else None
    return value if isinstance(value, str) else None


def _shallow(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested at most so deep: then they can be read under any depth of calls."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_shallow(part, depth - 1) for part in inside if isinstance(part, (dict, list)))


def read_records(path: str | Path) -> list[Record]:
    """All records of a JSONL file. UserError for a line that cannot be read and for an id that occurs twice."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"cannot read records from {path}: {problem}") from problem
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise UserError(f"{path}, line {number}: not JSON ({problem.msg} at column {problem.colno})") from problem
        except RecursionError:
            raise UserError(f"{path}, line {number}: nested too deeply; prepare the data again") from None
        except ValueError as problem:  # a number of thousands of digits
            raise UserError(f"{path}, line {number}: {problem}") from problem
        record = Record.from_json(row, f"{path}, line {number}")
        if "\\u" in line and not _encodable(record):
            raise UserError(f"{path}, line {number}: a text is not valid Unicode; prepare the data again")
        if record.id in seen:
            raise UserError(f"{path}, line {number}: the id {record.id!r} is already that of line {seen[record.id]}")
        seen[record.id] = number
        records.append(record)
    return records


def _encodable(record: Record) -> bool:
    """Half a surrogate pair, as "\\ud83d" in JSON, has no bytes."""
    try:
        return bool(json.dumps(record.to_json(), ensure_ascii=False).encode("utf-8"))
    except UnicodeEncodeError:
        return False


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """One JSON object a line, UTF-8."""
    with Path(path).open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
