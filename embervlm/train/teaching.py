"""Which teacher a run has: a cache, a live one, or none. A teacher that was asked for and is not there is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from embervlm.batch.targets import LookUp, TeacherTargets
from embervlm.batch.teaching import Teaching, cached_teaching, live_teaching
from embervlm.data.prepared import PreparedSet
from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.teachers.outputs import check_records
from embervlm.teachers.registry import load_teacher, loading_options
from embervlm.teachers.store import MANIFEST, TeacherCache


@dataclass(frozen=True)
class Lesson:
    """One teacher or several, and what the first can speak about: it is the one that people are shown."""

    teaching: Teaching
    about_val: bool
    note: str
    trained: str = "resolved"  # the targets to train on
    others: tuple[tuple[float, Teaching], ...] = ()
    weight: float = 1.0  # of the first

    @property
    def targets(self) -> TeacherTargets:
        return self.teaching.targets

    @property
    def weighted(self) -> list[tuple[float, TeacherTargets]]:
        """Of every teacher, what is trained on."""
        every = [(self.weight, self.teaching), *self.others]
        return [(weight, teaching.targets.told_as(self.trained)) for weight, teaching in every]

    @property
    def names(self) -> tuple[str, ...]:
        """Of every teacher; what is called like an earlier one is numbered."""
        found: list[str] = []
        for name in (self.teaching.name, *(teaching.name for _, teaching in self.others)):
            found.append(name if name not in found else f"{name}_{len(found) + 1}")
        return tuple(found)

    @property
    def outputs(self) -> LookUp:
        return self.teaching.outputs


def build_lesson(settings: TrainSettings, prepared: PreparedSet, processor: Any, device: torch.device) -> Lesson | None:
    """None in Stage 1, with `disable_distillation`, and where alpha is 0 throughout."""
    (stage,) = settings.stages
    if settings.distillation_targets == "uld" and settings.distillation_loss != "uld":
        raise UserError(
            "--distillation_targets uld pairs tokens by position and knows only ranks: it goes with "
            f"--distillation_loss uld, not {settings.distillation_loss}."
        )
    never = settings.alpha_schedule == "constant" and settings.distillation_alpha == 0
    if stage == 1 or settings.disable_distillation or never:
        return None
    if settings.use_cached_teacher_outputs is not None:
        return _from_caches(settings, settings.use_cached_teacher_outputs, prepared, processor)
    if settings.teacher_weights is not None:
        raise UserError(
            "--teacher_weights are the shares of several caches; name them: --use_cached_teacher_outputs A B"
        )
    folder = settings.output_dir / f"stage{stage}"
    cache_or_why = _beside(folder / "teacher_outputs", settings.teacher_model, prepared)
    if isinstance(cache_or_why, TeacherCache):
        return _from_cache(cache_or_why, prepared, processor, settings.distillation_targets)
    teacher = load_teacher(settings.teacher_model, device, **loading_options(settings))
    for split in ("train", "val"):
        check_records(teacher, prepared.records(split))
    teaching = live_teaching(teacher, prepared.image_root, processor.tokenizer, settings.teacher_top_k, folder)
    size = sum(parameter.numel() for parameter in teacher.model.parameters())
    note = (
        f"Teacher: {teacher.name}, live, {size / 1e6:,.1f}M parameters{cache_or_why}. A cache is 3 to 5 times faster."
        f"{_told(teaching)}"
    )
    return Lesson(teaching, True, note, settings.distillation_targets)


def _from_caches(settings: TrainSettings, folders: Sequence[Path], prepared: PreparedSet, processor: Any) -> Lesson:
    weights = settings.teacher_weights or (1 / len(folders),) * len(folders)
    if len(weights) != len(folders):
        raise UserError(
            f"--teacher_weights has {len(weights)} numbers for {len(folders)} caches; it takes one for each."
        )
    lessons = []
    for folder in folders:
        cache = TeacherCache(folder)
        cache.require(data={"train": prepared.fingerprint("train")})
        lessons.append(_from_cache(cache, prepared, processor, settings.distillation_targets))
    first, *others = lessons
    if not others:
        return first
    shares = [weight / sum(weights) for weight in weights]
    note = "\n".join(f"{share:.0%} {lesson.note}" for share, lesson in zip(shares, lessons, strict=True))
    rest = tuple((share, lesson.teaching) for share, lesson in zip(shares[1:], others, strict=True))
    return Lesson(first.teaching, first.about_val, note, settings.distillation_targets, rest, shares[0])


def _beside(folder: Path, teacher: str, prepared: PreparedSet) -> TeacherCache | str:
    """The cache that lies where caches lie, if it is about this teacher and data; else why it is not used."""
    if not (folder / MANIFEST).is_file():
        return ""
    try:
        cache = TeacherCache(folder)
        cache.require(data={"train": prepared.fingerprint("train")})
    except UserError as problem:
        return f" (not used: {problem})"
    name = cache.info["teacher"]["name"]
    return cache if name == teacher else f" ({folder} is about teacher {name} and is not used)"


def _from_cache(cache: TeacherCache, prepared: PreparedSet, processor: Any, targets: str) -> Lesson:
    about_val = cache.info["data"].get("val") == prepared.fingerprint("val")
    note = f"Teacher: {cache.info['teacher']['name']}, from {cache.folder} ({len(cache):,} records)."
    if not about_val:
        note += " It says nothing about val: no KL is measured during training."
    teaching = cached_teaching(cache, processor.tokenizer)
    return Lesson(teaching, about_val, note + _told(teaching), targets)


def _told(teaching: Teaching) -> str:
    return f" It sees no picture: it is told by {teaching.told}." if teaching.told else ""
