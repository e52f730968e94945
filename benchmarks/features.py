"""What frozen features and packing are worth, what features cost to make, and how long training waits for data.

    python -m benchmarks.features            # minutes
    python -m benchmarks.features --quick    # fewer steps

Generated photographs of COCO's size (640 x 480) with VQA-v2's questions a picture (5.4, at least 3) and short answers.
Nothing is kept in memory between steps, as with a data set of real size: pixels are decoded, features are read from
disk. The ways of training run in turns on the same samples in one process; unpacked, these come in random order, as an
ordinary trainer reads them. Speeds are of text tokens (questions and answers, without the picture's own), which every
way reads equally often: with loading, and of the steps alone, as if the batches were there.
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

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

from benchmarks.training import BATCH
from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.features import FrozenFeatures
from embervlm.batch.sampler import ImageMajorSampler, RankBatches
from embervlm.console import console
from embervlm.data.record import Record, write_records
from embervlm.device import pick_device, wait_for
from embervlm.settings import TrainSettings
from embervlm.train.build import build_data, build_model, build_train_set, fit_length
from embervlm.train.encode_pictures import fill
from embervlm.train.features import Pictures, find_missing, open_store
from embervlm.train.meter import WaitClock
from embervlm.train.start import Start

REACH = {"37m": 5.0, "tiny": 3.0}  # in the tiny student the language model takes most of a step
MOST_WAITING = 0.03
WAYS = {"unpacked pixels": (False, False), "packed pixels": (True, False), "packed features": (True, True)}
WORDS = "what is the color of this man on left bus holding how many people are there in a red hat".split()


def make_pictures(folder: Path, count: int, seed: int = 0) -> None:
    """Smooth noise: JPEG takes as long to decode as a photograph of that many bytes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for n in range(count):
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{n:012d}.jpg", quality=85)


def make_world(folder: Path, pictures: int, seed: int = 0) -> Path:
    """A prepared Stage 2 set with 3 + Poisson(2.4) questions a picture, as VQA-v2 has 5.4. Returns the data_dir."""
    make_pictures(folder / "images", pictures, seed)
    rng = np.random.default_rng(seed)
    records = []
    for n in range(pictures):
        for _ in range(3 + rng.poisson(2.4)):
            words = rng.choice(WORDS, rng.integers(4, 10))
            question = " ".join([*words]).capitalize() + "?"
            answer = str(rng.choice(["yes", "no", "2", "red", "tennis racket"]))
            records.append(Record(f"q{len(records)}", f"{n:012d}.jpg", question, answer, metadata={"source": "vqa_v2"}))
    home = folder / "stage2"
    home.mkdir()
    write_records(home / "train.jsonl", records)
    write_records(home / "val.jsonl", records[:1])
    (home / "dataset.json").write_text(json.dumps({"image_root": "../images", "splits": {}, "settings": {}}))
    return folder


