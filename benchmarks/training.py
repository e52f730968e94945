"""What a cached teacher costs a training step, against the same step on the labels alone.

    python -m benchmarks.training            # 15 pairs of steps of each student
    python -m benchmarks.training --quick    # 4; under a minute

The embedded world with the cache of its teacher, both written into a temporary folder. A step is what a training step
is: samples, collation with the look-up of the targets, forward, backward, clipping and AdamW. Pictures and projected
targets are kept in memory after their first use, as they are in training; the steps measured come from the first
visit to their records (the `first` ratios: nothing was projected yet) and from the second one on (`later`). Both kinds
of step run in turns on the same records; the ratio is that of each pair, the median of all is shown. On a GPU the
batches are still made by this one process, and the model runs in bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table

from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.sampler import ImageMajorSampler
from embervlm.batch.teaching import cached_teaching
from embervlm.console import console
from embervlm.data.prepare import run_prepare
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.demo import TEACHER, prepare_words
from embervlm.device import pick_device, wait_for
from embervlm.options import parse
from embervlm.settings import CacheSettings, TrainSettings
from embervlm.teachers.cache import run_cache
from embervlm.teachers.store import TeacherCache
from embervlm.train.build import Data, build_data, build_model, build_train_set, fit_length, loss_schedule
from embervlm.train.start import Start

MOST = 1.05
BATCH = {"tiny": 64, "37m": 32}


def make_world(folder: Path, images: int) -> tuple[Path, Path]:
    """Prepared data and the teacher's cache of its train split."""
    write_toy(folder / "toy", images, 2, seed=0)
    run_prepare(parse(PrepareSettings, prepare_words(folder / "toy", folder / "data")))
    prepared, cache = folder / "data", folder / "cache"
    run_cache(
        CacheSettings(teacher_model=TEACHER, dataset_path=prepared / "stage2", splits=("train",), output_dir=cache)
    )
    return prepared, cache


class Student:
    """One student with its data, and a step of either kind on the same weights."""

    def __init__(self, preset: str, prepared: Path, cache: Path) -> None:
        settings = TrainSettings(preset=preset, data_dir=prepared, max_length=256)
        self.data: Data = build_data(settings)
        self.device = pick_device("auto")
        self.model: Any = build_model(settings, Start(None, False, "")).to(self.device)
        settings, _ = fit_length(settings, self.model)
        self.set = build_train_set(settings, self.data, self.model)
        processor: Any = self.model.processor
        targets = cached_teaching(TeacherCache(cache), processor.tokenizer).targets
        temperature = settings.distillation_temperature
        self.options = {kd: loss_schedule(settings, kd)(0, 1) for kd in (True, False)}
        self.collate = {
            kd: Collator(processor, targets if kd else None, temperature, settings.max_length) for kd in (True, False)
        }
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)
        order = list(ImageMajorSampler(self.set.records, 0))
        size = BATCH[preset]
        self.batches = [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
        self.model.train()

    def step(self, indices: list[int], kd: bool) -> float:
        """Seconds."""
        began = time.perf_counter()
        batch = self.collate[kd]([self.set[at] for at in indices])
        inputs = model_inputs(batch, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.model(**inputs, loss_options=self.options[kd], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait_for(self.device)
        return time.perf_counter() - began

    def ratios(self, pairs: int) -> dict[str, float]:
        batches = self.batches[: pairs + 1]
        for indices in batches:  # pictures are read and kept
            [self.set[at] for at in indices]
        self.step(batches[-1], True), self.step(batches[-1], False)  # warms up
        found = {}
        for visit in ("first", "later"):
            taken = []
            for turn, indices in enumerate(track(batches[:-1], visit, console=console, transient=True)):
                seconds = {kd: self.step(indices, kd) for kd in ((True, False) if turn % 2 else (False, True))}
                taken.append(seconds[True] / seconds[False])
            found[visit] = round(statistics.median(taken), 3)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    pairs = 4 if options.quick else 15
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared, cache = make_world(Path(folder), 60 if options.quick else 200)
        for preset in BATCH:
            found[preset] = Student(preset, prepared, cache).ratios(pairs)
    table = Table(
        "student", "first visit", "later", title="A step with a cached teacher / without", title_justify="left"
    )
    for preset, ratios in found.items():
        table.add_row(preset, *(f"{ratio:.3f}" for ratio in ratios.values()))
    console.print(table)
    passed = all(ratio <= MOST for ratios in found.values() for ratio in ratios.values())
    print(json.dumps({"benchmark": "training", "quick": options.quick, "passed": passed, "step_ratio": found}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
