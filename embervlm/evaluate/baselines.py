"""Answers that need no model: what a score must beat before it says anything about seeing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embervlm.evaluate.vqa import question_type

if TYPE_CHECKING:
    from embervlm.data.record import Record


class Majority:
    """Always the answer most often given in training to questions with the same key; ties go to the first by alphabet.

    Keys are tried from the narrowest: a question whose key was not seen in training falls back to the next one.
    """

    def __init__(self, keys: Sequence[Callable[[Record], Hashable]], train: Sequence[Record]) -> None:
        self.keys = keys
        counts: list[dict[Hashable, Counter[str]]] = [defaultdict(Counter) for _ in keys]
        for record in train:
            for key, table in zip(keys, counts, strict=True):
                table[key(record)][record.response] += 1
        self.tables = [{value: _most_common(counter) for value, counter in table.items()} for table in counts]

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        return [self._answer(record) for record in records]

    def _answer(self, record: Record) -> str:
        for key, table in zip(self.keys, self.tables, strict=True):
            if (value := key(record)) in table:
                return table[value]
        return ""


def majority_per_template(train: Sequence[Record]) -> Majority:
    """By data source and question type (`metadata["question_type"]`), else by source."""
    return Majority([_template, _source], train)


def majority_per_question(train: Sequence[Record]) -> Majority:
    """By the exact question, else by question type, else by source."""
    return Majority([_question, _template, _source], train)


def _question(record: Record) -> Hashable:
    return _source(record), record.instruction


def _template(record: Record) -> Hashable:
    return _source(record), question_type(record)


def _source(record: Record) -> Hashable:
    return record.source


def _most_common(counter: Counter[str]) -> str:
    return min(counter, key=lambda answer: (-counter[answer], answer))
