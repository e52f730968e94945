"""From a run's folders to a report: what is there is shown, what is not is left out."""

import json

import numpy as np
import pytest

from embervlm import tokens
from embervlm.errors import UserError
from embervlm.evaluate.pages.collect import collect_run, system_rows
from embervlm.evaluate.pages.examples import aligned_example, next_token_example, picture_examples
from embervlm.evaluate.pages.phases import demo_phases
from embervlm.evaluate.pages.report import render, run_report
from embervlm.evaluate.results import save_result
from embervlm.evaluate.runner import evaluate
from embervlm.evaluate.teacher_view import view_cache
from embervlm.settings import ReportSettings
from embervlm.teachers.store import CacheWriter
from tests.evaluate import synthetic
from tests.evaluate.test_runner import ALL, Oracle
from tests.evaluate.world import outputs_of


@pytest.fixture(scope="module")
def run(student, prepared, tmp_path_factory):
    """What training, caching and evaluating leave; the teacher is the student itself, seen through a cache."""
    home = tmp_path_factory.mktemp("run")
    checkpoint, cache = home / "outputs" / "stage2" / "checkpoint-final", home / "outputs" / "teacher_outputs"
    student.save_pretrained(checkpoint)
    trained = {
        "stage": 2,
        "teacher": "toy",
        "settings": {"learning_rate": 0.002, "preset": "tiny", "wandb_project": None},
    }
    (checkpoint / "training_args.json").write_text(json.dumps(trained))
    for folder, stage, value in (("stage1", 1, 3.0), ("stage2", 2, 2.0), ("undistilled/stage2", 2, 2.5)):
        history = [{"step": step, "epoch": step / 10, f"stage{stage}/sft_loss": value / step} for step in (1, 2, 3)]
        history += [{"step": 3, "epoch": 0.3, f"stage{stage}/total_loss": 1.0, "stage2/vqa_accuracy": 0.5}]
        (home / "outputs" / folder).mkdir(parents=True, exist_ok=True)
        (home / "outputs" / folder / "metrics.json").write_text(
            json.dumps({"stage": stage, "history": history, "summary": {"seconds": 12.5}})
        )
    tokenizer = student.processor.tokenizer
    records = prepared.records("val")
    said = outputs_of(student, records, prepared.image_root, 8)
    teacher = {"name": "itself", "weights": "0", "tokenizer": tokens.fingerprint(tokenizer), "template": "0"}
    writer = CacheWriter(
        cache, teacher, {"val": prepared.fingerprint("val")}, {"top_k": 8}, tokenizer.eos_token_id,
        tokens.token_bytes(tokenizer),
    )  # fmt: skip
    writer.add("all_batch_0.safetensors", "val", "all", [(record.id, said[record.id]) for record in records])
    writer.finish(["all_batch_0.safetensors"])
    ids = {record.id: record.metadata["question_id"] for record in records if "question_id" in record.metadata}
    about = {"checkpoint": str(checkpoint), "dataset_path": str(prepared.folder), "teacher_outputs": str(cache)}
    for name, wrong in (("student", "vqa-0"), ("teacher", ""), ("undistilled", "vqa-1")):
        result = evaluate(Oracle(wrong), prepared, ALL, name=name, progress=False, settings=about)
        save_result(result, home / "results" / f"{name}.json", ids)
    return home


def test_who_answered_the_training_data_is_told(run, prepared):
    assert " Train has" not in collect_run(run).subtitle
    made = {"teacher": {"name": "wise"}, "splits": {"train": {"references": 1056, "kept": 6693}}}
    info = prepared.folder / "dataset.json"
    before = info.read_text()
    info.write_text(json.dumps(json.loads(before) | {"answered": made}))
    try:
        told = collect_run(run).subtitle
    finally:
        info.write_text(before)
    assert told.endswith(" Train has 1,056 records with the answers of people and 6,693 with those of wise.")


