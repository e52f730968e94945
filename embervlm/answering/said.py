"""The file of all that a teacher said, before anything is judged. It only grows, so a run that was stopped goes on.

The first line says of which teacher, data and settings it is; each other line is one answered record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embervlm.errors import UserError

FORMAT = "embervlm/answers-1"


class Key(NamedTuple):
    split: str
    record_id: str
    sample: int  # from 0


@dataclass(frozen=True)
class Said:
    """What the teacher said to one record, turn by turn; it is asked no further behind an empty or a cut answer."""

    turns: tuple[str, ...]
    finished: bool  # False: the length limit cut the last one

    @property
    def empty(self) -> bool:
        return self.finished and not self.turns[-1]


class SaidFile:
    """`answers` holds what is there; `add` appends."""

    def __init__(self, path: Path, about: Mapping[str, Mapping[str, Any]]) -> None:
        """Open, or begin. A line that a killed run left half-written is cut off.

        Args:
            about: {"teacher" | "data" | "settings": facts}; equal exactly when the answers can be used.

        Raises:
            UserError: the file is about something else, or cannot be read.
        """
        self.path = path
        self.answers: dict[Key, Said] = {}
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole:
            self._read(whole, about)
        path.parent.mkdir(parents=True, exist_ok=True)
        if whole != text:
            with path.open("r+b") as file:
                file.truncate(len(whole))
        if not whole:
            self._append([{"format": FORMAT, **about}])

    def add(self, answers: Mapping[Key, Said]) -> None:
        """They are on disk when this returns."""
        self._append(
            {**key._asdict(), "said": list(said.turns), "finished": said.finished} for key, said in answers.items()
        )
        self.answers.update(answers)

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("ab") as file:
            file.write(lines.encode("utf-8"))

    def _read(self, whole: bytes, about: Mapping[str, Mapping[str, Any]]) -> None:
        number = 1
        try:
            rows = []
            for number, line in enumerate(whole.decode("utf-8").removesuffix("\n").split("\n"), start=1):
                rows.append(json.loads(line))
                if number == 1:
                    self._compare(rows[0], about)
                else:
                    key = Key(rows[-1]["split"], rows[-1]["record_id"], rows[-1]["sample"])
                    self.answers[key] = Said(tuple(rows[-1]["said"]), rows[-1]["finished"])
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as problem:
            raise UserError(
                f"{self.path}, line {number}: not an answer of a teacher ({problem!r}); delete that line, or the file"
            ) from problem

    def _compare(self, header: Mapping[str, Any], about: Mapping[str, Mapping[str, Any]]) -> None:
        if header["format"] != FORMAT:
            raise UserError(f"{self.path} has the format {header['format']}, expected {FORMAT}; delete it")
        differ = [
            f"{what} {fact} {header[what].get(fact)} there, {facts.get(fact)} now"
            for what, facts in about.items()
            for fact in {**header[what], **facts}
            if header[what].get(fact) != facts.get(fact)
        ]
        if differ:
            raise UserError(
                f"{self.path} holds answers of another run ({'; '.join(differ)}); "
                "choose another --output_dir, or delete that file"
            )
