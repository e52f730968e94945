"""What all cells share: the drawn world, and val in two halves, one to stop on, one to report.

Everything is made by the public commands, once, below one folder; what is there is not made again.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.learning.arms import TEACHER
from embervlm.answering.borrow import borrow
from embervlm.console import console
from embervlm.data.check_images import JOURNAL
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import run_toy
from embervlm.data.writing import write_prepared
from embervlm.options import parse
from embervlm.settings import AnswerSettings, CacheSettings, ToySettings


@dataclass(frozen=True)
class Scale:
    """How much of everything; part of each cell's definition."""

    train_images: int = 1500
    val_images: int = 500  # one half to stop on, one to report
    stage1_steps: int = 480
    steps: int = 800
    evaluations: int = 4
    stop_questions: int = 650  # of the half to stop on, at each evaluation
    batch_size: int = 64
    unfreeze_vision: int = 0


QUESTIONS = AnswerSettings.questions_per_picture
ALL_TOKENS = 4096
"""More than the vocabulary of either teacher."""
FULL = Scale()
QUICK = Scale(train_images=500, val_images=160, stage1_steps=160, steps=120, evaluations=3, stop_questions=200)


@dataclass(frozen=True)
class World:
    """The folder of one scale and what lies in it."""

    folder: Path
    scale: Scale

    @property
    def base(self) -> PreparedSet:
        """train as its annotators agree; val is the half that cells stop on."""
        return open_prepared(self.folder / "base" / "stage2")

    @property
    def report(self) -> PreparedSet:
        """val is the half that is reported; nothing is chosen by it."""
        return open_prepared(self.folder / "report" / "stage2")

    @property
    def blind_report(self) -> PreparedSet:
        """The same questions without their pictures."""
        folder = self.folder / "report" / "blind"

        def write() -> None:
            splits = {split: without_pictures(self.report.records(split)) for split in ("train", "val")}
            write_prepared(folder, self.report.image_root, splits, {})

        self.once("the half that is reported, without pictures", write)
        return open_prepared(folder)

    @property
    def report_cache(self) -> Path:
        return self.folder / "report" / "teacher_outputs"

    @cached_property
    def unseen(self) -> frozenset[str]:
        """Pictures of val that hold a colour-shape pair which train never shows."""
        numbers = json.loads((self.folder / "toy" / "pairs_unseen_in_train_val.json").read_text(encoding="utf-8"))
        return frozenset(f"COCO_val2014_{number:012d}.jpg" for number in numbers)

    def once(self, name: str, make: Callable[[], Any]) -> None:
        """Calls `make` unless it came to its end before."""
        done = self.folder / "done" / name
        if done.is_file():
            return
        console.rule(f"[bold]{name}")
        code = make()
        if isinstance(code, int) and code:
            sys.exit(code)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()

    def timed(self, name: str, make: Callable[[], object]) -> None:
        """As `once`, and `seconds` knows how long it took."""

        def measured() -> None:
            began = time.monotonic()
            make()
            note = self._note(name)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{time.monotonic() - began:.1f}", encoding="utf-8")

        self.once(name, measured)

    def seconds(self, name: str) -> float:
        return float(self._note(name).read_text(encoding="utf-8"))

    def _note(self, name: str) -> Path:
        return self.folder / "seconds" / name

    def make(self) -> None:
        """Draw, read, and let the teacher read the half that is reported."""
        toy, scale = self.folder / "toy", self.scale
        size = f"--train_images {scale.train_images} --val_images {scale.val_images} --seed 0"
        self.once("toy", lambda: run_toy(parse(ToySettings, shlex.split(f"--out {quoted(toy)} {size}"))))
        self.once(
            "prepare", lambda: run_prepare(parse(PrepareSettings, self._prepare_words(toy, self.folder / "prepared")))
        )
        self.once("halves", self._halve)
        self.once(
            "teacher on the half that is reported", lambda: read_by_teacher(self.report, self.report_cache, "val")
        )

    def further(self, times: int) -> PreparedSet:
        """Train has so many times more pictures, none of which is in `base`, and questions that nobody answered; its
        images hold those of `base`, too."""
        folder, scale = self.folder / f"further{times}", self.scale
        size = f"--train_images {(1 + times) * scale.train_images} --val_images {scale.val_images} --seed 0"

        def draw() -> int:
            # A larger world of the same seed begins with the same pictures.
            run_toy(parse(ToySettings, shlex.split(f"--out {quoted(folder / 'toy')} {size}")))
            run_prepare(parse(PrepareSettings, self._prepare_words(folder / "toy", folder / "prepared")))
            larger, known = open_prepared(folder / "prepared" / "stage2"), {r.id for r in self.base.records("train")}
            records = [unlabelled(record) for record in larger.records("train") if record.id not in known]
            write_prepared(folder / "stage2", larger.image_root, {"train": records, "val": larger.records("val")}, {})
            return 0

        self.once(f"{times} times more pictures", draw)
        return open_prepared(folder / "stage2")

    def borrowing(self, times: int) -> PreparedSet:
        """The same further pictures; each borrows questions of `base`, as in `embervlm answer --pictures`."""
        folder, base, root = self.folder / f"borrowing{times}", self.base, self.further(times).image_root

        def draw() -> None:
            known = PreparedSet(base.folder, root, base.info)
            # The pictures of val lie beside this folder, those of both halves.
            records = borrow(known, root / "train2014", QUESTIONS, 0, folder / JOURNAL, processes=1)
            write_prepared(folder / "stage2", root, {"train": records, "val": base.records("val")}, {})

        self.once(f"questions for {times} times more pictures", draw)
        return open_prepared(folder / "stage2")

    def _prepare_words(self, toy: Path, out: Path) -> list[str]:
        """Questions with short answers alone: they are what is scored, and long texts would take most of a step."""
        words = ["--out", str(out), "--image_root", f"{toy}/images", "--vqa_samples", "0"]
        words += ["--vqa_prompt", "{question}"]
        for split, flag in (("train", "--"), ("val", "--val_")):
            words += [f"{flag}captions", f"{toy}/captions_{split}.json"]
            words += [f"{flag}vqa", f"{toy}/v2_OpenEnded_mscoco_{split}2014_questions.json"]
            words += [f"{flag}vqa_annotations", f"{toy}/v2_mscoco_{split}2014_annotations.json"]
        return words

    def _halve(self) -> None:
        prepared = open_prepared(self.folder / "prepared" / "stage2")
        stop, report = halves(prepared.records("val"))
        train = prepared.records("train")
        root = prepared.image_root
        write_prepared(self.folder / "base" / "stage2", root, {"train": train, "val": stop}, {})
        write_prepared(self.folder / "report" / "stage2", root, {"train": train, "val": report}, {})


def halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Two parts that share no picture, by turns in the order of the pictures' names."""
    pictures = {name: at for at, name in enumerate(sorted({str(record.image) for record in records}))}
    parts: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        parts[pictures[str(record.image)] % 2].append(record)
    return parts


def read_by_teacher(prepared: PreparedSet, cache: Path, split: str = "train") -> None:
    """`embervlm cache build` with its defaults."""
    from embervlm.teachers.cache import run_cache

    words = ["--teacher_model", TEACHER, "--dataset_path", str(prepared.folder), "--splits", split]
    words += ["--output_dir", str(cache), "--batch_size", "64"]
    run_cache(parse(CacheSettings, words))


def answered_by_teacher(prepared: PreparedSet, folder: Path) -> PreparedSet:
    """`embervlm answer`: the teacher's likeliest answer to every question of train. `folder` gets a stage2/.

    Nothing is filtered: a filter would look at labels that the regime does not have.
    """
    from embervlm.answering.run import run_answer

    words = ["--teacher_model", TEACHER, "--dataset_path", str(prepared.folder), "--output_dir", str(folder)]
    words += ["--min_agreement", "0", "--max_new_tokens", "16", "--batch_size", "64"]
    run_answer(parse(AnswerSettings, words))
    return open_prepared(folder / "stage2")


def unlabelled(record: Record) -> Record:
    """The question alone; what people answered goes too, so that nothing of it can leak."""
    return replace(record, response="", answers=None)


def without_pictures(records: Sequence[Record]) -> list[Record]:
    return [replace(record, image=None) for record in records]


def definition(scale: Scale) -> dict[str, int]:
    return asdict(scale)


def quoted(path: Path) -> str:
    return shlex.quote(str(path))
