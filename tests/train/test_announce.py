"""What the end of a stage says."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerState

from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record, write_records
from embervlm.train.announce import _data_table, summarise
from embervlm.train.tracking import MetricsFile


@pytest.mark.parametrize(("metric", "words"), [("vqa_accuracy", "VQA accuracy"), ("eval_loss", "the loss on val")])
def test_the_end_of_a_stage_says_by_what_its_checkpoint_was_chosen(tmp_path: Path, metric: str, words: str) -> None:
    history = [
        {"step": 200, "stage2/total_loss": 1.0},
        {"step": 200, "stage2/eval_loss": 2.0, "stage2/vqa_accuracy": 0.4},
    ]
    state = TrainerState(log_history=history, global_step=800)
    state.best_global_step = 200
    trainer = SimpleNamespace(
        state=state,
        plan=SimpleNamespace(prefix="stage2/", stage=2),
        best_by=metric,
        seconds=90.0,
        waits=SimpleNamespace(overall=0.0),
    )
    told = Console(file=StringIO(), width=300)
    summarise(told, trainer, MetricsFile(tmp_path / "metrics.json", 2), tmp_path)
    assert f"Best at step 200 by {words}: total 1.000  val loss 2.000  VQA 40.0%" in told.file.getvalue()
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert (summary["best_step"], summary["best_by"]) == (200, metric)


def test_a_record_without_a_source_is_called_as_prepare_calls_it(tmp_path: Path) -> None:
    """It was "None" here and "unknown" there."""
    for split in ("train", "val"):
        rows = [Record(f"{split}{n}", None, "Q", "A", metadata=about) for n, about in enumerate([{}, {"source": None}])]
        write_records(tmp_path / f"{split}.jsonl", rows)
    told = Console(file=StringIO(), width=200)
    told.print(_data_table(SimpleNamespace(prepared=PreparedSet(tmp_path, tmp_path, {}))))
    assert told.file.getvalue().count("unknown 2") == 2
