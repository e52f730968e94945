"""Evaluations by file or folder, and what cannot be compared."""

import json
import shutil

import pytest

from embervlm.errors import UserError
from embervlm.evaluate.runs import differing, open_runs


def copy_with(path, to, **changes):
    """A result with other words, its answers beside it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    for beside in path.parent.glob(f"{path.stem}_predictions_*.json"):
        shutil.copyfile(beside, to.parent / beside.name.replace(path.stem, to.stem, 1))
    to.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return to


def test_runs_bring_their_training_and_a_name_that_tells_them_apart(compared, tmp_path):
    a, b = compared / "results" / "a.json", compared / "results" / "b.json"
    found = open_runs([a, b])
    assert [run.name for run in found] == ["a", "b"] and found[0].trained["distillation_alpha"] == 0.3
    assert found[0].trained["teacher_model"] is None  # the teacher it had, not the one that the settings name
    assert [row["stage2/sft_loss"] for row in found[1].history] == [2.5, 1.25, 2.5 / 3]
    alike = [copy_with(a, tmp_path / name / "results" / "stage2_eval.json") for name in ("first", "second")]
    assert [run.name for run in open_runs(alike)] == ["first/results/stage2_eval", "second/results/stage2_eval"]
    assert [run.name for run in open_runs([tmp_path / "first", tmp_path / "second", a])] == ["first", "second", "a"]


def test_a_folder_with_several_evaluations_means_its_student(compared, tmp_path):
    a = compared / "results" / "a.json"
    copy_with(a, tmp_path / "run" / "results" / "student.json")
    copy_with(a, tmp_path / "run" / "results" / "teacher.json", system="teacher")
    assert open_runs([tmp_path / "run", a])[0].path.name == "student.json"
    with pytest.raises(UserError, match="holds several evaluations; name the one that is meant: .*a.json, .*b.json"):
        open_runs([compared, tmp_path / "run"])


def test_the_folder_of_a_run_brings_its_curves_when_the_checkpoint_is_gone(compared, tmp_path):
    a = compared / "results" / "a.json"
    settings = json.loads(a.read_text())["settings"] | {"checkpoint": "gone/checkpoint-final"}
    copy_with(a, tmp_path / "run" / "results" / "student.json", settings=settings)
    shutil.copytree(compared / "a" / "stage2", tmp_path / "run" / "outputs" / "stage2")
    run = open_runs([tmp_path / "run", a])[0]
    assert len(run.history) == 3 and run.trained is None


def test_what_cannot_be_compared_is_refused_in_a_sentence(compared, tmp_path):
    a = compared / "results" / "a.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.json").write_text(a.read_text()[:200])
    cases = [
        ([a], "takes two evaluations or more, found 1"),
        ([a, a], "a.json is named twice"),
        ([a, tmp_path / "none.json"], "none.json does not exist"),
        ([a, tmp_path / "empty"], "empty holds no result of embervlm evaluate"),
        ([a, tmp_path / "damaged.json"], "damaged.json could not be read as JSON"),
        ([a, copy_with(a, tmp_path / "split.json", split="test")], "split test, .*a.json on val"),
        ([a, copy_with(a, tmp_path / "data.json", data="0" * 16)], "other data .fingerprint 0000000000000000. than"),
        ([a, copy_with(a, tmp_path / "schema.json", schema="x")], "schema.json is not a result"),
        ([a, copy_with(a, tmp_path / "list.json", benchmarks=[])], "list.json is damaged or of another version"),
        ([a, compared / "results" / "a_predictions_vqa.json"], "a_predictions_vqa.json is not a result"),
    ]
    for places, said in cases:
        with pytest.raises(UserError, match=said):
            open_runs(places)


def test_settings_that_differ_are_found_and_places_are_not(compared):
    found = differing(open_runs([compared / "results" / name for name in ("a.json", "b.json", "blind.json")]))
    assert found["training: distillation_alpha"] == [0.3, 0.0, 0.3]
    assert found["evaluation: num_beams"] == [1, 4, None]
    assert "training: learning_rate" not in found and "evaluation: output_file" not in found
