"""One example as the student and the teacher read it: plain data, for the terminal and for HTML pages alike.

The two tokenisations of an answer are cut at the places where both have a boundary; tokens of one piece share a colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from embervlm.batch.encode import IGNORE, Encoded
from embervlm.distill.targets import ANCHORED, INTERIOR, NONE, ResponseTargets
from embervlm.teachers.outputs import TeacherOutputs
from embervlm.tokens import Spans, encode_spans

COLOURS = ("#ffd166", "#9ad1f5", "#b7e4a8", "#f4b6c2", "#d7c2f2", "#f7c59f")
"""Backgrounds for black letters, in turn."""
KIND_NAMES = {ANCHORED: "anchored", INTERIOR: "interior", NONE: "none"}
END = "<end>"


@dataclass(frozen=True)
class Token:
    """One token as people see it."""

    text: str
    colour: int | None = None  # place in COLOURS; None: not part of an answer
    cut: bool = False  # of an answer, but beyond the end of the row: the student is not asked for it
    kind: str | None = None  # anchored / interior / none; None: no teacher


@dataclass(frozen=True)
class AnswerView:
    """One assistant turn."""

    student: tuple[Token, ...]
    teacher: tuple[Token, ...]  # empty without a teacher


@dataclass(frozen=True)
class ExampleView:
    """One record. `row` is what the student reads, prompt included; runs of one token are folded."""

    record_id: str
    image: str | None
    row: tuple[Token, ...]
    answers: tuple[AnswerView, ...]
    truncated: bool


def shows_much(encoded: Encoded) -> tuple[bool, int]:
    """For choosing an example: one turn rather than many, about a dozen tokens rather than one or a hundred."""
    first, *more = encoded.responses
    return not more, -abs(len(first.ids) - 12)


def view_example(
    encoded: Encoded,
    tokenizer: Any,
    outputs: Sequence[TeacherOutputs] | None = None,
    targets: Sequence[ResponseTargets] | None = None,
) -> ExampleView:
    """Lay out one encoded record.

    Args:
        outputs: the teacher on every assistant turn of the record; None: no teacher.
        targets: one per entry of `encoded.responses`; None: no teacher.
    """
    answers, at = [], {}
    for index, response in enumerate(encoded.responses):
        spans = encode_spans(tokenizer, response.text)
        size = len(response.text.encode("utf-8"))
        student = Spans(response.ids, np.append(spans.starts, size), np.append(spans.ends, size))
        said = None if outputs is None else outputs[response.turn]
        pieces = _common_pieces(student, said, size)
        kinds = None if targets is None else targets[index].kinds
        kept = response.kept(len(encoded.input_ids))
        tokens = tuple(
            Token(
                _slice(response.text, start, end),
                _piece(pieces, start, size) % len(COLOURS),
                cut=j >= kept,
                kind=None if kinds is None or j >= len(kinds) else KIND_NAMES[int(kinds[j])],
            )
            for j, (start, end) in enumerate(zip(student.starts, student.ends, strict=True))
        )
        teacher = () if said is None else _teacher_tokens(said, response.text, pieces, size)
        answers.append(AnswerView(tokens, teacher))
        at.update({response.first + 1 + j: token for j, token in enumerate(tokens)})
    return ExampleView(
        encoded.record_id, encoded.image, _row(encoded, tokenizer, at), tuple(answers), encoded.truncated
    )


def _common_pieces(student: Spans, teacher: TeacherOutputs | None, size: int) -> np.ndarray:
    """Byte offsets where both start a token; piece i begins at the i-th."""
    starts = set(student.starts.tolist())
    if teacher is not None:
        starts &= set(teacher.starts[teacher.starts >= 0].tolist())
    return np.array(sorted({0, size, *starts}))


def _piece(pieces: np.ndarray, start: int, size: int) -> int:
    return int(np.searchsorted(pieces, min(max(start, 0), size), side="right")) - 1


def _teacher_tokens(said: TeacherOutputs, text: str, pieces: np.ndarray, size: int) -> tuple[Token, ...]:
    return tuple(
        Token("?", None) if start < 0 else Token(_slice(text, start, end), _piece(pieces, start, size) % len(COLOURS))
        for start, end in zip(said.starts.tolist(), said.ends.tolist(), strict=True)
    )


def _slice(text: str, start: int, end: int) -> str:
    """The bytes of one token; a part of a character is shown in hexadecimal."""
    piece = text.encode("utf-8")[start:end]
    if not piece:
        return END
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in piece)


def _row(encoded: Encoded, tokenizer: Any, answers: dict[int, Token]) -> tuple[Token, ...]:
    """What is read, position by position; what is asked for after the last position is added at the end."""
    ids = encoded.input_ids.tolist()
    row: list[Token] = []
    at = 0
    while at < len(ids):
        if at in answers:
            row.append(answers[at])
            at += 1
            continue
        end = at
        while end < len(ids) and end not in answers and ids[end] == ids[at]:
            end += 1
        name = tokenizer.decode([ids[at]])
        row.append(Token(name if end - at == 1 else f"{name}×{end - at}"))
        at = end
    if len(ids) and encoded.shift_labels[-1] != IGNORE and len(ids) in answers:
        row.append(answers[len(ids)])
    return tuple(row)


def visible(text: str) -> str:
    """Blanks and line breaks as marks."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


