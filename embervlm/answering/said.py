"""The file of all that a teacher said, before anything is judged. It only grows, so a run that was stopped goes on.

The first line says of which teacher, data and settings it is; each other line is one answered record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embervlm.errors import UserError
from embervlm.journal import Journal, OtherJournal
from embervlm.teachers.outputs import Answer

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
    logprob: float | None = None  # of all turns together; None: the teacher does not tell

    @property
    def empty(self) -> bool:
        return self.finished and not self.turns[-1]

    @property
    def confidence(self) -> float | None:
        """The probability, 0 to 1, that the teacher itself gives to what it said."""
        return None if self.logprob is None else math.exp(self.logprob)

    def goes_on(self, answer: Answer) -> Said:
        """With the answer to the next turn."""
        before = 0.0 if not self.turns else self.logprob
        both = None if before is None or answer.logprob is None else before + answer.logprob
        return Said((*self.turns, answer.text), answer.finished, both)


class SaidFile:
    """`answers` holds what is there; `add` appends."""

    def __init__(self, path: Path, about: Mapping[str, Mapping[str, Any]]) -> None:
        """Open, or begin.

        Args:
            about: {"teacher" | "data" | "settings": facts}; equal exactly when the answers can be used.

        Raises:
            UserError: the file is about something else, or cannot be read.
        """
        # As JSON gives them back, so that a tuple equals its list.
        header = json.loads(json.dumps({"format": FORMAT, **about}))
        self.path = path
        self.answers: dict[Key, Said] = {}
        try:
            self._journal = Journal(path, header)
        except OtherJournal as other:
            raise _refusal(path, other.there, header) from None
        for number, row in enumerate(self._journal.rows, start=2):
            try:
                key = Key(row["split"], row["record_id"], row["sample"])
                self.answers[key] = Said(tuple(row["said"]), row["finished"], row.get("logprob"))
            except (KeyError, TypeError) as problem:
                raise UserError(
                    f"{path}, line {number}: not an answer of a teacher ({problem!r}); delete that line, or the file"
                ) from problem

    def add(self, answers: Mapping[Key, Said]) -> None:
        """They are on disk when this returns."""
        self._journal.add(
            {**key._asdict(), "said": list(said.turns), "finished": said.finished, "logprob": said.logprob}
            for key, said in answers.items()
        )
        self.answers.update(answers)


def _refusal(path: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> UserError:
    if there.get("format") != FORMAT:
        return UserError(f"{path} has the format {there.get('format')}, expected {FORMAT}; delete it")
    differ = [
        f"{what} {fact} {there[what].get(fact)} there, {now[what].get(fact)} now"
        for what in now
        if what != "format"
        for fact in {**there[what], **now[what]}
        if there[what].get(fact) != now[what].get(fact)
    ]
    return UserError(
        f"{path} holds answers of another run ({'; '.join(differ)}); choose another --output_dir, or delete that file"
    )
