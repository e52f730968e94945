"""What one GPU takes for the guide's 300,000 samples: a full-size teacher reads them, the 37M student trains on them.

    python -m benchmarks.gpu            # minutes on a GPU of 24 GB or more
    python -m benchmarks.gpu --quick    # small shapes; also on a CPU

Data: LLaVA-Instruct-150K, VQA-v2 and OK-VQA as `benchmarks.full_size` makes them, in the shares that `embervlm prepare`
takes by default (158 : 100 : 9), with pictures of 640 x 480.

Teacher: LLaVA-1.5-7B's shape with random weights in bf16 scores samples of each source, so many pictures at once as
`--batch_size` says; the minutes for 300,000 are what its samples/s come to. Its tokenizer is the first 16,000 tokens of
GPT-2, another one than the student's.
Student: `embervlm train --preset 37m --bf16` with a cached teacher and frozen features, every sample seen for the first
time, packed as always; a run before, which is not counted, warms the process up. Samples/s are those of all reports
but the first ones, in which workers and kernels start. `minutes` is what 300,000 samples come to at that speed. Beside
it the same without a teacher, and the making of the features, once for all epochs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.features import Student
from benchmarks.full_size import prepare_words, write_full_size
from benchmarks.teachers import make_llava
from embervlm.console import console
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.data.settings import PrepareSettings
from embervlm.device import peak_memory, pick_device, wait_for
from embervlm.evaluate.environment import environment
from embervlm.model.tokenizer import student_tokenizer
from embervlm.options import parse
from embervlm.settings import CacheSettings, TrainSettings
from embervlm.teachers.cache import run_cache
from embervlm.teachers.hf import HFTeacher
from embervlm.train.run import run_train

SAMPLES = 300_000
REACH_MINUTES = 5.0
TEACHER_VOCABULARY = 16_000


@dataclass(frozen=True)
class Size:
    share: float  # of the real data
    teacher: dict[str, Any]  # arguments of make_llava
    teacher_pictures: int  # that the large teacher reads
    teacher_batch: int
    preset: str
    batch: int
    workers: int
    warm: int  # reports that are left out
    every: int  # steps a report


LLAVA_7B = {"width": 4096, "layers": 32, "heads": 32, "intermediate": 11_008, "tower": (1024, 24, 16)}
SMALL_TEACHER: dict[str, Any] = {"width": 256, "layers": 2}
"""Writes the cache that the student trains from; a step costs the same whoever wrote it."""
FULL = Size(
    share=0.03,
    teacher=LLAVA_7B,
    teacher_pictures=128,
    teacher_batch=64,
    preset="37m",
    batch=128,
    workers=12,
    warm=3,
    every=5,
)
QUICK = Size(
    share=0.0006,
    teacher=SMALL_TEACHER,
    teacher_pictures=4,
    teacher_batch=4,
    preset="tiny",
    batch=16,
    workers=2,
    warm=1,
    every=1,
)


def make_data(folder: Path, share: float) -> PreparedSet:
    """The official files, a share of them, prepared."""
    write_full_size(folder / "official", share, pictures="links")
    words = [*prepare_words(folder / "official"), f"--vqa_samples={round(share * PrepareSettings.vqa_samples)}"]
    run_prepare(parse(PrepareSettings, [*words, f"--out={folder / 'data'}", "--val_fraction=0.01"]))
    return open_prepared(folder / "data" / "stage2")


def source(record: Record) -> str:
    return str(record.metadata["source"])


def measure_teacher(prepared: PreparedSet, size: Size, device: torch.device) -> dict[str, Any]:
    """Samples a second of each source, and the minutes for 300,000 in their shares."""
    began = time.perf_counter()
    with device:
        torch.set_default_dtype(torch.bfloat16)
        try:
            model, processor = make_llava(**size.teacher, tokenizer=student_tokenizer(TEACHER_VOCABULARY))
        finally:
            torch.set_default_dtype(torch.float32)
    wait_for(device)
    made = time.perf_counter() - began
    teacher = HFTeacher("llava-shaped", model.eval(), processor, size.teacher_batch)
    records = prepared.records("train")
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_to_make": round(made, 1),
    }
    speeds: dict[str, float] = {}
    for name in sorted({source(record) for record in records}):
        mine = [record for record in records if source(record) == name]
        part = of_first_pictures(mine, size.teacher_pictures)
        teacher.score(of_first_pictures(part, 8), prepared.image_root, 16)  # warms up
        wait_for(device)
        began = time.perf_counter()
        teacher.score(part, prepared.image_root, 16)
        wait_for(device)
        speeds[name] = len(part) / (time.perf_counter() - began)
    whole = sum(SAMPLES * share_of(name, records) / speed for name, speed in speeds.items())
    return {
        **found,
        "samples_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
        "minutes": round(whole / 60, 1),
        "peak_gib": round(peak_memory(device) / 2**30, 1),
    }


def of_first_pictures(records: Sequence[Record], count: int) -> list[Record]:
    """All records about the first so many pictures, picture by picture."""
    shown = list(dict.fromkeys(record.image for record in records))[:count]
    order = {image: at for at, image in enumerate(shown)}
    return sorted((r for r in records if r.image in order), key=lambda r: order[r.image])


def share_of(name: str, records: Sequence[Record]) -> float:
    return sum(source(record) == name for record in records) / len(records)


def write_cache(prepared: PreparedSet, folder: Path) -> Path:
    """By a small teacher with the large one's tokenizer."""
    model, processor = make_llava(**SMALL_TEACHER, tokenizer=student_tokenizer(TEACHER_VOCABULARY))
    model.save_pretrained(folder / "teacher")
    processor.save_pretrained(folder / "teacher")
    words = ["--teacher_model", str(folder / "teacher"), "--dataset_path", str(prepared.folder), "--splits", "train"]
    words += ["--force"]  # random weights know nothing, and the command would say so
    run_cache(parse(CacheSettings, [*words, "--output_dir", str(folder / "cache"), "--batch_size", "64"]))
    return folder / "cache"


