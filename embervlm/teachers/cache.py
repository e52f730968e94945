"""Building a teacher cache: plan the shards, score what is missing, say how fast it goes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embervlm import tokens
from embervlm.console import console
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.device import pick_device
from embervlm.processes import ALONE, Processes, own_device, start_processes
from embervlm.teachers.gate import check_teacher
from embervlm.teachers.outputs import Teacher, TeacherOutputs, batch_of, check_records, keep_likely
from embervlm.teachers.plan import Shard, name_shards, plan_shards
from embervlm.teachers.registry import is_served, load_teacher, loading_options, name_in_cache, resolve_teacher
from embervlm.teachers.several import cache_home, parse_teachers
from embervlm.teachers.store import MANIFEST, CacheWriter, TeacherCache

if TYPE_CHECKING:
    from embervlm.settings import CacheSettings

__all__ = ["CacheSummary", "CacheWriter", "TeacherCache", "build_cache", "run_cache"]

_CHUNK = 4
"""Batches that are given to the teacher together, for it to sort; the bar moves when they are done."""


@dataclass(frozen=True)
class CacheSummary:
    """What a build did. `bytes` counts every file but the manifest."""

    records: int
    reused: int  # records that an earlier run had scored
    tokens: int
    bytes: int
    seconds: float

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    @property
    def samples_per_second(self) -> float:
        return (self.records - self.reused) / max(self.seconds, 1e-9)


def build_cache(
    teacher: Teacher,
    prepared: PreparedSet,
    splits: Sequence[str],
    folder: str | Path,
    top_k: int = 16,
    batch_size: int = 32,
    min_share: float = 0.0,
    progress: bool = True,
    shard_records: int = 1024,
    processes: Processes = ALONE,
) -> CacheSummary:
    """Score every record of the splits and keep the result; continue where an earlier run stopped.

    Args:
        folder: made if need be; a cache of another teacher, data or setting is refused.
        top_k: entries kept per token at most.
        batch_size: records that the teacher reads at once.
        min_share: entries below this probability at T = 2 are left to the tail.
        shard_records: records per file; what a killed run loses at most, in each process.
        processes: who else builds this cache at the same time. The first shard, whose words order the ids of all, is
            made by the first process while the others wait.
    """
    first = processes.rank == 0
    progress = progress and first
    data = {split: prepared.fingerprint(split) for split in splits}
    plan = plan_shards({split: prepared.records(split) for split in splits}, shard_records)
    settings = {"top_k": top_k, "min_share": min_share, "shard_records": shard_records, "part": prepared.part}
    if said := getattr(teacher, "cache_settings", None):  # a served one knows less than others
        settings |= said(top_k)
    vocabulary = tokens.token_bytes(teacher.tokenizer)
    teacher.batch_size = batch_size
    about = (folder, teacher.fingerprint(), data, settings, teacher.end_of_turn_id, vocabulary)
    writer = CacheWriter(*about) if first else None
    named = processes.share(name_shards(plan, writer.placed()) if writer else None)
    plan = [replace(shard, name=name) for shard, (name, _) in zip(plan, named, strict=True)]
    missing = [shard for shard, (_, there) in zip(plan, named, strict=True) if not there]
    total, left = (sum(len(shard.records) for shard in part) for part in (plan, missing))
    begin = time.perf_counter()
    with asking_bar(teacher.name, -(-left // processes.count), progress) as tell:  # shared evenly, as near as one knows
        if processes.share(writer is not None and not writer.has_order):
            if writer and missing:
                _add(writer, missing[0], teacher, prepared.image_root, batch_size, tell)
            missing = missing[1:]
            processes.share(None)
        writer = writer or CacheWriter(*about, rank=processes.rank)
        for shard in missing[processes.rank :: processes.count]:
            _add(writer, shard, teacher, prepared.image_root, batch_size, tell)
    processes.share(None)  # all have come to their end
    if first:
        writer.finish([shard.name for shard in plan])
    totals = processes.share(writer.manifest["totals"])
    summary = CacheSummary(
        records=total,
        reused=total - left,
        tokens=totals["tokens"],
        bytes=totals["bytes"],
        seconds=time.perf_counter() - begin,
    )
    if progress:
        console.print(
            f"{folder}: {summary.records:,} records ({summary.reused:,} were there), {summary.tokens:,} tokens, "
            f"{summary.bytes_per_token:.1f} bytes a token, {summary.samples_per_second:.1f} samples/s"
        )
        if writer and (left_over := writer.manifest.get("unfinished")):
            console.print(
                f"[yellow]note[/] an earlier build of {', '.join(left_over)} was not finished: the cache is complete "
                "when that is built, too.",
                soft_wrap=True,
            )
    return summary


def run_cache(settings: CacheSettings) -> None:
    """`embervlm cache build`: let each teacher read the prepared set once and keep what it says."""
    prepared = open_prepared(settings.dataset_path)
    if settings.pictures_only:
        prepared = prepared.with_pictures()
    for split in settings.splits:  # complain about the data before a large model is loaded
        prepared.records(split)
    names = [name for name, _ in parse_teachers(settings.teacher_model)]
    for name in names[1:]:  # and about a wrong name before the first of several is
        if not is_served(name):
            resolve_teacher(name)
    device = pick_device(own_device(settings.device))
    with start_processes() as processes:
        folders = processes.share(
            [cache_home(settings.output_dir, name_in_cache(settings, name), len(names) > 1) for name in names]
        )
        for name, folder in zip(names, folders, strict=True):
            options = loading_options(settings, name if len(names) > 1 else None)
            _build_one(settings, prepared, load_teacher(name, device, **options), folder, processes)
            gc.collect()  # the weights of this teacher, before those of the next come
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _build_one(
    settings: CacheSettings, prepared: PreparedSet, teacher: Teacher, folder: Path, processes: Processes
) -> None:
    for split in settings.splits:
        check_records(teacher, prepared.records(split))
    begun = (folder / MANIFEST).is_file()
    if processes.rank == 0 and not begun and not settings.force:
        check_teacher(teacher, prepared, settings.splits[0], settings.batch_size)
    build_cache(
        teacher,
        prepared,
        settings.splits,
        folder,
        top_k=settings.top_k,
        batch_size=batch_of(teacher, settings.batch_size),
        min_share=settings.min_share,
        processes=processes,
    )


@contextmanager
def asking_bar(name: str, total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar with the rate of this process; call what it gives with the number of records done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    begin, done = time.perf_counter(), 0
    with Progress(*columns, console=console, disable=not progress) as bar:
        task = bar.add_task(f"asking {name}", total=total, rate="")

        def tell(records: int) -> None:
            nonlocal done
            done += records
            bar.update(task, advance=records, rate=f"{done / (time.perf_counter() - begin):.1f} samples/s")

        yield tell


def _add(
    writer: CacheWriter,
    shard: Shard,
    teacher: Teacher,
    image_root: Path,
    batch_size: int,
    tell: Callable[[int], None],
) -> None:
    """Score one shard and write it."""
    settings = writer.manifest["settings"]
    scored: dict[str, list[TeacherOutputs]] = {}
    for batch in _chunks(shard.records, _CHUNK * batch_size):
        outputs = teacher.score(batch, image_root, settings["top_k"])
        for record, turns in zip(batch, outputs, strict=True):
            scored[record.id] = [keep_likely(turn, settings["min_share"]) for turn in turns]
        tell(len(batch))
    writer.add(shard.name, shard.split, shard.source, [(r.id, scored[r.id]) for r in shard.records])


def _chunks(records: list[Record], size: int) -> Iterator[list[Record]]:
    """At least so many records each, those of one picture in one chunk; the teacher sorts and batches inside."""
    chunk: list[Record] = []
    for record in records:
        if len(chunk) >= size and (record.image is None or record.image != chunk[-1].image):
            yield chunk
            chunk = []
        chunk.append(record)
    if chunk:
        yield chunk
