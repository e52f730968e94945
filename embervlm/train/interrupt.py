"""Ctrl-C and SIGTERM end a run at the next step, with a checkpoint. A second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import seed_worker

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2

ONE_PRESS = 2.0
"""Seconds in which signals count as one: torchrun passes on the Ctrl-C that its processes had from the terminal too."""

GRACE = 30
"""Seconds for which a loader's process goes on after SIGTERM."""

NOTICE = "\nStopping after this step, and saving a checkpoint. Once more to stop at once, without.\n"


def begin_worker(worker: int, num_workers: int, rank: int) -> None:
    """In a loader's process: the signals that end a run are for the training process, which still needs its batches
    for the step it is in. A terminal and a service manager send them to all."""
    seed_worker(worker, num_workers, rank)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _last_batches)


def _last_batches(number: int, frame: FrameType | None) -> None:
    """The next one ends the worker, and so does time: whoever sent the first may be waiting for its end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(GRACE)


class StopOnSignal(TrainerCallback):
    """Use as a context around `trainer.train()`; `stopped` tells afterwards whether a signal came."""

    def __init__(self, speaks: bool) -> None:
        self.stopped = False
        self._speaks = speaks  # of several processes only the first one does
        self._since = 0.0
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
        if self.stopped:
            if time.monotonic() - self._since > ONE_PRESS:
                raise KeyboardInterrupt
            return
        self.stopped, self._since = True, time.monotonic()
        if self._speaks:
            # Not through the console: the signal may have come while that was writing.
            with suppress(OSError):
                os.write(STDERR, NOTICE.encode())

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
