"""Asking, scoring, and what is left on disk."""

import copy
import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from embervlm.data.prepared import open_prepared
from embervlm.data.record import write_records
from embervlm.errors import UserError
from embervlm.evaluate.answerers import MeanImage, ShuffledImages, StudentAnswerer, WithoutImage
from embervlm.evaluate.asking import ask
from embervlm.evaluate.benchmarks import select
from embervlm.evaluate.command import run_evaluate
from embervlm.evaluate.printing import print_result
from embervlm.evaluate.results import EvalResult, load_result, predictions_path, save_result
from embervlm.evaluate.runner import choose_subset, evaluate, evaluate_subset
from embervlm.settings import EvaluateSettings

ALL = ("vqa", "okvqa", "instruct")


class Oracle:
    """Knows every reference; notes how it was asked."""

    def __init__(self, wrong: str = "") -> None:
        self.batches: list[list[str]] = []
        self.limits: set[int] = set()
        self.wrong = wrong

    def answers(self, records, image_root, max_new_tokens):
        self.batches.append([record.id for record in records])
        self.limits.add(max_new_tokens)
        return ["no idea" if record.id == self.wrong else record.response for record in records]


def test_each_benchmark_takes_its_own_records(prepared):
    result = evaluate(Oracle(), prepared, ALL, progress=False)
    assert result.vqa["vqa"].overall.n == 6 and result.vqa["okvqa"].overall.n == 3 and result.instruct.n == 3
    assert result.vqa_accuracy == 1 and result.instruct.score == 1
    assert set(result.vqa["vqa"].by_answer_type) == {"yes/no", "other"}
    assert set(result.vqa["vqa"].by_question_type) == {"what color", "is it"}


def test_answers_come_back_to_their_own_questions(prepared):
    """Batches are sorted by length; an answer given to another record would score as wrong."""
    records = prepared.records("val")
    oracle = Oracle()
    assert ask(oracle, records, prepared.image_root, 8, batch_size=5) == [record.response for record in records]
    assert [len(batch) for batch in oracle.batches] == [5, 5, 2]


def test_a_subset_is_the_same_in_every_evaluation(prepared):
    records = prepared.records("val")
    first = select(records, ["vqa"], "val", 3, seed=1)
    assert first == select(records, ["vqa"], "val", 3, seed=1) and len(first["vqa"]) == 3
    assert first != select(records, ["vqa"], "val", 3, seed=2)


@pytest.mark.parametrize(
    ("benchmarks", "said"),
    [(["vqqa"], "Did you mean vqa"), ([], "No benchmark was named")],
)
def test_unknown_benchmarks_are_named(prepared, benchmarks, said):
    with pytest.raises(UserError, match=said):
        evaluate(Oracle(), prepared, benchmarks, progress=False)


def test_a_benchmark_without_records_is_an_error_not_a_zero(prepared):
    some = [record for record in prepared.records("val") if record.metadata["source"] != "ok_vqa"]
    with pytest.raises(UserError, match="needs records of source ok_vqa.*llava_instruct, vqa_v2"):
        select(some, ["okvqa"], "val")


def test_a_missing_split_is_an_error(prepared):
    with pytest.raises(UserError, match="test"):
        evaluate(Oracle(), prepared, ["vqa"], "test", progress=False)


def test_result_survives_the_disk_and_predictions_are_in_the_official_form(prepared, tmp_path):
    result = evaluate(
        Oracle(wrong="vqa-4"), prepared, ALL, name="student", progress=False, settings={"checkpoint": "x"}
    )
    ids = {record.id: record.metadata.get("question_id", record.id) for record in prepared.records("val")}
    path = tmp_path / "deep" / "eval.json"
    written = save_result(result, path, ids)
    assert [file.name for file in written] == [
        "eval.json", "eval_predictions_vqa.json", "eval_predictions_okvqa.json", "eval_predictions_instruct.json",
    ]  # fmt: skip
    loaded = load_result(path)
    assert loaded.vqa == result.vqa and loaded.instruct == result.instruct and loaded.settings["checkpoint"] == "x"
    rows = json.loads(predictions_path(path, "vqa").read_text())
    assert rows[0] == {"question_id": 1000, "answer": "red"} and {"question_id": 1004, "answer": "no idea"} in rows
    assert not list(path.parent.glob("*.partial"))


