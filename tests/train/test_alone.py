"""Two trainings in one folder, and what a killed one left there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from embervlm.errors import UserError
from embervlm.train import run
from embervlm.train.alone import alone_in
from embervlm.train.checkpoint import partial_of, replaced_of
from embervlm.train.start import decide_start
from tests.train.small_world import make_world, settings


def test_a_second_training_in_the_same_folder_is_refused_at_its_start(tmp_path: Path) -> None:
    """They would write over each other's checkpoints, and neither would leave one."""
    data = make_world(tmp_path / "data")
    folder = tmp_path / "out" / "stage2"
    with alone_in(folder):
        growing = partial_of(folder / "checkpoint-7")
        growing.mkdir()
        with pytest.raises(UserError, match="Another training writes to .*--output_dir"):
            run.run_train(settings(data, tmp_path / "out"))
        assert growing.is_dir()
        assert run.run_train(settings(data, tmp_path / "out", stages=(1,), max_steps=1)) == 0  # the other stage is free
        assert growing.is_dir()
    assert run.run_train(settings(data, tmp_path / "out", max_steps=1)) == 0
    assert {path.name for path in folder.iterdir()} == {"checkpoint-1", "checkpoint-final", "metrics.json"}


def test_the_first_stage_killed_while_its_checkpoint_was_replaced_is_still_what_the_second_begins_with(
    tmp_path,
) -> None:
    data = make_world(tmp_path / "data")
    run.run_train(settings(data, tmp_path / "out", stages=(1,), max_steps=1))
    final = tmp_path / "out/stage1/checkpoint-final"
    os.rename(final, replaced_of(final))
    assert "not aligned" in decide_start(2, "tiny", None, tmp_path / "out").note
    with alone_in(tmp_path / "out/stage2"):
        assert "Stage 1, step 1" in decide_start(2, "tiny", None, tmp_path / "out").note


def test_the_folder_of_another_stage_in_which_nothing_can_be_written_stops_nobody(tmp_path: Path) -> None:
    """Somebody else's Stage 1, which we may read: there is nothing to clean up that is ours."""
    (tmp_path / "stage1" / ".lock").mkdir(parents=True)  # for root, who may write everywhere, too
    with alone_in(tmp_path / "stage2"):
        assert (tmp_path / "stage2").is_dir()


def test_a_run_that_cannot_begin_leaves_no_folder_and_no_lock(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a prepared data set"):
        run.run_train(settings(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_lock_that_a_killed_run_left_behind_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / ".lock").touch()
    with alone_in(tmp_path / "stage2"), pytest.raises(OSError):
        FileLock(tmp_path / "stage2" / ".lock").acquire(timeout=0)
