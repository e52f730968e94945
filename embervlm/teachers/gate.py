"""Before hours of scoring: does the teacher know this data better than somebody who only counts words?

A wrong chat template, questions worded as the teacher never heard them, pictures in another order or a wrong dtype do
not stop a teacher from giving probabilities. They show in how much the references surprise it. Each source is looked at
alone: long texts, whose every word follows from the one before, would hide one of short answers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from embervlm.console import console
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.outputs import Teacher, TeacherOutputs

SAMPLES, FEWEST = 200, 100
"""Records of a source that are scored, and how many there must be to judge it by."""

OTHERS = "the smaller sources"
"""Name of the records whose sources are each too small to be judged alone."""

ADVICE = (
    "Its questions may be worded as the teacher does not know them (prepare --vqa_prompt), the chat template, the "
    "pictures or the dtype may be wrong; `embervlm test-teacher` shows an answer."
)


@dataclass(frozen=True)
class Surprise:
    """Nats a token of the teacher's on the answers of one source, and those of somebody who only counts words."""

    teacher: float
    counted: float

    @property
    def worse(self) -> bool:
        return self.teacher > self.counted

    @classmethod
    def of(cls, said: Sequence[TeacherOutputs]) -> Surprise:
        nats = np.concatenate([-turn.realised_logprobs for turn in said]).mean(dtype=np.float64)
        return cls(float(nats), unigram_surprise([turn.token_ids for turn in said]))


def draw_by_source(records: Sequence[Record], most: int, fewest: int = 1, seed: int = 0) -> dict[str, list[Record]]:
    """At most so many records of each source, drawn by `seed`. Sources of less than `fewest` records are drawn from
    together, as `OTHERS`, and left out where they are less than `fewest` even so."""
    sources: dict[str, list[Record]] = {}
    for record in records:
        sources.setdefault(record.source, []).append(record)
    groups = {name: some for name, some in sorted(sources.items()) if len(some) >= fewest}
    small = [record for name, some in sorted(sources.items()) if name not in groups for record in some]
    if len(small) >= fewest:
        groups[OTHERS] = small
    return {name: random.Random(seed).sample(some, min(most, len(some))) for name, some in groups.items()}


def check_teacher(teacher: Teacher, prepared: PreparedSet, split: str, batch_size: int) -> None:
    """Score a few records of each source of a split; UserError where the references of one surprise the teacher more
    than a unigram model."""
    drawn = draw_by_source(prepared.records(split), SAMPLES, FEWEST)
    batches = [
        (name, some[start : start + batch_size])
        for name, some in drawn.items()
        for start in range(0, len(some), batch_size)
    ]
    said: dict[str, list[TeacherOutputs]] = {name: [] for name in drawn}
    title = f"asking {teacher.name} about {sum(map(len, drawn.values()))} records first"
    for name, batch in track(batches, title, console=console, transient=True):
        for turns in teacher.score(batch, prepared.image_root, 1):
            said[name] += turns
    found = {name: Surprise.of(turns) for name, turns in said.items()}
    worse = {name: surprise for name, surprise in found.items() if surprise.worse}
    if worse:
        told = ", ".join(
            f"{one.teacher:.2f} nats a token on {len(drawn[name])} records of {name} against {one.counted:.2f}"
            for name, one in worse.items()
        )
        raise UserError(
            f"{teacher.name} finds the answers of {prepared.folder} less likely than counting words does: {told}. "
            f"{ADVICE} --force goes on anyway."
        )


def unigram_surprise(answers: Sequence[np.ndarray]) -> float:
    """Mean nats a token of each half of the answers under the word counts of the other, one added to every count."""
    halves = answers[::2], answers[1::2]
    total = sum(len(answer) for answer in answers)
    words = {int(token) for answer in answers for token in answer}
    nats = 0.0
    for known, asked in (halves, halves[::-1]):
        counts = Counter(int(token) for answer in known for token in answer)
        size = sum(counts.values()) + len(words)
        nats -= sum(float(np.log((counts[int(token)] + 1) / size)) for answer in asked for token in answer)
    return nats / max(total, 1)
