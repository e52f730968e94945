"""Everything a report can show. Each part may be absent; its section is left out then."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from embervlm.errors import UserError
from embervlm.evaluate.results import EvalResult, read_json
from embervlm.evaluate.sight import Sight
from embervlm.files import write_whole
from embervlm.teachers.facts import TeacherFacts

Kind = Literal["teacher", "student", "undistilled", "baseline", "blind", "other"]
"""What a system is to the story: chooses its colour, and which numbers the headline compares."""


@dataclass(frozen=True)
class SystemRow:
    """One row of the main table."""

    name: str  # as a person calls it: "Student, distilled"
    kind: Kind
    result: EvalResult


@dataclass(frozen=True)
class TrainingRun:
    """One `metrics.json`."""

    name: str  # "with teacher"
    kind: Kind
    stage: int
    history: tuple[Mapping[str, float], ...]  # {"step": .., "stage2/total_loss": .., ...}
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """One system's answer to one question."""

    system: str
    kind: Kind
    answer: str
    score: float  # VQA accuracy or instruction score, 0 to 1


@dataclass(frozen=True)
class PictureExample:
    """One picture with a question and what everybody said."""

    image: str  # data URI
    small: bool  # few pixels: enlarge it without smoothing
    question: str
    reference: str
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Token:
    """One token as people can read it. kind: "anchored", "interior", "none"; "" for a teacher's token."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class AlignedText:
    """One row as the student reads it, and its answer cut by both tokenizers.

    A group holds the tokens of both sides between two byte positions where both have a boundary.
    """

    prompt: tuple[str, ...]  # student tokens without a label
    groups: tuple[tuple[tuple[Token, ...], tuple[Token, ...]], ...]  # (student's, teacher's)
    student: str = "student"
    teacher: str = "teacher"


@dataclass(frozen=True)
class NextToken:
    """What both expect next, after the same text."""

    question: str
    so_far: str  # of the answer
    actual: str  # the reference's next token, as the student cuts it
    student: tuple[tuple[str, float], ...]  # (token, probability), falling
    teacher: tuple[tuple[str, float], ...]
    image: str | None = None  # data URI
    small: bool = True


@dataclass(frozen=True)
class CacheFacts:
    """What keeping the teacher's words costs."""

    bytes_per_token: float
    full_logits_bytes_per_token: float | None = None  # fp16 logits of the teacher's whole vocabulary
    tokens: int | None = None
    teacher: TeacherFacts | None = None  # on the answers of the split


@dataclass(frozen=True)
class ReportInputs:
    title: str = "A student learns from its teacher"
    subtitle: str = ""  # data and teacher in one sentence
    systems: tuple[SystemRow, ...] = ()
    runs: tuple[TrainingRun, ...] = ()
    pictures: tuple[PictureExample, ...] = ()
    aligned: AlignedText | None = None
    next_token: NextToken | None = None
    cache: CacheFacts | None = None
    phases: tuple[tuple[str, float], ...] = ()  # (what, seconds)
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sights: tuple[Sight, ...] = ()  # what the picture brings the student, against each way to take it away

    def system(self, kind: Kind) -> SystemRow | None:
        """The first row of a kind."""
        return next((row for row in self.systems if row.kind == kind), None)

    @property
    def told(self) -> SystemRow | None:
        """Whom the report is about: the distilled student, else the one without a teacher."""
        return self.system("student") or self.system("undistilled")


def save_inputs(inputs: ReportInputs, path: Path) -> None:
    """As JSON, so that the report can be written again without running anything."""
    write_whole(path, json.dumps(_plain(inputs), ensure_ascii=False) + "\n")


def load_inputs(path: Path) -> ReportInputs:
    """Read what `save_inputs` wrote."""
    data = read_json(path)
    try:
        return _inputs(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no report ({error!r}); it is written by embervlm report.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, EvalResult):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _inputs(data: Mapping[str, Any]) -> ReportInputs:
    aligned, following, cache = data.get("aligned"), data.get("next_token"), data.get("cache")
    return ReportInputs(
        title=data.get("title", ReportInputs.title),
        subtitle=data.get("subtitle", ""),
        systems=tuple(
            SystemRow(row["name"], row["kind"], EvalResult.from_json(row["result"])) for row in data.get("systems", ())
        ),
        runs=tuple(TrainingRun(**{**run, "history": tuple(run["history"])}) for run in data.get("runs", ())),
        pictures=tuple(
            PictureExample(**{**picture, "said": tuple(Said(**said) for said in picture["said"])})
            for picture in data.get("pictures", ())
        ),
        aligned=None if aligned is None else _aligned(aligned),
        next_token=None
        if following is None
        else NextToken(**{**following, **{side: _pairs(following[side]) for side in ("student", "teacher")}}),
        cache=None if cache is None else _cache(cache),
        phases=tuple((str(what), float(seconds)) for what, seconds in data.get("phases", ())),
        environment=data.get("environment", {}),
        settings=data.get("settings", {}),
        notes=tuple(data.get("notes", ())),
        sights=tuple(_sight(found) for found in data.get("sights", ())),
    )


def _sight(data: Mapping[str, Any]) -> Sight:
    interval = data["interval"]
    return Sight(**{**data, "interval": None if interval is None else (interval[0], interval[1])})


def _cache(data: Mapping[str, Any]) -> CacheFacts:
    told = data.get("teacher")
    return CacheFacts(**{**data, "teacher": None if told is None else TeacherFacts(**told)})


def _aligned(data: Mapping[str, Any]) -> AlignedText:
    groups = tuple(
        (tuple(Token(**token) for token in student), tuple(Token(**token) for token in teacher))
        for student, teacher in data["groups"]
    )
    return AlignedText(**{**data, "prompt": tuple(data["prompt"]), "groups": groups})


def _pairs(rows: Any) -> tuple[tuple[str, float], ...]:
    return tuple((str(token), float(probability)) for token, probability in rows)
