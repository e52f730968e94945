"""The metrics go out under the guide's exact names, to every tracker."""

import json
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from embervlm.errors import UserError
from embervlm.train import tracking
from embervlm.train.run import run_train
from tests.train.small_world import make_world, settings


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "data")


class FakeRun:
    def __init__(self):
        self.logged = {}
        self.finished = False

    def log(self, values, step):
        self.logged.setdefault(step, {}).update(values)

    def finish(self):
        self.finished = True


def test_wandb_gets_exact_names_project_and_run(data, tmp_path, monkeypatch):
    """transformers' own callback would write train/stage2/sft_loss."""
    fake, run, options = ModuleType("wandb"), FakeRun(), {}
    fake.init = lambda **given: options.update(given) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run_train(settings(data, tmp_path, max_steps=2, wandb_project="embervlm", wandb_run_name="stage2_instruct_tuning"))
    assert (options["project"], options["name"]) == ("embervlm", "stage2_instruct_tuning")
    assert options["config"]["batch_size"] == 3
    assert {"stage2/sft_loss", "stage2/total_loss", "stage2/learning_rate"} <= set(run.logged[1])
    assert {"stage2/vqa_accuracy", "stage2/instruct_score"} <= set(run.logged[2])
    assert run.finished


def test_without_wandb_one_sentence_says_what_to_do(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--wandb_project needs the package wandb.*pip install wandb"):
        run_train(settings(data, tmp_path, wandb_project="x"))


@pytest.mark.slow
def test_wandb_offline_really_writes_a_run(tmp_path):
    pytest.importorskip("wandb")
    code = (
        "from pathlib import Path; from types import SimpleNamespace as S; from embervlm.train.tracking import Wandb\n"
        f"w = Wandb('embervlm', 'name', Path({str(tmp_path)!r}), {{'a': 1}})\n"
        "state = S(is_world_process_zero=True, epoch=1.0, global_step=1)\n"
        "w.on_train_begin(None, state, None)\n"
        "w.on_log(None, state, None, logs={'stage2/sft_loss': 1.5, 'loss': 3})\n"
        "w.on_train_end(None, state, None)\n"
    )
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    (written,) = tmp_path.rglob("run-*.wandb")
    assert b"stage2/sft_loss" in written.read_bytes()


def test_tensorboard_gets_exact_names(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_train(settings(data, tmp_path, max_steps=2, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "stage2/tensorboard")).Reload()
    assert [point.step for point in events.Scalars("stage2/sft_loss")] == [1, 2]
    assert [point.step for point in events.Scalars("stage2/vqa_accuracy")] == [2]


def test_one_step_is_one_entry_of_the_metrics_file(tmp_path):
    state = SimpleNamespace(
        is_world_process_zero=True,
        best_global_step=2,
        log_history=[
            {"step": 1, "epoch": 0.5, "stage2/sft_loss": 2.0, "total_flos": 1},
            {"step": 2, "epoch": 1.0, "stage2/sft_loss": 1.0},
            {"step": 2, "epoch": 1.0, "stage2/vqa_accuracy": 0.5},
        ],
    )
    file = tracking.MetricsFile(tmp_path / "metrics.json", 2)
    file.write(state)
    history = json.loads(file.path.read_text())["history"]
    assert history == [
        {"step": 1, "epoch": 0.5, "stage2/sft_loss": 2.0},
        {"step": 2, "epoch": 1.0, "stage2/sft_loss": 1.0, "stage2/vqa_accuracy": 0.5},
    ]