def test_a_run_becomes_a_report_with_all_its_parts(run):
    inputs = collect_run(run)
    assert [row.kind for row in inputs.systems] == ["teacher", "student", "undistilled", "baseline", "baseline"]
    assert inputs.systems[3].result.vqa_accuracy < inputs.systems[1].result.vqa_accuracy
    assert [(entry.stage, entry.kind) for entry in inputs.runs] == [(1, "other"), (2, "student"), (2, "undistilled")]
    assert inputs.settings["learning_rate"] == 0.002 and "wandb_project" not in inputs.settings
    assert "The teacher is toy" in inputs.subtitle
    assert inputs.aligned is not None and inputs.next_token is not None and inputs.cache.bytes_per_token > 0
    told = inputs.cache.teacher
    assert told is not None and told.perplexity > 1 and 0 <= told.tail < 1 and told.temperature == 2.0
    # A picture is shown once, and there are three.
    assert len(inputs.pictures) == 3 and [said.kind for said in inputs.pictures[0].said] == [
        "teacher",
        "student",
        "undistilled",
    ]
    assert ("Stage 1", 12.5) in inputs.phases and ("Stage 2, without teacher", 12.5) in inputs.phases
    assert "<h1>" in render(inputs)


def test_the_verb_writes_the_page(run, tmp_path):
    run_report(ReportSettings(output_dir=run, report=tmp_path / "report.html"))
    assert "What they say" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_other_data_shows_no_pictures(run, prepared, tmp_path):
    """Answers must not be put beside records they were not given to."""
    data = json.loads((run / "results" / "student.json").read_text())
    data["data"] = "0" * 16
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "student.json").write_text(json.dumps(data))
    inputs = collect_run(tmp_path)
    assert inputs.systems and not inputs.pictures and len(inputs.systems) == 1


def test_training_alone_is_worth_a_report(run, tmp_path):
    inputs = collect_run(run, ())
    assert inputs.runs and not inputs.systems


def _checkpoint(home, teacher):
    """A Stage 2 as training leaves it; the flag's default names a teacher that had no part in it."""
    final = home / "stage2" / "checkpoint-final"
    final.mkdir(parents=True)
    asked = {"teacher_model": "qwen-vl-chat", "distillation_alpha": 0.5, "warmup_steps": 1000, "learning_rate": 0.002}
    told = {"stage": 2, "teacher": teacher, "settings": asked, "warmup_steps": 4}
    (final / "training_args.json").write_text(json.dumps(told))
    history = [{"step": step, "stage2/sft_loss": 2.0 / step} for step in (1, 2)]
    (home / "stage2" / "metrics.json").write_text(json.dumps({"history": history, "summary": {"seconds": 2.2}}))
    return final


def _evaluated(prepared, path, checkpoint, name="student"):
    about = {"checkpoint": str(checkpoint), "dataset_path": str(prepared.folder)}
    save_result(evaluate(Oracle(), prepared, ("vqa",), name=name, progress=False, settings=about), path, {})
    return path


def test_a_run_without_a_teacher_is_not_said_to_have_one(prepared, tmp_path):
    final = _checkpoint(tmp_path / "alone", None)
    for name in ("undistilled", "student"):
        inputs = collect_run(tmp_path / "alone", [_evaluated(prepared, tmp_path / f"{name}.json", final, name)])
        assert inputs.title == "A student learns without a teacher" and not inputs.notes
        assert [(run.name, run.kind) for run in inputs.runs] == [("without teacher", "undistilled")]
        assert ("Stage 2, without teacher", 2.2) in inputs.phases
        assert inputs.settings == {"learning_rate": 0.002, "warmup_steps": 4}
        page = render(inputs)
        assert "with teacher" not in page and "distilled student" not in page and "learns from" not in page
        assert "The student, trained without a teacher, scores 100.0%" in page
    assert collect_run(tmp_path / "alone", ()).title == "A student learns without a teacher"


def test_settings_are_those_that_the_training_really_had(prepared, tmp_path):
    """The cache's teacher, not the flag's default; warm-up as it was capped to a tenth of the steps."""
    final = _checkpoint(tmp_path / "run", "toy-llava")
    inputs = collect_run(tmp_path / "run", [_evaluated(prepared, tmp_path / "r.json", final)])
    assert inputs.settings["teacher_model"] == "toy-llava" and inputs.settings["warmup_steps"] == 4
    assert inputs.settings["distillation_alpha"] == 0.5 and "toy-llava" in inputs.subtitle
    assert inputs.runs[0].name == "with teacher" and inputs.title == "A student learns from its teacher"


