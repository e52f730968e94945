"""Caches of one teacher that were built apart, as one: their shards are copied as they are."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers.shards import write_arrays, write_whole
from embervlm.teachers.store import (
    MANIFEST,
    ORDER,
    VOCABULARY,
    TeacherCache,
    refuse_other,
    totals_of,
    vocabulary_ids,
    vocabulary_of,
)


def join_caches(caches: Sequence[TeacherCache], folder: Path, data: Mapping[str, str] | None = None) -> None:
    """One cache of several of one teacher; each shard keeps the order of ids that it was written with.

    Args:
        folder: must not exist.
        data: split -> fingerprint of the set that they are parts of; None: no split is in two caches.

    Raises:
        UserError: another teacher, other settings, a cache that is not complete, a record or a split in two of them.
    """
    _refuse_strangers(caches)
    info: dict[str, Any] = {**caches[0].info, "data": dict(data or _splits(caches)), "files": [], "shards": []}
    words: list[bytes | None] = [None] * info["vocabulary"]
    occur: set[int] = set()
    folder.mkdir(parents=True)
    for number, cache in enumerate(caches):
        for kind in ("files", "shards"):
            for entry in cache.info[kind]:
                if entry["name"] != VOCABULARY:
                    name = _renamed(entry["name"], number)
                    shutil.copyfile(cache.folder / entry["name"], folder / name)
                    order = {"order": _renamed(entry.get("order", ORDER), number)} if kind == "shards" else {}
                    info[kind].append({**entry, "name": name, **order})
        occur |= set(vocabulary_ids(cache.folder / VOCABULARY).tolist())
        words = [mine if mine is not None else other for mine, other in zip(cache.token_bytes(), words, strict=True)]
    size, digest = write_arrays(folder / VOCABULARY, vocabulary_of(np.array(sorted(occur)), words))
    info["files"].append({"name": VOCABULARY, "bytes": size, "sha256": digest})
    info["totals"] = totals_of(info)
    write_whole(folder / MANIFEST, (json.dumps(info, indent=2) + "\n").encode())


def _refuse_strangers(caches: Sequence[TeacherCache]) -> None:
    first, seen = caches[0].info, Counter(name for cache in caches for name in cache.records())
    for cache in caches:
        cache.require()
        refuse_other(cache.folder, cache.info, first["teacher"], {}, first["settings"])
    twice = [name for name, count in seen.items() if count > 1]
    if twice:
        raise UserError(f"{len(twice):,} records are in more than one of these caches, {twice[0]} is the first.")


def _splits(caches: Sequence[TeacherCache]) -> dict[str, str]:
    """The fingerprints of all splits, none of which may be in two caches."""
    data: dict[str, str] = {}
    for cache in caches:
        if shared := data.keys() & cache.info["data"].keys():
            raise UserError(
                f"Split {min(shared)} is in more than one of these caches: pass --dataset_path, the prepared set that "
                "they are parts of."
            )
        data |= cache.info["data"]
    return data


def _renamed(name: str, number: int) -> str:
    return f"{Path(name).stem}_{number}.safetensors"
