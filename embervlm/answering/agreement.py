"""How far an answer of the teacher agrees with what the data says."""

from __future__ import annotations

from collections.abc import Sequence

from embervlm.data.record import Record
from embervlm.evaluate.instruct import instruction_score
from embervlm.evaluate.vqa import vqa_accuracy


def agreement(record: Record, said: Sequence[str]) -> float | None:
    """0 to 1, by the scores of `embervlm evaluate`, so that what is kept is what would earn points there.

    The mean over the turns that have a reference: the official VQA accuracy where several people answered, else the
    instruction score. None: there is no reference.

    Args:
        said: the teacher's answer in each turn.
    """
    scores = []
    for turn, ((question, reference), answer) in enumerate(zip(record.turns(), said, strict=True)):
        if turn == 0 and record.answers:
            scores.append(vqa_accuracy(answer, record.answers))
        elif reference.strip():
            scores.append(instruction_score(answer, reference, question).score)
    return sum(scores) / len(scores) if scores else None