def test_a_run_beside_evaluations_of_other_checkpoints_is_told(prepared, tmp_path, capsys):
    _checkpoint(tmp_path / "x1", "toy-llava")
    there = _evaluated(prepared, tmp_path / "b.json", _checkpoint(tmp_path / "x2", "toy-llava"))
    run_report(ReportSettings(output_dir=tmp_path / "x1", evaluations=(there,), report=tmp_path / "report.html"))
    told = (
        f"Curves and times of training are those of {tmp_path / 'x1'}; these evaluations are of checkpoints elsewhere"
    )
    assert told in capsys.readouterr().out and told in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_is_not_there_is_an_error_or_a_note(prepared, tmp_path, monkeypatch):
    """A result of another run that lies where results lie by default was reported under its name."""
    monkeypatch.chdir(tmp_path)
    there = _evaluated(prepared, tmp_path / "results" / "stage2_eval.json", "none")
    with pytest.raises(UserError, match="nope does not exist"):
        run_report(ReportSettings(output_dir=tmp_path / "nope"))
    other = there.rename(tmp_path / "b.json")
    (note,) = collect_run(tmp_path / "nope", [other]).notes
    assert "nope does not exist: no curves" in note


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds nothing to report"):
        collect_run(tmp_path)
    with pytest.raises(UserError, match="none.json does not exist"):
        collect_run(tmp_path, [tmp_path / "none.json"])


def test_rows_stand_in_the_order_of_the_story():
    results = [synthetic.result(name, 0.5) for name in ("blind", "my-model", "teacher")]
    assert [row.kind for row in system_rows(results)] == ["teacher", "student", "blind"]
    results = [synthetic.result(name, 0.5) for name in ("student", "my-model")]
    assert [(row.name, row.kind) for row in system_rows(results)][1] == ("my-model", "other")


def test_pictures_are_chosen_by_chance_and_only_once(prepared):
    records = prepared.records("val")
    answers = ("Student", "student", {record.id: record.response for record in records})
    first = picture_examples(records, prepared.image_root, [answers], seed=1)
    assert len({example.image for example in first}) == len(first) == 3
    assert all(said.score == 1 for example in first for said in example.said)
    assert first == picture_examples(records, prepared.image_root, [answers], seed=1)
    assert not picture_examples(records, prepared.image_root, [("Student", "student", {})])


def test_aligned_text_joins_to_the_answer_on_both_sides(run, student, prepared):
    from embervlm.batch.dataset import RecordDataset

    dataset = RecordDataset(prepared.records("val"), prepared.image_root, student.processor, 256)
    view = view_cache(run / "outputs" / "teacher_outputs", prepared, "val", student.processor.tokenizer)
    text = aligned_example(dataset, view)
    sides = ["".join(token.text for group in text.groups for token in group[side]) for side in (0, 1)]
    assert sides[0] == sides[1] and sides[0].replace("␣", " ").removesuffix("⏎") in {
        r.response for r in dataset.records
    }
    assert text.groups[-1][0][0].text == text.groups[-1][1][0].text == "⏎"
    assert any("<image> × 36" in token for token in text.prompt)


def test_student_and_teacher_are_shown_at_the_same_place(run, student, prepared):
    """The teacher is the student: were one of them shown one token off, the two lists would differ."""
    from embervlm.batch.dataset import RecordDataset

    dataset = RecordDataset(prepared.records("val"), prepared.image_root, student.processor, 256)
    view = view_cache(run / "outputs" / "teacher_outputs", prepared, "val", student.processor.tokenizer)
    following = next_token_example(student, dataset, view)
    lists = following.student, following.teacher
    assert len({token for token, _ in lists[0]} & {token for token, _ in lists[1]}) >= 3  # alike ones have no order
    assert np.allclose([p for _, p in following.student], [p for _, p in following.teacher], atol=0.02)


def test_phases_of_a_demo_are_told_in_words(tmp_path):
    commands = {
        "embervlm toy --out x": 7.0,
        "embervlm train --stages 1 --preset tiny": 80.0,
        "embervlm train --stages 1 --preset tiny --no_disable_distillation": 85.0,
        "embervlm train --stages 2 --preset tiny --disable_distillation": 90.0,
        "embervlm evaluate --output_file 'a b/student.json'": 20.0,
    }
    (tmp_path / "demo.json").write_text(json.dumps(commands))
    titles = [what for what, _ in demo_phases(tmp_path / "demo.json")]
    trained = ["Stage 1", "Stage 1, with teacher", "Stage 2, without teacher"]
    assert titles == ["Draw the pictures", *trained, "Evaluation: student"]
