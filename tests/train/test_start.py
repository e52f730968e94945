"""Where a stage starts, and the sentences for what it cannot start from."""

import json

import pytest

from embervlm.errors import UserError
from embervlm.train import checkpoint as cp
from embervlm.train.start import decide_start, earlier_run


def fake(path, stage, step=5, preset="tiny", resumable=True):
    path.mkdir(parents=True)
    (path / cp.CONFIG).write_text(json.dumps({"preset": preset}))
    (path / cp.TRAINING_ARGS).write_text(json.dumps({"stage": stage}))
    (path / cp.STATE).write_text(json.dumps({"global_step": step}))
    (path / cp.WEIGHTS).write_bytes(b"x")
    if resumable:
        (path / cp.OPTIMIZER).write_bytes(b"x")
        (path / cp.SCHEDULER).write_bytes(b"x")
    return path


def test_stage_2_finds_stage_1_by_itself(tmp_path):
    final = fake(tmp_path / "stage1" / cp.FINAL, 1)
    start = decide_start(2, "tiny", None, tmp_path)
    assert start.weights.path == final and not start.resume


def test_without_stage_1_it_says_that_the_weights_are_not_aligned(tmp_path):
    start = decide_start(2, "tiny", None, tmp_path)
    assert start.weights is None
    assert "not aligned" in start.note


def test_the_same_stage_continues_and_an_earlier_one_gives_weights(tmp_path):
    one, two = fake(tmp_path / "a", 1), fake(tmp_path / "b", 2)
    assert decide_start(1, "tiny", one, tmp_path).resume
    assert decide_start(2, "tiny", two, tmp_path).resume
    assert not decide_start(2, "tiny", one, tmp_path).resume


def test_a_later_stage_cannot_start_an_earlier_one(tmp_path):
    with pytest.raises(UserError, match="Stage 2, which comes after Stage 1: pass --stages 2"):
        decide_start(1, "tiny", fake(tmp_path / "b", 2), tmp_path)


def test_half_a_checkpoint_cannot_be_continued_but_gives_weights(tmp_path):
    with pytest.raises(UserError, match="no optimizer state"):
        decide_start(2, "tiny", fake(tmp_path / "b", 2, resumable=False), tmp_path)
    assert decide_start(2, "tiny", fake(tmp_path / "a", 1, resumable=False), tmp_path).weights is not None


def test_another_preset_is_refused_if_it_was_asked_for(tmp_path):
    """37m is what a person who says nothing gets: then the checkpoint decides."""
    large, tiny = fake(tmp_path / "a", 1, preset="37m"), fake(tmp_path / "b", 1)
    with pytest.raises(UserError, match="preset 37m, this run asks for tiny"):
        decide_start(2, "tiny", large, tmp_path)
    assert decide_start(2, "37m", tiny, tmp_path).weights.preset == "tiny"


def test_checkpoints_of_an_earlier_run_are_mentioned(tmp_path):
    assert earlier_run(tmp_path) is None
    (tmp_path / "checkpoint-20").mkdir()
    assert "checkpoint-20" in earlier_run(tmp_path)
