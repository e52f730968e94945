"""A prepared data set of a few drawn pictures, for tests that train."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from embervlm.data.prepared import open_prepared
from embervlm.data.record import Record, write_records
from embervlm.settings import TrainSettings
from embervlm.teachers.cache import build_cache
from embervlm.teachers.registry import load_teacher
from embervlm.train import build
from tests.tiny_teacher import make_tiny_teacher

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 160, 40), "yellow": (230, 220, 30)}


def _records(split: str, count: int) -> list[Record]:
    names = list(COLOURS)
    records = []
    for n in range(count):
        name = names[n % len(names)]
        kind = n % 3
        common = {"id": f"{split}-{n}", "image": f"{name}.png"}
        if kind == 0:
            record = Record(
                **common,
                instruction="What color is it?",
                response=name,
                answers=(name,) * 10,
                answer_type="other",
                metadata={"source": "vqa_v2", "question_id": n},
            )
        elif kind == 1:
            turns = (("Describe the picture.", f"There is a {name} square."), ("Is it red?", "No, it is not."))
            record = Record(
                **common,
                instruction=turns[0][0],
                response=turns[0][1],
                conversations=turns,
                metadata={"source": "llava_instruct"},
            )
        else:
            record = Record(
                id=f"{split}-{n}",
                image=None,
                instruction=f"Say {name}.",
                response=name,
                metadata={"source": "llava_instruct"},
            )
        records.append(record)
    return records


def make_world(folder: Path, train: int = 12, val: int = 6, pixels: int = 24) -> Path:
    """`folder`/images and the prepared sets `folder`/stage1 and `folder`/stage2. Returns `folder` (a data_dir)."""
    images = folder / "images"
    images.mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (pixels, pixels), colour).save(images / f"{name}.png")
    for stage in (1, 2):
        home = folder / f"stage{stage}"
        home.mkdir()
        for split, count in (("train", train), ("val", val)):
            records = _records(split, count)
            if stage == 1:
                records = [
                    Record(r.id, r.image, "Describe.", f"A {r.image[:-4]} square.", metadata={"source": "caption"})
                    for r in records
                    if r.image is not None
                ]
            write_records(home / f"{split}.jsonl", records)
        (home / "dataset.json").write_text(json.dumps({"image_root": "../images", "splits": {}, "settings": {}}))
    return folder


def make_taught_world(
    folder: Path, splits: Sequence[str], name: Callable[[Path], str]
) -> tuple[Path, list[Path], Path]:
    """Data, two teachers, and a folder with their caches; the second teacher knows no record without a picture.

    name: folder of a teacher -> folder of its cache.
    """
    data, caches = make_world(folder / "data"), folder / "caches"
    teachers = [make_tiny_teacher(folder / "a"), make_tiny_teacher(folder / "b", seed=5, vocabulary=300)]
    prepared = open_prepared(data / "stage2")
    for teacher, known in zip(teachers, (prepared, prepared.with_pictures()), strict=True):
        build_cache(load_teacher(str(teacher)), known, tuple(splits), caches / name(teacher), progress=False)
    return data, teachers, caches


def settings(data: Path, out: Path, **changes) -> TrainSettings:
    """Settings of a run of a few steps on the CPU."""
    small = {
        "stages": (2,),
        "preset": "tiny",
        "data_dir": data,
        "output_dir": out,
        "disable_distillation": True,
        "max_steps": 4,
        "batch_size": 3,
        "eval_steps": 100,
        "save_steps": 100,
        "eval_samples": 2,
        "logging_steps": 1,
        "max_length": 256,
        "dataloader_workers": 0,
        "learning_rate": 1e-3,
    }
    return TrainSettings(**{**small, **changes})


NAN = float("nan")


def evaluations_say(monkeypatch, **values: Sequence[float]) -> None:
    """Of step 1, 2, ... instead of what is measured."""
    by_step = list(zip(*values.values(), strict=True))
    monkeypatch.setattr(
        build, "build_evaluation", lambda *args: lambda model, step: dict(zip(values, by_step[step - 1], strict=True))
    )
