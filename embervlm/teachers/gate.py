"""Before hours of scoring: does the teacher know this data better than somebody who only counts words?

A wrong chat template, pictures in another order or a wrong dtype do not stop a teacher from giving probabilities. They
show in how much the references surprise it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.progress import track

from embervlm.console import console
from embervlm.data.prepared import PreparedSet
from embervlm.errors import UserError
from embervlm.teachers.outputs import Teacher, TeacherOutputs

SAMPLES, FEWEST = 200, 100
"""Records that are scored, and how many there must be to judge by."""


def check_teacher(teacher: Teacher, prepared: PreparedSet, split: str, batch_size: int) -> None:
    """Score a few records of a split; UserError where the references surprise the teacher more than a unigram model."""
    records = prepared.records(split)
    if len(records) < FEWEST:
        return
    drawn = random.Random(0).sample(records, min(SAMPLES, len(records)))
    said: list[TeacherOutputs] = []
    title = f"asking {teacher.name} about {len(drawn)} records first"
    for start in track(range(0, len(drawn), batch_size), title, console=console, transient=True):
        for turns in teacher.score(drawn[start : start + batch_size], prepared.image_root, 1):
            said += turns
    teachers = float(np.concatenate([-turn.realised_logprobs for turn in said]).mean(dtype=np.float64))
    counted = unigram_surprise([turn.token_ids for turn in said])
    if teachers > counted:
        raise UserError(
            f"{teacher.name} finds the answers of {prepared.folder} less likely than counting words does: "
            f"{teachers:.2f} nats a token on {len(drawn)} records against {counted:.2f}. Wrong chat template, pictures "
            "of other questions, or a wrong dtype? `embervlm test-teacher` shows an answer; --force goes on anyway."
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
