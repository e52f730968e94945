"""Checkpoints are whole or absent, whatever instant a run is killed at, and say what is wrong with a folder."""

import json

import pytest

from embervlm.errors import UserError
from embervlm.train import checkpoint as cp


def grow(target, text="new"):
    partial = cp.partial_of(target)
    partial.mkdir()
    (partial / "weights").write_text(text)


def test_publish_makes_the_folder_appear_whole(tmp_path):
    target = tmp_path / "checkpoint-3"
    grow(target)
    assert not target.exists()
    cp.publish(target)
    assert (target / "weights").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]


def test_publish_replaces_an_older_best(tmp_path):
    target = tmp_path / cp.FINAL
    for text in ("old", "new"):
        grow(target, text)
        cp.publish(target)
    assert (target / "weights").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == [cp.FINAL]


@pytest.mark.parametrize("renames_done", [0, 1, 2])
def test_a_kill_at_any_instant_of_publish_leaves_a_whole_best(tmp_path, monkeypatch, renames_done):
    target = tmp_path / cp.FINAL
    grow(target, "old")
    cp.publish(target)
    grow(target, "new")
    real, calls = cp.os.rename, []

    def rename(source, destination):
        if len(calls) == renames_done:
            raise KeyboardInterrupt
        calls.append(source)
        real(source, destination)

    monkeypatch.setattr(cp.os, "rename", rename)
    monkeypatch.setattr(cp.shutil, "rmtree", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cp.publish(target)
    monkeypatch.undo()
    cp.clean_up(tmp_path)
    assert (target / "weights").read_text() == ("new" if renames_done == 2 else "old")
    assert [p.name for p in tmp_path.iterdir()] == [cp.FINAL]


def test_clean_up_touches_nothing_else(tmp_path):
    keep = [tmp_path / "checkpoint-5", tmp_path / ".checkpoint-notes", tmp_path / "teacher_outputs"]
    for path in keep:
        path.mkdir()
    cp.partial_of(tmp_path / "checkpoint-7").mkdir()
    cp.clean_up(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(keep)


def fake_checkpoint(path, stage=2, step=500):
    path.mkdir(parents=True)
    (path / cp.CONFIG).write_text(json.dumps({"preset": "tiny"}))
    (path / cp.TRAINING_ARGS).write_text(json.dumps({"stage": stage}))
    (path / cp.STATE).write_text(json.dumps({"global_step": step}))
    for name in (cp.WEIGHTS, cp.OPTIMIZER, cp.SCHEDULER):
        (path / name).write_bytes(b"x")
    return path


def test_open_reads_what_it_is(tmp_path):
    found = cp.open_checkpoint(fake_checkpoint(tmp_path / "checkpoint-500"))
    assert (found.stage, found.step, found.preset, found.resumable) == (2, 500, "tiny", True)


def test_without_optimizer_it_cannot_continue(tmp_path):
    path = fake_checkpoint(tmp_path / "checkpoint-500")
    (path / cp.OPTIMIZER).unlink()
    assert not cp.open_checkpoint(path).resumable


def test_a_missing_folder_names_the_ones_that_exist(tmp_path):
    for step in (1000, 500):
        fake_checkpoint(tmp_path / f"checkpoint-{step}")
    with pytest.raises(UserError, match=r"no checkpoint .*checkpoint-700.* has checkpoint-500, checkpoint-1000"):
        cp.open_checkpoint(tmp_path / "checkpoint-700")


def test_a_missing_stage_1_says_to_train_it(tmp_path):
    with pytest.raises(UserError, match="--stages 1"):
        cp.open_checkpoint(tmp_path / "stage1" / "checkpoint-final")


@pytest.mark.parametrize("name", [cp.CONFIG, cp.TRAINING_ARGS, cp.WEIGHTS])
def test_a_half_copied_folder_is_refused(tmp_path, name):
    path = fake_checkpoint(tmp_path / "checkpoint-500")
    (path / name).unlink()
    with pytest.raises(UserError, match=str(path)):
        cp.open_checkpoint(path)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_description_is_refused(tmp_path, text):
    path = fake_checkpoint(tmp_path / "checkpoint-500")
    (path / cp.CONFIG).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        cp.open_checkpoint(path)


def test_last_checkpoint_counts_numbers_not_letters(tmp_path):
    assert cp.last_checkpoint(tmp_path) is None
    for name in ("checkpoint-500", "checkpoint-1000", "checkpoint-final"):
        (tmp_path / name).mkdir()
    assert cp.last_checkpoint(tmp_path) == tmp_path / "checkpoint-1000"


def test_write_json_never_leaves_half_a_file(tmp_path):
    path = tmp_path / "metrics.json"
    cp.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        cp.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("step", ['"7"', "null", "NaN", "-1", "[]"])
def test_a_step_that_is_no_number_is_refused(tmp_path, step):
    """int() of it ended in a traceback, or continued from a wrong step."""
    fake_checkpoint(tmp_path / "checkpoint-500")
    (tmp_path / "checkpoint-500" / cp.STATE).write_text(f'{{"global_step": {step}}}')
    with pytest.raises(UserError, match="global_step .*take another checkpoint"):
        cp.open_checkpoint(tmp_path / "checkpoint-500")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"stage": 2, "settings": []}', '{"stage": %s}' % ("9" * 5000)])
def test_hostile_training_args_are_refused(tmp_path, text):
    fake_checkpoint(tmp_path / "checkpoint-500")
    (tmp_path / "checkpoint-500" / cp.TRAINING_ARGS).write_text(text)
    with pytest.raises(UserError, match=cp.TRAINING_ARGS):
        cp.open_checkpoint(tmp_path / "checkpoint-500")
