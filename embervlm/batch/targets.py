"""What the teacher said about a batch's responses, in the student's tokens: from a cache or from a live teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.batch.encode import Encoded
from embervlm.batch.memo import TARGET_BYTES, Memo
from embervlm.data.record import Record
from embervlm.distill.project import respond
from embervlm.distill.targets import NONE, ResponseTargets, TokenMap
from embervlm.distill.variants import TARGETS
from embervlm.errors import UserError
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs

LookUp = Callable[[Sequence[Record]], Sequence[Sequence[TeacherOutputs]]]
"""For each record what the teacher said about its assistant turns, or `SILENT`."""

SILENT: Sequence[TeacherOutputs] = ()
"""One of several teachers says nothing about a record."""


class TeacherTargets:
    """Looks up (or asks) the teacher, projects onto the student's tokens, remembers the result.

    The caller does not know whether the teacher is a cache or a model: both are a `LookUp`.
    """

    def __init__(
        self,
        look_up: LookUp,
        token_map: TokenMap,
        student_tokenizer: Any,
        targets: str = "resolved",
        memory: int = TARGET_BYTES,
    ):
        self._project = TARGETS[targets]
        self._look_up = look_up
        self._token_map = token_map
        self._tokenizer = student_tokenizer
        self._kept: Memo[tuple[ResponseTargets, ...]] = Memo(memory)

    def told_as(self, targets: str) -> TeacherTargets:
        """The same teacher, projected in another way; itself where it is projected so already."""
        if TARGETS[targets] is self._project:
            return self
        return TeacherTargets(self._look_up, self._token_map, self._tokenizer, targets)

    def __call__(self, records: Sequence[Record], encoded: Sequence[Encoded]) -> list[list[ResponseTargets]]:
        """For each record one ResponseTargets per entry of `Encoded.responses`, cut like the row is cut.

        Where the teacher says nothing about a record, no position of it has a target.
        """
        found = [self._kept.get(record.id) for record in records]
        # A sample that is asked for nothing says nothing about its record, which it may show without its picture.
        missing = [index for index, targets in enumerate(found) if targets is None and encoded[index].responses]
        if missing:
            for index, said in zip(missing, self._ask([records[i] for i in missing]), strict=True):
                found[index] = said
                self._kept.put(records[index].id, said, sum(512 + targets.nbytes for targets in said))
        cut: list[list[ResponseTargets]] = []
        for row, targets in zip(encoded, found, strict=True):
            if not row.responses:
                cut.append([])
                continue
            assert targets is not None
            kept = [(reply.turn, reply.kept(len(row.input_ids))) for reply in row.responses]
            cut.append([targets[turn].first(count) if targets else _silence(count) for turn, count in kept])
        return cut

    def _ask(self, records: Sequence[Record]) -> list[tuple[ResponseTargets, ...]]:
        texts: list[str] = []
        said: list[TeacherOutputs] = []
        counts = []
        for record, outputs in zip(records, self._look_up(records), strict=True):
            if outputs is SILENT:
                counts.append(0)
                continue
            answers = [answer for _, answer in record.turns()]
            if [output.turn for output in outputs] != list(range(len(answers))):
                raise UserError(
                    f"Record {record.id} has {len(answers)} answers, the teacher's outputs are about turns "
                    f"{[output.turn for output in outputs]}: they were made for other data. "
                    "Run cache_teacher_outputs.py again on this data."
                )
            texts += answers
            said += outputs
            counts.append(len(answers))
        projected = iter(self._project(respond(texts, said, self._tokenizer), self._token_map))
        return [tuple(next(projected) for _ in range(count)) for count in counts]


def from_cache(cache: Any, folder: Path, alone: bool = True) -> LookUp:
    """A LookUp into a `TeacherCache`.

    Args:
        alone: a record that is not there is an error: training never goes on without a teacher. One of several
            teachers may say nothing about it.
    """

    def look_up(records: Sequence[Record]) -> list[Sequence[TeacherOutputs]]:
        found = []
        for record in records:
            outputs = cache.get(record.id)
            if outputs is None and alone:
                raise UserError(
                    f"The teacher cache {folder} has nothing about record {record.id}: it was made for other data or "
                    "not to its end. Run cache_teacher_outputs.py again on this data (it continues where it stopped)."
                )
            found.append(SILENT if outputs is None else outputs)
        return found

    return look_up


def from_teacher(teacher: Any, image_root: Path, top_k: int) -> LookUp:
    """A LookUp that asks a live teacher."""
    return lambda records: teacher.score(list(records), image_root, top_k)


def _silence(count: int) -> ResponseTargets:
    """So many positions without a target."""
    return ResponseTargets(
        np.full(count, NONE, dtype=np.int8),
        np.empty((count, 0), dtype=np.int32),
        np.empty((count, 0), dtype=np.float32),
        np.full((count, len(TEMPERATURE_GRID)), -np.inf, dtype=np.float32),
    )
