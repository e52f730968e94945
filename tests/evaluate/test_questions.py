"""Answers of an earlier evaluation are scored again only where they are whole and belong to its result."""

import dataclasses
import json
import shutil

import pytest

from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.evaluate.questions import benchmarks_of, find_data, find_path, read_answered, read_ids, title_of
from embervlm.evaluate.results import predictions_path
from embervlm.evaluate.runner import evaluate
from embervlm.evaluate.vqa import score_vqa
from tests.evaluate.test_runner import ALL, Oracle
from tests.evaluate.world import save


@pytest.fixture
def saved(prepared, tmp_path):
    result = evaluate(Oracle("vqa-4"), prepared, ALL, progress=False, settings={"dataset_path": str(prepared.folder)})
    save(result, prepared, tmp_path / "eval.json")
    return tmp_path / "eval.json", result


def test_scores_are_those_of_the_evaluation(saved, prepared):
    path, result = saved
    records = prepared.records("val")
    for name, mean in (("vqa", 5 / 6), ("okvqa", 1.0), ("instruct", 1.0)):
        found = read_answered(path, result, name, records)
        assert sum(one.score for one in found) / len(found) == pytest.approx(mean)
    wrong = [one for one in read_answered(path, result, "vqa", records) if one.score == 0]
    assert [(one.record.id, one.answer) for one in wrong] == [("vqa-4", "no idea")]
    assert read_ids(path, "instruct") == {"llava-3", "llava-7", "llava-11"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "does not belong to .*its 5 answers score 80.00%.*83.33% of 6"),
        (lambda rows: [{**rows[0], "answer": "no"}, *rows[1:]], "does not belong"),
        (lambda rows: [*rows, rows[0]], "question 1000 is answered twice"),
        (lambda rows: [*rows, {"question_id": 5, "answer": "x"}], "answers 1 questions that split val .*the first: 5"),
        (lambda rows: [{**rows[0], "answer": 3}], "entry 1 has no question_id or its answer is no text"),
        (lambda rows: {"answers": rows}, "expected a list of question_id and answer"),
    ],
)
def test_changed_answers_are_refused(saved, prepared, change, said):
    """A figure that does not belong to the answers beside it would be compared as if it did."""
    path, result = saved
    beside = predictions_path(path, "vqa")
    beside.write_text(json.dumps(change(json.loads(beside.read_text()))))
    with pytest.raises(UserError, match=said):
        read_answered(path, result, "vqa", prepared.records("val"))


def test_answers_out_of_a_closed_set_are_a_benchmark_of_their_own(saved, prepared):
    path, result = saved
    said = dict.fromkeys(result.predictions["vqa"], "no")
    scores = score_vqa([record for record in prepared.records("val") if record.id in said], list(said.values()))
    both = dataclasses.replace(result, closed={"vqa": scores}, predictions={**result.predictions, "vqa_closed": said})
    save(both, prepared, path)
    found = read_answered(path, both, "vqa_closed", prepared.records("val"))
    assert {one.answer for one in found} == {"no"} and title_of("vqa_closed") == "VQA, closed set"
    assert benchmarks_of(both)["vqa_closed"][1] == pytest.approx(sum(one.score for one in found) / 6)
    assert sum(one.score for one in found) == 2  # "Is it red?" of the pictures that are not


def test_missing_answers_are_named(saved, prepared):
    path, result = saved
    predictions_path(path, "okvqa").unlink()
    with pytest.raises(UserError, match="eval_predictions_okvqa.json is missing"):
        read_answered(path, result, "okvqa", prepared.records("val"))


def test_data_is_found_where_it_was_and_only_while_it_is_the_same(saved, prepared, tmp_path):
    path, result = saved
    assert find_data(result, path.parent).folder == prepared.folder
    copy = tmp_path / "copy"
    shutil.copytree(prepared.folder, copy)
    result.settings["dataset_path"] = "copy"  # of a command that ran in tmp_path
    assert find_data(result, path.parent).folder == open_prepared(copy).folder
    with (copy / "val.jsonl").open("a") as file:
        file.write("\n")
    assert find_data(result, path.parent) is None
    assert find_path("nowhere", tmp_path) is None and find_path(None, tmp_path) is None
