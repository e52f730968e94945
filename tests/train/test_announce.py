"""What the end of a stage says."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerState

from embervlm.train.announce import more_accurate, summarise
from embervlm.train.tracking import MetricsFile


def history(*accuracies: float) -> list[dict[str, float]]:
    rows = [
        {"step": 200 * at, "stage2/eval_loss": 2.0 + at / 10, "stage2/vqa_accuracy": value}
        for at, value in enumerate(accuracies, start=1)
    ]
    return [{"step": 200, "stage2/total_loss": 1.0}, *rows]


def test_a_step_that_answers_better_than_the_best_by_loss_is_told() -> None:
    """With long answers in val a student was kept at step 200 with 41% that had 48% at its end, and nothing said so."""
    assert more_accurate(history(0.41, 0.42, 0.48, 0.48), "stage2/", 200) == (800, 0.48, 0.41)


@pytest.mark.parametrize("accuracies, best", [((0.41, 0.43), 200), ((0.48, 0.41), 200), ((0.41, 0.48), 400)])
def test_luck_and_the_best_itself_are_not_told(accuracies: tuple[float, ...], best: int) -> None:
    assert more_accurate(history(*accuracies), "stage2/", best) is None


def test_without_questions_in_val_there_is_nothing_to_tell() -> None:
    assert more_accurate([{"step": 200, "stage1/eval_loss": 2.0}], "stage1/", 200) is None
    assert more_accurate([], "stage1/", None) is None


@pytest.mark.parametrize("kept", [True, False])
def test_the_end_of_a_stage_names_the_step_and_whether_it_is_there(tmp_path: Path, kept: bool) -> None:
    if kept:
        (tmp_path / "checkpoint-800").mkdir()
    state = TrainerState(log_history=history(0.41, 0.42, 0.48, 0.48), global_step=800)
    state.best_global_step = 200
    trainer = SimpleNamespace(
        state=state,
        plan=SimpleNamespace(prefix="stage2/", stage=2),
        seconds=90.0,
        waits=SimpleNamespace(overall=0.0),
    )
    told = Console(file=StringIO(), width=300)
    summarise(told, trainer, MetricsFile(tmp_path / "metrics.json", 2), tmp_path)
    words = told.file.getvalue()
    assert "By VQA accuracy step 800 stands higher, 48.0% against 41.0%" in words
    assert ("checkpoint-800 is kept" if kept else "it was not kept") in words
