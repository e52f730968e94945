"""Ctrl-C and SIGTERM end a run at the next step, with a checkpoint. A second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(TrainerCallback):
    """Use as a context around `trainer.train()`; `stopped` tells afterwards whether a signal came."""

    def __init__(self, notice: Any = print) -> None:
        self.stopped = False
        self._notice = notice
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._restore()
        self._notice("Stopping after this step, and saving a checkpoint. Once more to stop at once, without.")

    def on_step_end(self, args, state, control, **kwargs):
        stopped = self.stopped
        if args.world_size > 1:  # the signal reaches the processes at different steps; all must leave at the same one
            flag = torch.tensor(float(stopped), device=args.device)
            torch.distributed.all_reduce(flag)
            stopped = bool(flag.item())
        if stopped:
            self.stopped = True
            control.should_save = control.should_training_stop = True
        return control
