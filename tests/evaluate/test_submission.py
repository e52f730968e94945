"""Answers from a file are those of the questions that were asked, or the person is told which are not."""

import json
from pathlib import Path

import pytest

from embervlm.errors import UserError
from embervlm.evaluate.benchmarks import select
from embervlm.evaluate.command import run_evaluate
from embervlm.evaluate.results import load_result
from embervlm.evaluate.submission import read_answers
from embervlm.settings import EvaluateSettings


@pytest.fixture()
def asked(prepared):
    return select(prepared.records("val"), ("vqa", "okvqa"), "val")


def rows_of(asked) -> list[dict]:
    return [
        {"question_id": record.metadata["question_id"], "answer": record.response}
        for records in asked.values()
        for record in records
    ]


def written(folder: Path, rows) -> Path:
    path = folder / "answers.json"
    path.write_text(json.dumps(rows))
    return path


def test_by_question_number_or_by_record(asked, tmp_path):
    rows = rows_of(asked)
    truth = {record.id: record.response for records in asked.values() for record in records}
    assert read_answers([written(tmp_path, rows)], asked) == truth
    by_id = [{"question_id": record, "answer": answer} for record, answer in truth.items()]
    assert read_answers([written(tmp_path, by_id)], asked) == truth
    as_text = [{**row, "question_id": str(row["question_id"])} for row in rows]
    assert read_answers([written(tmp_path, as_text)], asked) == truth


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "lacks the answers to 1 of 9 questions, the first is 1000"),
        (lambda rows: [*rows, {"question_id": 7, "answer": "x"}], "answers 1 questions that were not asked.* 7"),
        (lambda rows: [*rows, rows[0]], "answers question 1000 twice"),
        (lambda rows: [{**rows[0], "answer": 3}, *rows[1:]], "answer 1: .*an answer of type int"),
        (lambda rows: [{**rows[0], "answer": None}, *rows[1:]], "an answer of type NoneType"),
        (lambda rows: [{**rows[0], "question_id": True}, *rows[1:]], "a question_id of type bool"),
        (lambda rows: ["yes", *rows], "answer 1: expected"),
        (lambda rows: {"1000": "red"}, "no list of answers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(asked, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        read_answers([written(tmp_path, change(rows_of(asked)))], asked)


def test_the_verb_scores_a_file_beside_the_guesses(prepared, asked, tmp_path, capsys):
    path = written(tmp_path, rows_of(asked))
    run_evaluate(
        EvaluateSettings(
            dataset_path=prepared.folder,
            output_file=tmp_path / "results" / "mine.json",
            benchmarks=("vqa", "okvqa"),
            predictions=(path,),
            device="cpu",
        )
    )
    result = load_result(tmp_path / "results" / "mine.json")
    assert result.system == "answers" and result.vqa["vqa"].overall.accuracy == 1
    assert result.baselines == ["mine_majority_per_template.json"]
    guess = load_result(tmp_path / "results" / "mine_majority_per_template.json")
    assert guess.vqa["vqa"].overall.accuracy < 1
    assert "majority per template" in capsys.readouterr().out