class Student:
    """One student over one prepared set, its encoder frozen, and a step in each of `WAYS`."""

    def __init__(self, preset: str, data_dir: Path, device: torch.device, workers: int = 0) -> None:
        self.device = device
        self.settings = TrainSettings(preset=preset, data_dir=data_dir, unfreeze_vision=0, dataloader_workers=workers)
        self.data = build_data(self.settings)
        self.model: Any = build_model(self.settings, Start(None, False, "")).to(device).train()
        self.settings, _ = fit_length(self.settings, self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)
        self.features: FrozenFeatures | None = None
        self.batch_size = BATCH[preset]

    def dataset(self, features: bool) -> Any:
        """Without a memory of pixels."""
        found = build_train_set(self.settings, self.data, self.model)
        found._pixels.left = 0
        found.features = self.features if features else None
        return found

    def collator(self, packed: bool) -> Collator:
        return Collator(self.model.processor, pack_length=self.settings.max_length if packed else None)

    def make_features(self, folder: Path) -> dict[str, float]:
        """Pictures a second and bytes a picture; what was made is used from now on."""
        store, about = open_store(folder, self.model)
        pictures = Pictures.of(self.data.prepared.image_root, self.data.records, 1.0)
        files = find_missing(store, pictures).files
        store.describe(about)
        began = time.perf_counter()
        processor, workers = self.model.processor.image_processor, self.settings.dataloader_workers
        fill(store, self.model.vision.frozen_part(), processor, workers, self.device, console, files)
        seconds = time.perf_counter() - began
        store.refresh()
        self.features = store.features_of(find_missing(store, pictures).keys)
        return {"pictures_per_second": round(len(files) / seconds, 1), "bytes_per_picture": store.picture_bytes}

    def step(self, batch: dict[str, Any]) -> None:
        self.model(**model_inputs(batch, self.device), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait_for(self.device)

    def speeds(self, steps: int) -> dict[str, Any]:
        """Text tokens a second of each way, and what a look at a picture costs."""
        ways = {name: (self.dataset(features), self.collator(packed)) for name, (packed, features) in WAYS.items()}
        batches = list(RankBatches(ImageMajorSampler(self.data.records, 0), self.batch_size))[: steps + 1]
        taken: dict[str, list[float]] = {name: [] for name in ways}
        stepped: dict[str, list[float]] = {name: [] for name in ways}
        texts, looks = [], []
        shuffle = np.random.default_rng(0)
        images = self.model.config.num_image_tokens
        for number, indices in enumerate(track(batches, "steps", console=console, transient=True)):
            for name, (data, collate) in ways.items():
                order = indices if WAYS[name][0] else shuffle.permutation(indices).tolist()
                began = time.perf_counter()
                samples = [data[at] for at in order]
                batch = collate(samples)
                loaded = time.perf_counter()
                self.step(batch)
                if number:  # the first warms up
                    taken[name].append(time.perf_counter() - began)
                    stepped[name].append(time.perf_counter() - loaded)
            if number:
                texts.append(sum(len(s.encoded.input_ids) - images for s in samples))
                looks.append(len({s.record.image for s in samples}))
        speed = {
            name: statistics.median(t / s for t, s in zip(texts, seconds, strict=True))
            for name, seconds in taken.items()
        }
        saved = zip(taken["packed pixels"], taken["packed features"], looks, strict=True)
        return {
            "tokens_per_second": {name: round(value) for name, value in speed.items()},
            "ratio": against_unpacked(taken),
            "ratio_of_steps": against_unpacked(stepped),
            "seconds_saved_a_look": round(statistics.median((a - b) / n for a, b, n in saved), 5),
        }

    def wait_share(self, features: bool, workers: int, steps: int) -> float:
        """Of the time of `steps` packed steps; workers start before the clock does."""
        order = ImageMajorSampler(self.data.records, 0)
        loader: DataLoader[Any] = DataLoader(
            self.dataset(features),
            batch_sampler=RankBatches(order, self.batch_size),
            collate_fn=self.collator(True),
            num_workers=workers,
        )
        clock = WaitClock()
        batches = iter(loader)
        self.step(next(batches))
        began = time.perf_counter()
        for number, batch in enumerate(clock.timed(batches), start=1):
            self.step(batch)
            if number == steps:
                break
        return round(clock.drain(time.perf_counter() - began), 4)


def against_unpacked(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times faster each way is than unpacked pixels, the median over steps on the same samples."""
    base = seconds["unpacked pixels"]
    return {
        name: round(statistics.median(a / b for a, b in zip(base, mine, strict=True)), 2)
        for name, mine in seconds.items()
    }


def measure(preset: str, folder: Path, pictures: int, steps: int, wait_steps: int, device: torch.device) -> Any:
    """Everything about one student; `folder` is written to."""
    data_dir = make_world(folder / f"world-{preset}", pictures)
    student = Student(preset, data_dir, device)
    found: dict[str, Any] = {"build": student.make_features(folder / preset)}
    found |= student.speeds(steps)
    found["looks_that_pay"] = round(
        1 / (found["build"]["pictures_per_second"] * max(found["seconds_saved_a_look"], 1e-9)), 2
    )
    found["wait_share"] = {
        way: {workers: student.wait_share(way == "features", workers, wait_steps) for workers in (0, 1, 2)}
        for way in ("pixels", "features")
    }
    return found


def measure_all(quick: bool) -> dict[str, Any]:
    """Every student, with `passed`; printed as tables."""
    device = pick_device("auto")
    sizes = {"tiny": (150, 8, 8), "37m": (60, 5, 5)}  # pictures, steps of each way, steps that may wait
    if quick:
        sizes = {"tiny": (60, 3, 3), "37m": (30, 2, 2)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset, (pictures, steps, wait_steps) in sizes.items():
            found[preset] = measure(preset, Path(folder), pictures, steps, wait_steps, device)
    for preset, numbers in found.items():
        table = Table(preset, "text tokens/s", "times", "times, steps alone")
        for way in WAYS:
            ratios = (f"{numbers[name][way]:.2f}" for name in ("ratio", "ratio_of_steps"))
            table.add_row(way, f"{numbers['tokens_per_second'][way]:,}", *ratios)
        console.print(table)
        build = numbers["build"]
        console.print(
            f"features: {build['pictures_per_second']:,} pictures/s, {build['bytes_per_picture']:,} bytes a picture; "
            f"they pay from {numbers['looks_that_pay']:.2f} looks on"
        )
        for way, shares in numbers["wait_share"].items():
            told = ", ".join(f"{workers} workers {share:.1%}" for workers, share in shares.items())
            console.print(f"waiting for data, {way}: {told}")
    passed = all(numbers["ratio"]["packed features"] >= REACH[preset] for preset, numbers in found.items())
    passed &= all(numbers["wait_share"]["features"][2] < MOST_WAITING for numbers in found.values())
    return {"students": found, "passed": passed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    found = {"benchmark": "features", "quick": options.quick, **measure_all(options.quick)}
    print(json.dumps(found))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
