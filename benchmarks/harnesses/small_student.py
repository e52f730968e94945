"""A student of the embedded world in a few minutes of one core: enough for answers that differ by picture."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from embervlm.data.prepare import run_prepare
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.demo import STAGE1, STAGE2, prepare_words
from embervlm.options import parse
from embervlm.settings import TrainSettings
from embervlm.train.run import run_train

TRAIN_IMAGES, VAL_IMAGES = 600, 60
STEPS = {1: 120, 2: 300}


def small_student(folder: Path) -> tuple[Path, Path]:
    """(checkpoint, prepared data), made in `folder` where they are not there yet."""
    data = folder / "data"
    if not (data / "stage2" / "dataset.json").is_file():
        write_toy(folder / "toy", TRAIN_IMAGES, VAL_IMAGES, seed=0)
        run_prepare(parse(PrepareSettings, prepare_words(folder / "toy", data)))
    checkpoint = folder / "stage2" / "checkpoint-final"
    if not (checkpoint / "config.json").is_file():
        shared = f"--output_dir {shlex.quote(str(folder))} --data_dir {shlex.quote(str(data))} --max_length 256"
        for stage, words in ((1, STAGE1), (2, STAGE2)):
            steps = STEPS[stage]
            words = f"--stages {stage} --preset tiny {shared} {words} --max_steps {steps} --warmup_steps {steps // 20} "
            words += f"--eval_steps {steps} --save_steps {steps} --dataloader_workers 0 --eval_samples 100"
            if stage == 2:
                words += f" --disable_distillation --resume_from {shlex.quote(str(folder / 'stage1/checkpoint-final'))}"
            code = run_train(parse(TrainSettings, shlex.split(words)))
            if code:
                sys.exit(code)
    return checkpoint, data / "stage2"
