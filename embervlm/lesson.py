"""Which teachers a run has: caches, live ones, or none. A teacher that was asked for and is not there is an error."""

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
from embervlm.settings import InspectSettings, TrainSettings
from embervlm.teachers.outputs import check_records
from embervlm.teachers.registry import is_served, load_teacher, loading_options, name_in_cache, resolve_teacher
from embervlm.teachers.several import caches_in, find_cache, parse_teachers, same_teacher, shares
from embervlm.teachers.store import MANIFEST, TeacherCache, read_manifest

Choice = TrainSettings | InspectSettings
"""Settings that name teachers: both have the same flags for it."""


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
    def live(self) -> bool:
        """Whether any of the teachers is a model in this process."""
        return self.teaching.live or any(teaching.live for _, teaching in self.others)

    @property
    def outputs(self) -> LookUp:
        return self.teaching.outputs


@dataclass(frozen=True)
class _Source:
    """Where one teacher comes from: its cache, or the model itself, and then why not from a cache."""

    weight: float
    name: str
    cache: TeacherCache | None = None
    why_live: str = ""


def told_without(stage: int) -> str:
    """What people are told where there is no lesson."""
    more = "; Stage 1 has one with --no_disable_distillation." if stage == 1 else "."
    return f"No teacher: the labels alone{more}"


def open_lesson(
    settings: Choice,
    folder: Path,
    prepared: PreparedSet,
    processor: Any,
    device: torch.device,
    splits: Sequence[str] = ("train", "val"),
    keep_in: Path | None = None,
) -> Lesson:
    """The teachers that the settings name.

    A teacher that is named is taken from its cache in `folder`, or from those that are given; without one it is loaded.
    A single name gives way to caches that are given.

    Args:
        folder: where the caches of a run lie, `outputs/stage2/teacher_outputs`.
        splits: what a teacher must be able to read; a cache must be about the first of them.
        keep_in: folder for the spellings of a live teacher's tokens.
    """
    sources = _find_sources(settings, folder, prepared, splits[0])
    for source in sources:
        if source.cache is None and not is_served(source.name):
            resolve_teacher(source.name)  # a wrong name is told before the first of several large models is loaded
    silences = _silences(sources, prepared, splits[0])
    alone = len(sources) == 1
    parts = [_open(source, alone, settings, prepared, processor, device, splits, keep_in) for source in sources]
    (first, about_val, note), *others = parts
    if others:
        notes = (
            f"{source.weight:.0%} {note}{silence}"
            for source, (_, _, note), silence in zip(sources, parts, silences, strict=True)
        )
        note = "\n".join(notes)
    rest = tuple((source.weight, teaching) for source, (teaching, _, _) in zip(sources[1:], others, strict=True))
    return Lesson(first, about_val, note, settings.distillation_targets, rest, sources[0].weight)


def _find_sources(settings: Choice, beside: Path, prepared: PreparedSet, split: str) -> list[_Source]:
    """Every teacher with its share, from the caches that are given or by name."""
    weights = settings.teacher_weights
    given = settings.use_cached_teacher_outputs
    caches = [_checked(folder, prepared, split) for place in given or () for folder in caches_in(place)]
    named_in = settings.teacher_model or ()
    many = not isinstance(named_in, str) and len(named_in) > 1
    if given is not None and not many:
        if weights is not None and len(caches) > len(given):
            raise UserError(
                f"{', '.join(map(str, given))} holds {len(caches)} caches, and --teacher_weights does not say which "
                "number is whose: pass --teacher_model with NAME:WEIGHT for each."
            )
        # Two caches of one teacher (other prompts, other weights) may stand beside each other: names are not looked at.
        each = shares([str(cache.folder) for cache in caches], weights, "caches")
        return [_Source(share, _name(cache), cache) for share, cache in zip(each, caches, strict=True)]
    if weights is not None and not many:
        raise UserError(
            "--teacher_weights are the shares of several teachers; name them: --teacher_model A:0.6 B:0.4, or "
            "--use_cached_teacher_outputs A B"
        )
    named = parse_teachers(named_in, weights)
    for cache in caches:
        if not any(same_teacher(_name(cache), name) for name, _ in named):
            raise UserError(
                f"{cache.folder} is about teacher {_name(cache)}, which --teacher_model does not name "
                f"({', '.join(name for name, _ in named)}); name it, or leave the cache out."
            )
    sources = []
    for name, share in named:
        mine = [cache for cache in caches if same_teacher(_name(cache), name)]
        found = mine[0] if mine else _beside(beside, name_in_cache(settings, name), prepared, split)
        source = _Source(share, name, found) if isinstance(found, TeacherCache) else _Source(share, name, None, found)
        sources.append(source)
    return sources


