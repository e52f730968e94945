"""Which teacher a run has: a cache, a live one, or none. A teacher that was asked for and is not there is an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from embervlm.batch.targets import LookUp, TeacherTargets
from embervlm.batch.teaching import Teaching, cached_teaching, live_teaching
from embervlm.data.prepared import PreparedSet
from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.store import MANIFEST, TeacherCache


@dataclass(frozen=True)
class Lesson:
    """A teacher and what it can speak about."""

    teaching: Teaching
    about_val: bool
    note: str

    @property
    def targets(self) -> TeacherTargets:
        return self.teaching.targets

    @property
    def outputs(self) -> LookUp:
        return self.teaching.outputs


def build_lesson(settings: TrainSettings, prepared: PreparedSet, processor: Any, device: torch.device) -> Lesson | None:
    """None in Stage 1, with `disable_distillation`, and where alpha is 0 throughout."""
    (stage,) = settings.stages
    never = settings.alpha_schedule == "constant" and settings.distillation_alpha == 0
    if stage == 1 or settings.disable_distillation or never:
        return None
    if settings.use_cached_teacher_outputs is not None:
        cache = TeacherCache(settings.use_cached_teacher_outputs)
        cache.require(data={"train": prepared.fingerprint("train")})
        return _from_cache(cache, prepared, processor, settings.distillation_targets)
    folder = settings.output_dir / f"stage{stage}"
    cache_or_why = _beside(folder / "teacher_outputs", settings.teacher_model, prepared)
    if isinstance(cache_or_why, TeacherCache):
        return _from_cache(cache_or_why, prepared, processor, settings.distillation_targets)
    teacher = load_teacher(settings.teacher_model, device, trust_remote_code=settings.trust_remote_code)
    teaching = live_teaching(
        teacher,
        prepared.image_root,
        processor.tokenizer,
        settings.teacher_top_k,
        folder,
        settings.distillation_targets,
    )
    size = sum(parameter.numel() for parameter in teacher.model.parameters())
    note = (
        f"Teacher: {teacher.name}, live, {size / 1e6:,.1f}M parameters{cache_or_why}. A cache is 3 to 5 times faster."
    )
    return Lesson(teaching, True, note)


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
    return Lesson(cached_teaching(cache, processor.tokenizer, targets), about_val, note)