def test_a_file_that_is_no_result_is_refused_in_words(tmp_path):
    path = tmp_path / "other.json"
    for content in ("{}", "not json", '{"schema": "embervlm/evaluation-1"}'):
        path.write_text(content)
        with pytest.raises(UserError, match="other.json"):
            load_result(path)


def test_the_table_is_the_guides(prepared):
    console = Console(record=True, width=120)
    print_result(evaluate(Oracle(wrong="vqa-1"), prepared, ALL, progress=False), console)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines[0].startswith("VQA Accuracy: 83.3%")
    assert lines[1:3] == ["  Yes/No Questions: 66.7%", "  Other Questions: 100.0%"]
    assert lines[3] == "  by question type: is it 66.7%, what color 100.0%"
    assert any(line.startswith("Instruction Following Score: 1.000") for line in lines)


def test_a_quick_look_during_training_leaves_the_model_as_it_was(student, prepared):
    student.train()
    chosen, unread = choose_subset(student, prepared, "val", 1)
    first = evaluate_subset(student, prepared, chosen, 4)
    assert set(first) == {"vqa_accuracy", "instruct_score", "coherence"} and not unread
    assert student.training and first == evaluate_subset(student, prepared, chosen, 4)
    student.eval()


def test_answers_are_greedy_whatever_the_checkpoint_says(student, prepared, monkeypatch):
    """A result that says `do_sample: false` must be the same each time."""
    chosen, _ = choose_subset(student, prepared, "val", 6)
    records = [record for some in chosen.values() for record in some]
    greedy = StudentAnswerer(student).answers(records, prepared.image_root, 6)
    monkeypatch.setattr(student, "generation_config", copy.deepcopy(student.generation_config))
    student.generation_config.do_sample, student.generation_config.temperature = True, 5.0
    assert StudentAnswerer(student, {"num_beams": 1}).answers(records, prepared.image_root, 6) == greedy
    sampled = [evaluate_subset(student, prepared, chosen, 4, 1, {"do_sample": True}) for _ in range(2)]
    assert sampled[0] == sampled[1]