def _checked(folder: Path, prepared: PreparedSet, split: str) -> TeacherCache:
    cache = TeacherCache(folder)
    cache.require(data={split: prepared.fingerprint(split)})
    return cache


def _name(cache: TeacherCache) -> str:
    return str(cache.info["teacher"]["name"])


def _beside(folder: Path, teacher: str, prepared: PreparedSet, split: str) -> TeacherCache | str:
    """The cache that lies where caches lie, if it is about this teacher and data; else why it is not used."""
    try:
        place = find_cache(folder, teacher)
        if place is not None:
            return _checked(place, prepared, split)
        others = [_name_at(place) for place in caches_in(folder) if (place / MANIFEST).is_file()]
    except UserError as problem:
        return f" (not used: {problem})"
    return f" ({folder} is about teacher {', '.join(others)} and is not used)" if others else ""


def _name_at(folder: Path) -> str:
    return str(read_manifest(folder)["teacher"]["name"])


def _silences(sources: Sequence[_Source], prepared: PreparedSet, split: str) -> list[str]:
    """Of each of several teachers, about how many records it says nothing. UserError where nobody says anything."""
    if len(sources) == 1:
        return [""]
    records = [record.id for record in prepared.records(split)]
    silent = [set() if s.cache is None else {name for name in records if name not in s.cache} for s in sources]
    if nobody := set.intersection(*silent):
        first = next(name for name in records if name in nobody)
        raise UserError(
            f"None of the {len(sources)} teachers says anything about {len(nobody):,} records of {split}, {first} is "
            "the first. Build the caches again on this data, or leave these records out."
        )
    return [
        f" It says nothing about {len(missing):,} of {len(records):,} records: there the others take its share."
        if missing
        else ""
        for missing in silent
    ]


def _open(
    source: _Source,
    alone: bool,
    settings: Choice,
    prepared: PreparedSet,
    processor: Any,
    device: torch.device,
    splits: Sequence[str],
    keep_in: Path | None,
) -> tuple[Teaching, bool, str]:
    """One teacher at work, whether it can speak about val, and what people are told of it."""
    cache = source.cache
    if cache is not None:
        about_val = "val" in splits and cache.info["data"].get("val") == prepared.fingerprint("val")
        note = f"Teacher: {_name(cache)}, from {cache.folder} ({len(cache):,} records)."
        if "val" in splits and not about_val:
            note += " It says nothing about val: no KL is measured during training."
        teaching = cached_teaching(cache, processor.tokenizer, alone)
        return teaching, about_val, note + _told(teaching)
    teacher = load_teacher(source.name, device, **loading_options(settings, None if alone else source.name))
    for split in splits:
        check_records(teacher, prepared.records(split))
    teaching = live_teaching(teacher, prepared.image_root, processor.tokenizer, settings.teacher_top_k, keep_in)
    if teacher.model is None:
        size = f"served at {source.name}, its tail {teaching.tail}"
    else:
        size = f"{sum(parameter.numel() for parameter in teacher.model.parameters()) / 1e6:,.1f}M parameters"
    live = f"Teacher: {teacher.name}, live, {size}{source.why_live}."
    return teaching, True, f"{live} A cache is 3 to 5 times faster.{_told(teaching)}"


def _told(teaching: Teaching) -> str:
    return f" It sees no picture: it is told by {teaching.told}." if teaching.told else ""
