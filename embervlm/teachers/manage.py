"""`embervlm cache info | verify | merge`: look at teacher caches, check them to the last number, join them."""

from __future__ import annotations

import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track
from rich.table import Table

from embervlm.console import console
from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.teachers.from_logprobs import TAIL_EFFECT
from embervlm.teachers.join import join_caches
from embervlm.teachers.manifest import splits_without_shards
from embervlm.teachers.outputs import TeacherOutputs
from embervlm.teachers.store import TeacherCache, file_problem, read_manifest

if TYPE_CHECKING:
    from embervlm.settings import CacheInfoSettings, CacheMergeSettings, CacheVerifySettings

SHOWN_PROBLEMS = 20
NEAR_ZERO = 0.01
"""Nats by which the log-normaliser at T = 1 may differ from 0: fp32, and the narrowest level of the codec."""


def run_info(settings: CacheInfoSettings) -> None:
    """What a cache belongs to, and what it weighs."""
    info = read_manifest(settings.cache)
    facts = Table.grid(padding=(0, 3, 0, 0))
    for key, value in info["teacher"].items():
        facts.add_row(f"teacher {key}", str(value))
    for split, value in info["data"].items():
        facts.add_row(f"data {split}", str(value))
    for key, value in info["settings"].items():
        if value is not None:
            facts.add_row(key, str(value))
    if "tail" in info["settings"]:
        facts.add_row("", TAIL_EFFECT)
    totals, whole = info["totals"], info["complete"]
    per_token = f"{totals['bytes_per_token']:.1f} bytes a token, all files but the manifest"
    facts.add_row("in all", f"{totals['records']:,} records, {totals['tokens']:,} tokens, {totals['bytes']:,} bytes")
    facts.add_row("", per_token)
    facts.add_row("complete", "yes" if whole else "[red]no[/]: build it again, it continues where it stopped")
    console.print(facts)
    table = Table("split", "source", "shards", "records", "tokens", "bytes")
    groups = Counter((entry["split"], entry["source"]) for entry in info["shards"])
    for (split, source), count in groups.items():
        part = [entry for entry in info["shards"] if (entry["split"], entry["source"]) == (split, source)]
        sums = (sum(entry[key] for entry in part) for key in ("records", "tokens", "bytes"))
        table.add_row(split, source, f"{count:,}", *(f"{value:,}" for value in sums))
    console.print(table)


def run_verify_cache(settings: CacheVerifySettings) -> int:
    """Checksums, every record, and whether it belongs to a prepared set. Returns 1 where something is wrong."""
    info = read_manifest(settings.cache)
    problems = []
    for entry in track([*info["files"], *info["shards"]], "checksums", console=console, transient=True):
        if problem := file_problem(settings.cache, entry, verify=True):
            problems.append(f"{entry['name']} {problem}")
    if not info["complete"]:
        problems.append("it was not built to its end")
    problems += [f"it lists the split {split}, but holds no record of it" for split in splits_without_shards(info)]
    counted = 0
    if not problems:
        cache = TeacherCache(settings.cache, verify=False)
        for name in track(cache.records(), "records", console=console, transient=True):
            counted += 1
            try:
                problems += [f"record {name}: {wrong}" for turn in cache.get(name) or [] for wrong in strange(turn)]
            except (zlib.error, ValueError, IndexError) as error:
                problems.append(f"record {name} cannot be decoded ({error})")
        if counted != info["totals"]["records"]:
            problems.append(f"{info['totals']['records'] - counted} records are in it twice")
        if settings.dataset_path is not None:
            problems += _against(cache, settings.dataset_path)
    for problem in problems[:SHOWN_PROBLEMS]:
        console.print(f"[red]WRONG[/] {problem}", soft_wrap=True)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        console.print(f"{f'and {more:,} more. ' if more > 0 else ''}Build the cache again: whole shards are kept.")
        return 1
    console.print(f"[green]ok[/] {settings.cache}: {counted:,} records, {info['totals']['tokens']:,} tokens.")
    return 0


def strange(said: TeacherOutputs) -> list[str]:
    """What no teacher can have said."""
    kept, known = said.top_ids >= 0, said.starts >= 0
    starts, ends, normalisers = said.starts[known], said.ends[known], said.log_normalisers
    checks = (
        ((said.token_ids < 0).any(), "a realised token is no token"),
        ((said.top_logprobs[kept] > 1e-4).any() or (said.realised_logprobs > 1e-4).any(), "a probability above 1"),
        (not np.isfinite(said.top_logprobs[kept]).all(), "an entry without a probability"),
        (
            not np.isfinite(normalisers).all() or (np.abs(normalisers[:, 0]) > NEAR_ZERO).any(),
            "probabilities do not sum to 1",
        ),
        ((np.diff(normalisers, axis=1) < -1e-4).any(), "normalisers do not rise with the temperature"),
        ((np.diff(starts) < 0).any() or (np.diff(ends) < 0).any() or (ends < starts).any(), "tokens out of order"),
    )
    return [sentence for wrong, sentence in checks if wrong]


def _against(cache: TeacherCache, folder: Path) -> list[str]:
    """A cache may name the data's fingerprint and yet lack records of it."""
    prepared, problems = open_prepared(folder), []
    if cache.info["settings"].get("part") == "pictures":
        prepared = prepared.with_pictures()
    for split, fingerprint in cache.info["data"].items():
        missing = sum(record.id not in cache for record in prepared.records(split))
        if prepared.fingerprint(split) != fingerprint:
            problems.append(
                f"it was made for another {split} split than that of {folder}; {missing:,} records are missing"
            )
        elif missing:
            problems.append(f"{missing:,} records of {split} in {folder} are missing")
    return problems


def _whole(caches: Sequence[TeacherCache], folder: Path) -> dict[str, str]:
    """Fingerprints of the prepared set that the caches are parts of; UserError where they are not all of it."""
    prepared = open_prepared(folder)
    splits = sorted({split for cache in caches for split in cache.info["data"]})
    for split in splits:
        missing = [r.id for r in prepared.records(split) if not any(r.id in cache for cache in caches)]
        if missing:
            raise UserError(
                f"{len(missing):,} records of {split} in {folder} are in none of the caches, {missing[0]} is the first."
            )
    return {split: prepared.fingerprint(split) for split in splits}


def run_merge(settings: CacheMergeSettings) -> None:
    """Join caches of one teacher and the same settings into a new folder, which appears whole or not at all."""
    if len(settings.caches) < 2:
        raise UserError("Name the caches to join: --caches A,B (two or more folders).")
    if settings.output_dir.is_dir() and any(settings.output_dir.iterdir()):
        raise UserError(f"{settings.output_dir} is not empty; name another --output_dir.")
    partial = settings.output_dir.with_name(settings.output_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    caches: Sequence[TeacherCache] = [TeacherCache(folder) for folder in settings.caches]
    data = None if settings.dataset_path is None else _whole(caches, settings.dataset_path)
    join_caches(caches, partial, data)
    if settings.output_dir.is_dir():
        settings.output_dir.rmdir()
    partial.rename(settings.output_dir)
    merged = TeacherCache(settings.output_dir)
    console.print(
        f"{settings.output_dir}: {len(merged):,} records of {len(caches)} caches, "
        f"{merged.info['totals']['bytes_per_token']:.1f} bytes a token"
    )