def long_world(prepared, tmp_path):
    """The data with one question of VQA that no student can read."""
    shutil.copytree(prepared.folder, tmp_path / "long")
    rows = [json.loads(line) for line in (tmp_path / "long" / "val.jsonl").open(encoding="utf-8")]
    rows.append({**rows[0], "id": "vqa-long", "instruction": "word " * 3000})
    (tmp_path / "long" / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_prepared(tmp_path / "long")


def test_a_question_longer_than_the_model_reads_is_wrong_and_told(student, prepared, tmp_path):
    """It stopped the evaluation; left out, a student that reads less would score more."""
    longer = long_world(prepared, tmp_path)
    result = evaluate(StudentAnswerer(student), longer, ("vqa",), batch_size=2, closed_answers=4, progress=False)
    assert result.unread == {"vqa": 1} and result.vqa["vqa"].overall.n == result.closed["vqa"].overall.n == 7
    assert result.predictions["vqa"]["vqa-long"] == result.predictions["vqa_closed"]["vqa-long"] == ""
    assert EvalResult.from_json(json.loads(json.dumps(result.to_json()))).unread == {"vqa": 1}
    console = Console(record=True, width=200)
    print_result(result, console)
    assert "1 of the VQA questions is longer than the model reads" in console.export_text()
    for other in (
        WithoutImage(StudentAnswerer(student)),
        ShuffledImages(StudentAnswerer(student), longer.records("val")),
        MeanImage(StudentAnswerer(student), longer.records("val"), longer.image_root),
    ):
        assert evaluate(other, longer, ("vqa",), progress=False).unread == {"vqa": 1}
    chosen, unread = choose_subset(student, longer, "val", 7)
    assert unread == ["vqa-long"] and len(chosen["vqa"]) == 6


def test_the_verb_evaluates_a_checkpoint(student, prepared, tmp_path):
    student.save_pretrained(tmp_path / "checkpoint-final")
    settings = EvaluateSettings(
        checkpoint=tmp_path / "checkpoint-final",
        dataset_path=prepared.folder,
        output_file=tmp_path / "results" / "eval.json",
        max_samples=2,
        max_new_tokens=4,
        device="cpu",
    )
    run_evaluate(settings)
    result = load_result(settings.output_file)
    assert result.system == "student" and result.vqa["vqa"].overall.n == 2
    assert result.settings["checkpoint"] == str(settings.checkpoint) and result.environment["torch"]
    kept = result.vqa, result.instruct
    answers = predictions_path(settings.output_file, "vqa").read_text()
    run_evaluate(settings)
    again = load_result(settings.output_file)
    assert (again.vqa, again.instruct) == kept and predictions_path(settings.output_file, "vqa").read_text() == answers


def asked_about(folder, student, tmp_path, **more):
    """`evaluate`, VQA of the data in `folder` alone."""
    student.save_pretrained(tmp_path / "checkpoint-final")
    return EvaluateSettings(
        checkpoint=tmp_path / "checkpoint-final",
        dataset_path=folder,
        output_file=tmp_path / "eval.json",
        benchmarks=("vqa",),
        max_new_tokens=4,
        device="cpu",
        **more,
    )


def test_both_decodings_are_told_apart(student, prepared, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(prepared.folder, folder)
    shutil.copyfile(folder / "val.jsonl", folder / "train.jsonl")
    settings = asked_about(folder, student, tmp_path, closed_answers=2)
    run_evaluate(settings)
    result = load_result(settings.output_file)
    assert result.closed["vqa"].overall.n == result.vqa["vqa"].overall.n
    said = {row["answer"] for row in json.loads(predictions_path(settings.output_file, "vqa_closed").read_text())}
    known = [record.response for record in prepared.records("val") if record.metadata["source"] == "vqa_v2"]
    assert said <= {answer for answer, _ in Counter(known).most_common(2)}
    assert "Out of a closed set of answers" in capsys.readouterr().out


def test_a_train_split_that_nobody_answered_is_no_end_of_an_evaluation(student, prepared, tmp_path, capsys):
    """The guesses are learnt from it; without any, they are left out, and what needs them is said at the start."""
    folder = tmp_path / "data"
    shutil.copytree(prepared.folder, folder)
    write_records(folder / "train.jsonl", [replace(record, response="") for record in prepared.records("val")[:2]])
    settings = asked_about(folder, student, tmp_path)
    run_evaluate(settings)
    assert load_result(settings.output_file).vqa["vqa"].overall.n
    assert "no majority_per_template" in " ".join(capsys.readouterr().out.split())
    run_evaluate(replace(settings, closed_answers=2, benchmarks=("instruct",)))  # long answers are in no set
    closed = replace(settings, closed_answers=2, checkpoint=tmp_path / "not loaded")
    with pytest.raises(UserError, match="have no response; let a teacher answer"):
        run_evaluate(closed)


def test_wrong_words_are_found_before_the_model_is_loaded(prepared, tmp_path):
    settings = EvaluateSettings(checkpoint=tmp_path / "none", dataset_path=prepared.folder, split="dev")
    with pytest.raises(UserError, match="dev"):
        run_evaluate(settings)


def test_student_answers_with_and_without_pictures_in_one_batch(student, prepared):
    import dataclasses

    records = [prepared.records("val")[0], dataclasses.replace(prepared.records("val")[1], image=None)]
    answers = StudentAnswerer(student).answers(records, prepared.image_root, 3)
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
