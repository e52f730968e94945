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
from embervlm.inspection.marks import END, Names, spell, visible
from embervlm.teachers.outputs import TeacherOutputs
from embervlm.tokens import Spans, encode_spans

COLOURS = ("#ffd166", "#9ad1f5", "#b7e4a8", "#f4b6c2", "#d7c2f2", "#f7c59f")
"""Backgrounds for black letters, in turn."""
KIND_NAMES = {ANCHORED: "anchored", INTERIOR: "interior", NONE: "none"}


@dataclass(frozen=True)
class Token:
    """One token as people see it."""

    text: str
    colour: int | None = None  # place in COLOURS; None: not part of an answer
    cut: bool = False  # beyond the end of the row: the student does not read it and is not asked for it
    kind: str | None = None  # anchored / interior / none; None: no teacher
    place: tuple[int, int] | None = None  # which answer, and which of its tokens


@dataclass(frozen=True)
class AnswerView:
    """One assistant turn."""

    student: tuple[Token, ...]
    teacher: tuple[Token, ...]  # empty without a teacher


@dataclass(frozen=True)
class ExampleView:
    """One record. `row`: what the student reads, prompt included, and what is cut off; runs of one token are folded."""

    record_id: str
    image: str | None
    row: tuple[Token, ...]
    answers: tuple[AnswerView, ...]
    truncated: bool
    cut_tokens: int = 0  # that the row has no room for, where the whole sample was given
    cut_labels: int = 0  # of them of an answer, its end included


def shows_much(encoded: Encoded) -> tuple[bool, int]:
    """For choosing an example: one turn rather than many, about a dozen tokens rather than one or a hundred."""
    first, *more = encoded.responses
    return not more, -abs(len(first.ids) - 12)


def view_example(
    encoded: Encoded,
    tokenizer: Any,
    outputs: Sequence[TeacherOutputs] | None = None,
    targets: Sequence[ResponseTargets] | None = None,
    whole: Encoded | None = None,
) -> ExampleView:
    """Lay out one encoded record.

    Args:
        outputs: the teacher on every assistant turn of the record; None: no teacher.
        targets: one per entry of `encoded.responses`; None: no teacher.
        whole: the same record without a limit of length, to show what was cut off.
    """
    shown = encoded if whole is None else whole
    answers, at = [], {}
    for index, response in enumerate(shown.responses):
        spans = encode_spans(tokenizer, response.text)
        size = len(response.text.encode("utf-8"))
        student = Spans(response.ids, np.append(spans.starts, size), np.append(spans.ends, size))
        said = None if outputs is None else outputs[response.turn]
        pieces = _common_pieces(student, said, size)
        kinds = None if targets is None or index >= len(targets) else targets[index].kinds
        kept = response.kept(len(encoded.input_ids))
        tokens = tuple(
            Token(
                _slice(response.text, start, end),
                _piece(pieces, start, size) % len(COLOURS),
                cut=j >= kept,
                kind=None if kinds is None or j >= len(kinds) else KIND_NAMES[int(kinds[j])],
                place=(index, j),
            )
            for j, (start, end) in enumerate(zip(student.starts, student.ends, strict=True))
        )
        teacher = () if said is None else _teacher_tokens(said, response.text, pieces, size)
        answers.append(AnswerView(tokens, teacher))
        at.update({response.first + 1 + j: token for j, token in enumerate(tokens)})
    row = _row(shown, Names(tokenizer), at, len(encoded.input_ids))
    cut = cut_from(encoded, shown)
    return ExampleView(encoded.record_id, encoded.image, row, tuple(answers), encoded.truncated, *cut)


def cut_from(encoded: Encoded, whole: Encoded) -> tuple[int, int]:
    """How many tokens the student neither reads nor is asked for, and how many of them are labels of the whole."""
    labels, all_labels = (int((row.shift_labels != IGNORE).sum()) for row in (encoded, whole))
    asked_last = bool(len(encoded.shift_labels)) and bool(encoded.shift_labels[-1] != IGNORE)  # though not read
    tokens = len(whole.input_ids) + 1 - len(encoded.input_ids) - int(asked_last) if encoded.truncated else 0
    return tokens, all_labels - labels


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
    """The bytes of one token; the end of text has none."""
    return spell(text.encode("utf-8")[start:end]) or END


def _row(shown: Encoded, names: Names, answers: dict[int, Token], room: int) -> tuple[Token, ...]:
    """What is read, position by position; what is asked for after the last position is added at the end.

    Args:
        room: positions of the row; tokens of the prompt from there on are cut.
    """
    ids = shown.input_ids.tolist()
    row: list[Token] = []
    at = 0
    while at < len(ids):
        if at in answers:
            row.append(answers[at])
            at += 1
            continue
        end = at
        while end < len(ids) and end not in answers and ids[end] == ids[at] and (end < room) == (at < room):
            end += 1
        name = names(ids[at])
        row.append(Token(name if end - at == 1 else f"{name}×{end - at}", cut=at >= room))
        at = end
    if len(ids) and shown.shift_labels[-1] != IGNORE and len(ids) in answers:
        row.append(answers[len(ids)])
    return tuple(row)


LEGEND = (
    "coloured: asked for (label); dim: read only; struck out: cut off; one colour: the same bytes. "
    "targets: A anchored, i interior, - none"
)


def render_example(view: ExampleView, legend: bool = True) -> Group:
    """For the terminal: the row with its labels in colour, then each answer as both models read it.

    Struck out: tokens of an answer that the row has no room for.
    """
    lines = [token_line("student reads", view.row)]
    for number, answer in enumerate(view.answers, 1):
        name = "" if len(view.answers) == 1 else f" {number}"
        lines.append(token_line(f"student{name}", answer.student))
        if answer.teacher:
            lines.append(token_line(f"teacher{name}", answer.teacher))
            lines.append(_kinds_line(answer.student))
    if legend:
        lines.append(Text(LEGEND, style="dim italic"))
    if view.truncated:
        lines.append(Text(cut_words(view), style="yellow"))
    return Group(*lines)


def cut_words(view: ExampleView) -> str:
    """What the end of the row took away."""
    if not view.cut_tokens or all(not token.cut for token in view.row):
        return "the row was cut at max_length"
    answer = (
        f"{view.cut_labels:,} of them of an answer: they are not trained" if view.cut_labels else "none of an answer"
    )
    return f"the row was cut at max_length: {view.cut_tokens:,} tokens, {answer}"


def token_line(name: str, tokens: Sequence[Token]) -> Text:
    """For the terminal: a name and tokens in their colours."""
    line = Text(name.ljust(16), style="bold")
    for index, token in enumerate(tokens):
        if index:
            line.append("|", style="not bold dim")
        line.append(visible(token.text), style=_style(token))
    return line


def _style(token: Token) -> str:
    if token.colour is None:
        return f"not bold dim{' strike' if token.cut else ''}"
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
