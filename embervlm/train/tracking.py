"""Where the numbers of a run go: metrics.json always, W&B and TensorBoard when asked for. Names are the same in all."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from embervlm.errors import UserError
from embervlm.options import as_dict
from embervlm.settings import TrainSettings
from embervlm.train.checkpoint import write_json

SECONDS_BETWEEN_WRITES = 5.0


def _import(module: str, flag: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{flag} needs the package {package} ({error}): pip install {package}, or leave the flag out."
        ) from None


def numbers(logs: dict[str, Any]) -> dict[str, float]:
    """The metrics of one report, without the Trainer's own entries."""
    return {name: value for name, value in logs.items() if name.startswith("stage")}


class MetricsFile(TrainerCallback):
    """Keeps metrics.json: {"stage", "history": [{"step", "epoch", "stage2/sft_loss", ...}], "best_step", "summary"}.

    The history is the trainer state's, so that after a resume it continues from the checkpoint's own.
    """

    def __init__(self, path: Path, stage: int) -> None:
        self.path = path
        self.stage = stage
        self.summary: dict[str, Any] = {}
        self._written = 0.0

    def on_log(self, args, state, control, **kwargs):
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write(state)

    def on_save(self, args, state, control, **kwargs):
        self.write(state)

    def on_evaluate(self, args, state, control, **kwargs):
        self.write(state)

    def write(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        history: list[dict[str, Any]] = []
        for entry in state.log_history:
            if history and history[-1]["step"] == entry["step"]:
                history[-1].update(numbers(entry))
            else:
                history.append({"step": entry["step"], "epoch": entry.get("epoch"), **numbers(entry)})
        content = {"stage": self.stage, "history": history, "best_step": state.best_global_step}
        write_json(self.path, {**content, "summary": self.summary})
        self._written = time.monotonic()


class Wandb(TrainerCallback):
    """Logs the metrics under their exact names. `WANDB_MODE=offline` works without a network or an account."""

    def __init__(self, project: str, run_name: str | None, folder: Path, config: dict[str, Any]) -> None:
        self._wandb = _import("wandb", "--wandb_project", "wandb")
        self._options = {"project": project, "name": run_name, "dir": str(folder), "config": config}
        self._run: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self._run is None:
            self._run = self._wandb.init(**self._options)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._run is not None:
            self._run.log({**numbers(logs), "epoch": state.epoch}, step=state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if self._run is not None:
            self._run.finish()


class TensorBoard(TrainerCallback):
    """Event files beside the checkpoints, in `<stage folder>/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        self._module = _import("torch.utils.tensorboard", "--tensorboard", "tensorboard")
        self._folder = folder
        self._writer: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self._writer is None:
            self._writer = self._module.SummaryWriter(str(self._folder))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._writer is not None:
            for name, value in numbers(logs).items():
                self._writer.add_scalar(name, value, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if self._writer is not None:
            self._writer.close()


def follow(settings: TrainSettings, folder: Path) -> list[TrainerCallback]:
    """The trackers that the settings ask for. UserError when one is not installed."""
    trackers: list[TrainerCallback] = []
    if settings.wandb_project is not None:
        trackers.append(Wandb(settings.wandb_project, settings.wandb_run_name, folder, as_dict(settings)))
    if settings.tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard"))
    return trackers
