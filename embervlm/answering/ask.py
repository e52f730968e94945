"""Asking: every record, every sample, turn by turn, the teacher's own earlier answers as its history."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embervlm.answering.said import Key, Said
from embervlm.data.record import Record
from embervlm.teachers.outputs import Sampling, Teacher


@dataclass(frozen=True)
class Asking:
    """How the teacher is asked."""

    max_new_tokens: int
    samples: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def sampling(self, keys: Sequence[Key], turn: int) -> Sampling | None:
        """None: greedy. Each answer has a seed of its own: it is the same in any batch, and after any interruption."""
        if not self.do_sample:
            return None
        return Sampling(self.temperature, self.top_p, [_seed(self.seed, key, turn) for key in keys])


Job = tuple[Key, Record]


def jobs_of(records: Mapping[str, Sequence[Record]], samples: int) -> list[Job]:
    """All that is to be asked about the records of each split."""
    return [
        (Key(split, record.id, sample), record)
        for split, some in records.items()
        for record in some
        for sample in range(samples)
    ]


def plan(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """In batches of like length.

    Text alone comes first, then the longest: what a teacher cannot read, or has no memory for, shows at the start.
    """
    jobs = sorted(jobs, key=lambda job: (job[1].image is not None, -len(job[1].turns()), -_length(job[1]), job[0]))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def ask_all(
    teacher: Teacher,
    batches: Sequence[Sequence[Job]],
    image_root: Path,
    asking: Asking,
    add: Callable[[dict[Key, Said]], None],
    tell: Callable[[int], None],
) -> None:
    """Each batch is given to `add` when it is answered, and its size to `tell`."""
    for batch in batches:
        add(_ask(teacher, batch, image_root, asking))
        tell(len(batch))


def _ask(teacher: Teacher, batch: Sequence[Job], image_root: Path, asking: Asking) -> dict[Key, Said]:
    said = {key: Said((), finished=True) for key, _ in batch}
    open_jobs, turn = list(batch), 0
    while open_jobs:
        keys = [key for key, _ in open_jobs]
        asked = [_up_to(record, said[key].turns) for key, record in open_jobs]
        answers = teacher.answer(asked, image_root, asking.max_new_tokens, asking.sampling(keys, turn))
        for key, answer in zip(keys, answers, strict=True):
            said[key] = said[key].goes_on(answer)
        turn += 1
        open_jobs = [
            (key, record)
            for key, record in open_jobs
            if turn < len(record.turns()) and said[key].finished and not said[key].empty
        ]
    return said


def _up_to(record: Record, said: Sequence[str]) -> Record:
    """The conversation as far as the teacher led it, and the question that comes next."""
    questions = [question for question, _ in record.turns()][: len(said) + 1]
    turns = tuple(zip(questions, (*said, ""), strict=True))
    return replace(record, instruction=turns[0][0], response=turns[0][1], conversations=turns)


def _length(record: Record) -> int:
    """Bytes of all questions: what the prompt's length depends on before anything is said."""
    return sum(len(question.encode("utf-8")) for question, _ in record.turns())


def _seed(seed: int, key: Key, turn: int) -> int:
    text = f"{seed} {key.split} {key.record_id} {key.sample} {turn}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")