LEGEND = (
    "coloured: asked for (label); dim: read only; struck out: cut off; one colour: the same bytes. "
    "targets: A anchored, i interior, - none"
)


def render_example(view: ExampleView, legend: bool = True) -> Group:
    """For the terminal: the row with its labels in colour, then each answer as both models read it.

    Struck out: tokens of an answer that the row has no room for.
    """
    lines = [_line("student reads", view.row)]
    for number, answer in enumerate(view.answers, 1):
        name = "" if len(view.answers) == 1 else f" {number}"
        lines.append(_line(f"student{name}", answer.student))
        if answer.teacher:
            lines.append(_line(f"teacher{name}", answer.teacher))
            lines.append(_kinds_line(answer.student))
    if legend:
        lines.append(Text(LEGEND, style="dim italic"))
    if view.truncated:
        lines.append(Text("the row was cut at max_length", style="yellow"))
    return Group(*lines)


def _line(name: str, tokens: Sequence[Token]) -> Text:
    line = Text(name.ljust(16), style="bold")
    for index, token in enumerate(tokens):
        if index:
            line.append("|", style="not bold dim")
        line.append(visible(token.text), style=_style(token))
    return line


def _style(token: Token) -> str:
    if token.colour is None:
        return "not bold dim"
    return f"not bold black on {COLOURS[token.colour]}{' strike' if token.cut else ''}"


_MARKS = {"anchored": "A", "interior": "i", "none": "-"}


def _kinds_line(tokens: Sequence[Token]) -> Text:
    """Under each student token: does the teacher say anything there? Without blanks, so that it wraps like its line."""
    line = Text("targets".ljust(16), style="bold")
    for index, token in enumerate(tokens):
        if index:
            line.append("|", style="not bold dim")
        mark = _MARKS.get(token.kind or "", " ")
        line.append(mark, style="not bold " + ("red" if mark == "-" else "green"))
        line.append("." * (len(visible(token.text)) - 1), style="not bold dim")
    return line


@dataclass(frozen=True)
class Shares:
    """How many positions of each kind; `of(kind)` as a share."""

    anchored: int = 0
    interior: int = 0
    none: int = 0

    @property
    def positions(self) -> int:
        return self.anchored + self.interior + self.none

    def __str__(self) -> str:
        total = max(self.positions, 1)
        return (
            f"{self.anchored / total:.1%} anchored, {self.interior / total:.1%} interior, "
            f"{self.none / total:.1%} without a target ({self.positions:,} positions)"
        )


def count_kinds(targets: Sequence[ResponseTargets]) -> Shares:
    """Over many responses."""
    kinds = np.concatenate([item.kinds for item in targets]) if targets else np.zeros(0, dtype=np.int8)
    return Shares(*(int((kinds == kind).sum()) for kind in (ANCHORED, INTERIOR, NONE)))
