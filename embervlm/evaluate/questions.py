"""One question at a time: its record, the answer, and the official score of it, also from files of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.errors import UserError
from embervlm.evaluate.benchmarks import BENCHMARKS
from embervlm.evaluate.instruct import instruction_score
from embervlm.evaluate.results import EvalResult, predictions_path, read_json
from embervlm.evaluate.vqa import record_accuracy

if TYPE_CHECKING:
    from embervlm.data.record import Record

CLOSED = "_closed"
"""Ends the name of a benchmark that was answered out of a closed set."""

SAME = 1e-6
"""Two computations of one mean differ by less than this."""


@dataclass(frozen=True)
class Answered:
    """One question of a benchmark, an answer, and its score: VQA accuracy or instruction score, 0 to 1."""

    record: Record
    answer: str
    score: float


def title_of(benchmark: str) -> str:
    base = benchmark.removesuffix(CLOSED)
    return BENCHMARKS[base].title + (", closed set" if base != benchmark else "")


def benchmarks_of(result: EvalResult) -> dict[str, tuple[int, float, tuple[float, float]]]:
    """What a result measured: benchmark -> questions, mean score, 95% interval."""
    found = {name: scores.overall for name, scores in result.vqa.items()}
    found |= {f"{name}{CLOSED}": scores.overall for name, scores in result.closed.items()}
    kept = {name: (share.n, share.accuracy, share.interval) for name, share in found.items()}
    if result.instruct is not None:
        kept["instruct"] = (result.instruct.n, result.instruct.score, result.instruct.interval)
    return kept


def score_answer(benchmark: str, record: Record, answer: str) -> float:
    """The official score of one answer, 0 to 1."""
    if benchmark == "instruct":
        return instruction_score(answer, record.response, record.instruction).score
    return record_accuracy(answer, record)


def answered(benchmark: str, records: Sequence[Record], answers: Mapping[str, str]) -> list[Answered]:
    """The questions that have an answer (`answers`: record id -> text), scored."""
    source = BENCHMARKS[benchmark.removesuffix(CLOSED)].source
    return [
        Answered(record, answers[record.id], score_answer(benchmark, record, answers[record.id]))
        for record in records
        if record.id in answers and record.source == source
    ]


def read_answered(path: Path, result: EvalResult, benchmark: str, records: Sequence[Record]) -> list[Answered]:
    """The answers beside the result at `path`, scored again.

    Raises:
        UserError: the file is missing or damaged, has ids that the data set does not have, or its score is another
            than the result's.
    """
    beside = predictions_path(path, benchmark)
    answers = _by_id(beside)
    source = BENCHMARKS[benchmark.removesuffix(CLOSED)].source
    known = {
        str(record.metadata.get("question_id", record.id)): record for record in records if record.source == source
    }
    if extra := [name for name in answers if name not in known]:
        raise UserError(
            f"{beside} answers {len(extra):,} questions that split {result.split} of the data set does not have (the "
            f"first: {extra[0]}); run embervlm evaluate again."
        )
    found = answered(benchmark, records, {known[name].id: answer for name, answer in answers.items()})
    asked, mean, _ = benchmarks_of(result)[benchmark]
    again = sum(question.score for question in found) / len(found) if found else 0.0
    if len(found) != asked or abs(again - mean) > SAME:
        raise UserError(
            f"{beside} does not belong to {path}: its {len(found):,} answers score {100 * again:.2f}%, where the "
            f"result says {100 * mean:.2f}% of {asked:,}. One of the two was changed; run embervlm evaluate again."
        )
    return found


def read_ids(path: Path, benchmark: str) -> set[str]:
    """Ids of the questions, as text, that the result at `path` was asked; raises as `read_answered`."""
    return set(_by_id(predictions_path(path, benchmark)))


def _by_id(path: Path) -> dict[str, str]:
    """Question id as text -> answer."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing: it holds the single answers. Keep the files of one evaluation together, or run "
            "embervlm evaluate again."
        )
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} is damaged: expected a list of question_id and answer; run embervlm evaluate again.")
    answers: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "question_id" not in row or not isinstance(row.get("answer"), str):
            raise UserError(
                f"{path} is damaged: entry {number} has no question_id or its answer is no text; run embervlm evaluate "
                "again."
            )
        if (name := str(row["question_id"])) in answers:
            raise UserError(f"{path} is damaged: question {name} is answered twice; run embervlm evaluate again.")
        answers[name] = row["answer"]
    return answers


def find_data(result: EvalResult, beside: Path) -> PreparedSet | None:
    """The data set that a result was made on, where it is still there and still the same.

    beside: where the result lies; a relative path may start at any folder above.
    """
    folder = find_path(result.settings.get("dataset_path"), beside)
    if folder is None or not folder.is_dir():
        return None
    try:
        prepared = open_prepared(folder)
        return prepared if prepared.fingerprint(result.split) == result.data else None
    except UserError:
        return None


def find_path(named: object, beside: Path) -> Path | None:
    """A path that a result names: as it stands, else below a folder above the result, whose command ran elsewhere."""
    if not isinstance(named, str) or not named:
        return None
    places = [Path(named)]
    if not places[0].is_absolute():
        places += [folder / named for folder in (beside.resolve() / "_").parents]
    return next((place for place in places if place.exists()), None)
