"""Where a run's targets come from: a cache, a live teacher, or nobody. A teacher that was asked for and is not there is
an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from embervlm import tokens
from embervlm.batch.targets import LookUp, TeacherTargets, from_cache, from_teacher
from embervlm.data.prepared import PreparedSet
from embervlm.distill.targets import build_token_map
from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.store import MANIFEST, TeacherCache


@dataclass(frozen=True)
class Teaching:
    """One source of targets."""

    targets: TeacherTargets
    outputs: LookUp  # the teacher's own words, for people to look at
    about_val: bool
    live: bool  # a model in this process
    name: str
    note: str


def build_teaching(
    settings: TrainSettings, prepared: PreparedSet, processor: Any, device: torch.device
) -> Teaching | None:
    """None in Stage 1, with `disable_distillation`, and where alpha is 0 throughout."""
    (stage,) = settings.stages
    never = settings.alpha_schedule == "constant" and settings.distillation_alpha == 0
    if stage == 1 or settings.disable_distillation or never:
        return None
    beside = settings.output_dir / f"stage{stage}" / "teacher_outputs"
    if settings.use_cached_teacher_outputs is not None:
        cache = TeacherCache(settings.use_cached_teacher_outputs)
        cache.require(data={"train": prepared.fingerprint("train")})
        return cached_teaching(cache, prepared, processor)
    ignored = ""
    if (beside / MANIFEST).is_file():
        try:
            cache = TeacherCache(beside)
            cache.require(data={"train": prepared.fingerprint("train")})
            if cache.info["teacher"]["name"] == settings.teacher_model:
                return cached_teaching(cache, prepared, processor)
            ignored = f" ({beside} is about teacher {cache.info['teacher']['name']} and is not used)"
        except UserError as problem:
            ignored = f" (not used: {problem})"
    teacher = load_teacher(settings.teacher_model, device, trust_remote_code=settings.trust_remote_code)
    return live_teaching(
        teacher, prepared.image_root, processor, settings.teacher_top_k, settings.output_dir / f"stage{stage}", ignored
    )


def cached_teaching(cache: TeacherCache, prepared: PreparedSet, processor: Any) -> Teaching:
    """Targets from a cache of this data."""
    token_map = build_token_map(
        cache.token_bytes(), cache.tokenizer_fingerprint, cache.end_of_turn_id, processor.tokenizer, cache.folder
    )
    look_up = from_cache(cache, cache.folder)
    about_val = cache.info["data"].get("val") == prepared.fingerprint("val")
    name = cache.info["teacher"]["name"]
    note = f"Teacher: {name}, from {cache.folder} ({len(cache):,} records)."
    if not about_val:
        note += " It says nothing about val: no KL is measured during training."
    return Teaching(TeacherTargets(look_up, token_map, processor.tokenizer), look_up, about_val, False, name, note)


def live_teaching(
    teacher: Any, image_root: Path, processor: Any, top_k: int, folder: Path | None, ignored: str = ""
) -> Teaching:
    """Targets from a model that is asked in every step; what it said is remembered while there is room."""
    token_map = build_token_map(
        tokens.token_bytes(teacher.tokenizer),
        teacher.fingerprint()["tokenizer"],
        teacher.end_of_turn_id,
        processor.tokenizer,
        folder,
    )
    look_up = from_teacher(teacher, image_root, top_k)
    size = sum(parameter.numel() for parameter in teacher.model.parameters())
    note = f"Teacher: {teacher.name}, live, {size / 1e6:,.1f}M parameters{ignored}. A cache is 3 to 5 times faster."
    return Teaching(TeacherTargets(look_up, token_map, processor.tokenizer), look_up, True, True, teacher.name, note)
