"""`embervlm train`: each stage in a few lines, read from top to bottom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from embervlm.console import console as everyone
from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.train.alone import alone_in
from embervlm.train.announce import announce, summarise
from embervlm.train.build import (
    all_steps,
    build_arguments,
    build_data,
    build_features,
    build_model,
    build_order,
    build_train_set,
    build_trainer,
    fit_length,
)
from embervlm.train.interrupt import StopOnSignal
from embervlm.train.progress import ProgressBar
from embervlm.train.start import decide_start
from embervlm.train.teaching import build_lesson, change_of_teacher
from embervlm.train.tracking import MetricsFile, follow

INTERRUPTED = 130


def run_train(settings: TrainSettings) -> int:
    """Train the stages that are asked for, in order. Returns the exit code: 0, or 130 after Ctrl-C."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the loader's processes fork
    stages = sorted(set(settings.stages))
    for number, stage in enumerate(stages):
        mine = settings.for_stage(stage)
        with alone_in(settings.output_dir / f"stage{stage}"):
            code = train_stage(mine if number == 0 else replace(mine, resume_from=None), last=stage == stages[-1])
        if code:
            return code
    return 0


def train_stage(settings: TrainSettings, last: bool = True) -> int:
    """One stage, from the settings of that stage alone; `last`: no other one comes after it."""
    (stage,) = settings.stages
    folder = settings.output_dir / f"stage{stage}"
    console = everyone if int(os.environ.get("RANK", "0")) == 0 else Console(quiet=True)
    start = decide_start(stage, settings.preset, settings.resume_from, settings.output_dir)

    arguments, notes = build_arguments(settings)
    data = build_data(settings)
    model = build_model(settings, start)
    row_length = settings.max_length  # a packed row may be longer than what the model counts: positions restart in it
    settings, more = fit_length(settings, model)
    notes += more
    train_set = build_train_set(settings, data, model)
    order, more = build_order(settings, train_set)
    notes += more
    steps = all_steps(arguments, len(order))
    if start.resume and start.weights is not None and start.weights.step >= steps:
        raise UserError(
            f"{start.weights.path} has {start.weights.step} steps behind it, this run ends at step {steps}: "
            "there is nothing left to train. Raise --epochs or --max_steps."
        )
    lesson = build_lesson(settings, data.prepared, model.processor, arguments.device)
    notes += change_of_teacher(start, lesson)
    with one_sentence():
        # Judged by all steps, also after a resume: it must see the same numbers as a run that was not stopped.
        features, more = build_features(settings, arguments, data, train_set, len(order), model, steps, console)
    notes += more
    interrupt = StopOnSignal(speaks=not console.quiet)
    metrics = MetricsFile(folder / "metrics.json", stage)
    progress = ProgressBar(console, stage)
    callbacks = [interrupt, metrics, progress, *follow(settings, folder)]
    trainer = build_trainer(settings, arguments, data, train_set, order, model, lesson, callbacks, row_length, features)

    announce(console, settings, start, data, train_set, model, lesson, steps, notes)
    try:
        with one_sentence(), interrupt:
            trainer.train(resume_from_checkpoint=str(start.weights.path) if start.resume and start.weights else None)
    finally:
        progress.close()
    if interrupt.stopped and trainer.state.global_step < steps:
        return _stopped(console, folder, trainer.state.global_step, stage)
    summarise(console, trainer, metrics, folder)
    if interrupt.stopped and not last:
        console.print(f"Stopped. Stage {stage} is complete; go on with --stages {stage + 1}.")
        return INTERRUPTED
    return 0


@contextmanager
def one_sentence() -> Iterator[None]:
    """What a loader's process complains about, without the traceback that torch wraps around it."""
    try:
        yield
    except UserError as error:
        said = str(error)
        raise UserError(said.rpartition("UserError: ")[2].strip() if "DataLoader worker" in said else said) from error


def _stopped(console: Console, folder: Path, step: int, stage: int) -> int:
    console.print(
        f"Stopped after step {step}. To go on: repeat the command with "
        f"--stages {stage} --resume_from {folder / f'checkpoint-{step}'}",
        soft_wrap=True,
    )
    return INTERRUPTED
