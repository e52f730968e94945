"""The unified record: one image instruction with everything that travels with it, one JSON object a line on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.errors import UserError


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
            values = [str(turn["value"]) for turn in turns if isinstance(turn, dict) and "value" in turn]
            if len(values) != len(turns) or len(values) % 2:
                raise UserError(f"{where}: conversations must be pairs of human and gpt turns with a value each")
            pairs = tuple(zip(values[::2], values[1::2], strict=True))
        answers = row.get("answers")
        return cls(
            id=row["id"],
            image=image,
            instruction=row["instruction"],
            response=row["response"],
            conversations=pairs,
            answers=tuple(str(answer) for answer in answers) if answers else None,
            answer_type=row.get("answer_type"),
            metadata=dict(row.get("metadata") or {}),
        )


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
        record = Record.from_json(row, f"{path}, line {number}")
        if record.id in seen:
            raise UserError(f"{path}, line {number}: the id {record.id!r} is already that of line {seen[record.id]}")
        seen[record.id] = number
        records.append(record)
    return records


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """One JSON object a line, UTF-8."""
    with Path(path).open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
