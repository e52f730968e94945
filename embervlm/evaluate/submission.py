"""Answers from a file in VQA's submission form, checked against the questions that were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embervlm.errors import UserError
from embervlm.evaluate.results import read_json

if TYPE_CHECKING:
    from embervlm.data.record import Record


def read_answers(paths: Sequence[Path], asked: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    """Record id -> answer, for every question of `asked` (benchmark -> its records).

    A row is {"question_id": the question's number, or the record's id, "answer": text}.

    Raises:
        UserError: not such a list; a question that nobody answered, that was answered twice, or that was not asked.
    """
    ids: dict[str, str] = {}
    for records in asked.values():
        for record in records:
            for key in {str(record.metadata.get("question_id", record.id)), record.id}:
                if ids.setdefault(key, record.id) != record.id:
                    raise UserError(
                        f"Question {key} is in two benchmarks ({', '.join(asked)}), so a file of answers does not say "
                        "which is meant; give --benchmarks one at a time."
                    )
    answers: dict[str, str] = {}
    foreign: list[str] = []
    for path in paths:
        for key, text in _rows(path):
            if key not in ids:
                foreign.append(key)
            elif ids[key] in answers:
                raise UserError(f"{path} answers question {key} twice; one answer counts, so take the other out.")
            else:
                answers[ids[key]] = text
    where = ", ".join(map(str, paths))
    if foreign:
        raise UserError(
            f"{where} answers {len(foreign):,} questions that were not asked, the first is {foreign[0]}: it belongs to "
            "another split or benchmark, or --max_samples asks only a part."
        )
    missing = [key for key, record in ids.items() if record not in answers]
    count = len(set(ids.values())) - len(answers)
    if count:
        raise UserError(
            f"{where} lacks the answers to {count:,} of {len(set(ids.values())):,} questions, the first is "
            f'{missing[0]}; an empty answer is written as "".'
        )
    return answers


def _rows(path: Path) -> list[tuple[str, str]]:
    data = read_json(path)
    if not isinstance(data, list):
        raise UserError(f'{path} is no list of answers; expected [{{"question_id": 1, "answer": "yes"}}, ...].')
    return [_row(path, number, row) for number, row in enumerate(data, start=1)]


def _row(path: Path, number: int, row: Any) -> tuple[str, str]:
    if not isinstance(row, dict) or "question_id" not in row or "answer" not in row:
        raise UserError(f'{path}, answer {number}: expected {{"question_id": .., "answer": ".."}}, found {row!r:.80}.')
    key, answer = row["question_id"], row["answer"]
    if not isinstance(answer, str) or isinstance(key, bool) or not isinstance(key, int | str):
        kinds = f"a question_id of type {type(key).__name__} and an answer of type {type(answer).__name__}"
        raise UserError(f"{path}, answer {number}: {kinds}; expected a number or text, and a text.")
    return str(key), answer