def measure_student(prepared: PreparedSet, folder: Path, cache: Path | None, size: Size) -> dict[str, Any]:
    """One epoch of `embervlm train`: samples and tokens a second, the share of the time that waits for data."""
    out = folder / ("taught" if cache else "alone")
    words = ["--stages", "2", "--preset", size.preset, "--data_dir", str(prepared.folder.parent), "--bf16"]
    words += ["--output_dir", str(out), "--batch_size", str(size.batch), "--dataloader_workers", str(size.workers)]
    words += ["--unfreeze_vision", "0", "--frozen_features", "on", "--epochs", "1"]
    words += ["--features_dir", str(folder / "features")]
    words += ["--logging_steps", str(size.every), "--eval_steps", "100000", "--save_steps", "100000"]
    words += ["--eval_samples", "8", "--warmup_steps", "10"]
    words += ["--use_cached_teacher_outputs", str(cache)] if cache else ["--disable_distillation"]
    began = time.perf_counter()
    if code := run_train(parse(TrainSettings, words)):
        sys.exit(code)
    seconds = time.perf_counter() - began
    history = json.loads((out / "stage2" / "metrics.json").read_text(encoding="utf-8"))["history"]
    reports = [row for row in history if row["step"] % size.every == 0 and "stage2/samples_per_second" in row]
    reports = reports[size.warm :] or reports
    speed = {
        name: statistics.median(row[f"stage2/{name}"] for row in reports)
        for name in ("samples_per_second", "tokens_per_second", "data_wait_share")
    }
    return {
        "minutes": round(SAMPLES / speed["samples_per_second"] / 60, 2),
        "samples_per_second": round(speed["samples_per_second"]),
        "tokens_per_second": round(speed["tokens_per_second"]),
        "data_wait_share": round(speed["data_wait_share"], 3),
        "reports": len(reports),
        "command_seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    size, device = QUICK if options.quick else FULL, pick_device("auto")
    if device.type == "cpu" and not options.quick:
        print("There is no GPU here; --quick measures small shapes on the CPU.", file=sys.stderr)
        return 1
    found: dict[str, Any] = {"benchmark": "gpu", "quick": options.quick}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = make_data(folder, size.share)
        cache = write_cache(prepared, folder)
        encoder = Student(size.preset, prepared.folder.parent, device, size.workers)
        found["features"] = encoder.make_features(folder / "features")
        measure_student(prepared, folder, None, size)  # not counted: a process's first run pays for every allocation
        found["student"] = {
            "cached teacher": measure_student(prepared, folder, cache, size),
            "labels alone": measure_student(prepared, folder, None, size),
        }
        found["teacher"] = measure_teacher(prepared, size, device)
    show(found)
    found["environment"] = environment()
    found["passed"] = found["student"]["cached teacher"]["minutes"] <= REACH_MINUTES
    print(json.dumps(found))
    return 0 if found["passed"] or options.quick else 1


def show(found: dict[str, Any]) -> None:
    table = Table("", "samples/s", f"minutes for {SAMPLES:,}", "waiting", title="The student", title_justify="left")
    for way, told in found["student"].items():
        speed, minutes = f"{told['samples_per_second']:,}", f"{told['minutes']:.1f}"
        table.add_row(way, speed, minutes, f"{told['data_wait_share']:.1%}")
    console.print(table)
    teacher = found["teacher"]
    speeds = ", ".join(f"{name} {speed:,}" for name, speed in teacher["samples_per_second"].items())
    console.print(f"features: {found['features']['pictures_per_second']:,} pictures/s, made once", highlight=False)
    console.print(
        f"a teacher of {teacher['parameters'] / 1e9:.1f}B parameters: {speeds} samples/s, "
        f"{teacher['minutes']:,} minutes for {SAMPLES:,}, {teacher['peak_gib']} GiB at most",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
