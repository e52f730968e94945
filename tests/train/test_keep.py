"""Which checkpoints stay, and that checkpoint-final is the best step after every kind of resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from embervlm import EmberVLM
from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.train import run
from tests.train.small_world import NAN, evaluations_say, make_world
from tests.train.small_world import settings as small

LOSSES = {"eval_loss": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}
BOTH = LOSSES | {"vqa_accuracy": (0.4, 0.7, 0.6, 0.5, 0.5, 0.5)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world") / "data")


def settings(data: Path, out: Path, **changes) -> TrainSettings:
    return small(data, out, **{"max_steps": 4, "eval_steps": 1, "save_steps": 1, **changes})


def step_of(checkpoint: Path) -> int:
    return json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]


def told(folder: Path) -> int:
    return json.loads((folder / "metrics.json").read_text())["best_step"]


def names(folder: Path) -> set[str]:
    return {path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}


def test_a_resumed_run_that_chooses_by_another_metric_has_the_best_step_by_that(data, tmp_path, monkeypatch) -> None:
    stage = tmp_path / "stage2"
    evaluations_say(monkeypatch, **BOTH)
    assert run.run_train(settings(data, tmp_path, metric_for_best_model="eval_loss")) == 0
    assert told(stage) == step_of(stage / "checkpoint-final") == 1
    assert run.run_train(settings(data, tmp_path, resume_from=stage / "checkpoint-2")) == 0
    assert told(stage) == step_of(stage / "checkpoint-final") == 2
    assert (stage / "checkpoint-final" / "model.safetensors").is_file()
    final, second = (
        torch.load(stage / name / "pytorch_model.bin", weights_only=True)
        for name in ("checkpoint-final", "checkpoint-2")
    )
    assert all(torch.equal(final[name], second[name]) for name in final)
    assert all(
        torch.equal(value, final[name])
        for name, value in EmberVLM.from_pretrained(stage / "checkpoint-final").state_dict().items()
    )
    by_loss = settings(data, tmp_path, resume_from=stage / "checkpoint-3", metric_for_best_model="eval_loss")
    assert run.run_train(by_loss) == 0
    assert told(stage) == step_of(stage / "checkpoint-final") == 1


def test_a_run_that_goes_on_in_another_folder_takes_the_best_along(data, tmp_path, monkeypatch) -> None:
    """Otherwise Stage 2 would begin with new weights, where nothing later was better."""
    evaluations_say(monkeypatch, **LOSSES)
    run.run_train(settings(data, tmp_path / "one", stages=(1,)))
    two = tmp_path / "two"
    go_on = settings(data, two, stages=(1, 2), resume_from=tmp_path / "one/stage1/checkpoint-2")
    assert run.run_train(go_on) == 0
    assert told(two / "stage1") == step_of(two / "stage1/checkpoint-final") == 1
    assert step_of(two / "stage2/checkpoint-final") == 1


def test_the_best_of_a_branch_that_was_given_up_is_not_the_best(data, tmp_path, monkeypatch) -> None:
    stage = tmp_path / "stage2"
    evaluations_say(monkeypatch, eval_loss=(0.3, 0.4, 0.1))
    run.run_train(settings(data, tmp_path, max_steps=3))
    assert step_of(stage / "checkpoint-final") == 3
    evaluations_say(monkeypatch, **LOSSES)
    run.run_train(settings(data, tmp_path, resume_from=stage / "checkpoint-2", learning_rate=1e-2))
    assert told(stage) == step_of(stage / "checkpoint-final") == 1


def test_where_the_best_weights_are_gone_the_best_of_those_that_are_there_is_taken(data, tmp_path, monkeypatch) -> None:
    stage = tmp_path / "stage2"
    evaluations_say(monkeypatch, **LOSSES)
    run.run_train(settings(data, tmp_path, max_steps=3))
    shutil.rmtree(stage / "checkpoint-final")
    shutil.rmtree(stage / "checkpoint-1")
    run.run_train(settings(data, tmp_path, resume_from=stage / "checkpoint-3"))
    assert told(stage) == step_of(stage / "checkpoint-final") == 2


def test_a_run_whose_evaluations_are_no_numbers_still_ends_with_a_checkpoint(data, tmp_path, monkeypatch) -> None:
    evaluations_say(monkeypatch, eval_loss=(NAN, NAN))
    assert run.run_train(settings(data, tmp_path, max_steps=2)) == 0
    assert told(tmp_path / "stage2") == step_of(tmp_path / "stage2/checkpoint-final") == 2


def test_a_limit_keeps_the_newest_of_this_run_and_leaves_those_of_another(data, tmp_path, monkeypatch) -> None:
    """By their numbers alone, the checkpoint that was just written would go, and the old run's stay."""
    stage = tmp_path / "from-checkpoint-1" / "stage2"  # the name of a folder above must not matter
    out = stage.parent
    evaluations_say(monkeypatch, **LOSSES)
    run.run_train(settings(data, out, max_steps=6, eval_steps=3, save_steps=3))
    assert names(stage) == {"3", "6", "final"}
    run.run_train(settings(data, out, max_steps=2, save_total_limit=1))
    assert names(stage) == {"2", "3", "6", "final"} and step_of(stage / "checkpoint-2") == 2
    go_on = settings(data, out, max_steps=5, save_total_limit=2, resume_from=stage / "checkpoint-2")
    run.run_train(go_on)
    assert names(stage) == {"4", "5", "6", "final"}


def test_the_limit_counts_what_this_run_wrote_before_it_went_on_from_its_best_step(data, tmp_path, monkeypatch) -> None:
    evaluations_say(monkeypatch, eval_loss=(2.0, 1.5, 1.0, 1.0, 1.0, 1.0))
    stage = tmp_path / "stage2"
    run.run_train(settings(data, tmp_path, max_steps=3))
    assert names(stage) == {"1", "2", "3", "final"} and step_of(stage / "checkpoint-final") == 3
    go_on = {"max_steps": 5, "save_total_limit": 2, "resume_from": stage / "checkpoint-final"}
    run.run_train(settings(data, tmp_path, **go_on))
    assert names(stage) == {"4", "5", "final"}


def test_settings_of_today_rule_after_a_resume(data, tmp_path) -> None:
    """A lower learning rate is what is advised where a loss became NaN: the old one must not come back."""

    def rates(out: Path, **changes) -> dict[int, float]:
        run.run_train(settings(data, out, max_steps=6, logging_steps=1, warmup_steps=0, **changes))
        entries = json.loads((out / "stage2/metrics.json").read_text())["history"]
        return {entry["step"]: entry["stage2/learning_rate"] for entry in entries if "stage2/learning_rate" in entry}

    whole = rates(tmp_path / "whole", learning_rate=1e-3)
    stopped = tmp_path / "whole/stage2/checkpoint-3"
    lower = rates(tmp_path / "lower", learning_rate=1e-5, weight_decay=0.5, resume_from=stopped)
    assert [lower[step] for step in (4, 5, 6)] == pytest.approx([whole[step] / 100 for step in (4, 5, 6)])
    state = torch.load(tmp_path / "lower/stage2/checkpoint-6/optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.5, 0.0}
    same = rates(tmp_path / "same", learning_rate=1e-3, resume_from=stopped)
    assert same == whole


def test_other_trained_parts_are_refused_on_a_resume(data, tmp_path) -> None:
    run.run_train(settings(data, tmp_path, max_steps=1, unfreeze_vision=0))
    go_on = settings(data, tmp_path, unfreeze_vision=-1, resume_from=tmp_path / "stage2/checkpoint-1")
    with pytest.raises(UserError, match="other trained parts.*--unfreeze_vision"):
        run.run_train(go_on)
