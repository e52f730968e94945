"""Which records go into which file of a cache, and under which name: the same records give the same plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from embervlm.data.record import Record

_SHARD_NAMES = {"llava_instruct": "llava", "vqa_v2": "vqa", "ok_vqa": "okvqa", "unknown": "other"}


@dataclass(frozen=True)
class Shard:
    name: str
    split: str
    source: str
    records: list[Record]


def plan_shards(records: dict[str, list[Record]], shard_records: int) -> list[Shard]:
    """Shards by source, numbered through the splits in their order: the same records give the same plan."""
    plan: list[Shard] = []
    numbers: dict[str, int] = {}
    for split, rows in records.items():
        by_source: dict[str, list[Record]] = {}
        for record in rows:
            source = record.source
            by_source.setdefault(_SHARD_NAMES.get(source, re.sub(r"\W+", "_", source) or "other"), []).append(record)
        for source, group in by_source.items():
            group = _by_picture(group)
            for start in range(0, len(group), shard_records):
                number = numbers[source] = numbers.get(source, -1) + 1
                plan.append(Shard(_name(source, number), split, source, group[start : start + shard_records]))
    return plan


def name_shards(plan: Sequence[Shard], placed: Mapping[tuple[str, str], str]) -> list[tuple[str, bool]]:
    """(name, whether it is there) of each shard of the plan, in a folder that may hold shards of other splits.

    Names alone say nothing: every build of a split numbers its shards from 0. A shard is there where all its records
    are, as records of its split. The others continue the numbers of their split and source or, where these are taken,
    begin past all numbers of the source.

    Args:
        placed: (split, record) -> name of the shard that holds it, see `CacheWriter.placed`.
    """
    taken = set(placed.values())
    named: list[tuple[str, bool]] = []
    for (_, source), group in groupby(plan, key=lambda shard: (shard.split, shard.source)):
        shards = list(group)
        known = [_holder(shard, placed) for shard in shards]
        starts = [number - at for at, name in enumerate(known) if (number := _number(source, name)) >= at]
        past = 1 + max((_number(source, name) for name in taken), default=-1)
        for start in (*starts, _number(source, shards[0].name), past):
            new = [_name(source, start + at) for at, name in enumerate(known) if name is None]
            if taken.isdisjoint(new):
                break
        taken |= set(new)
        rest = iter(new)
        named += [(next(rest), False) if name is None else (name, True) for name in known]
    return named


def _holder(shard: Shard, placed: Mapping[tuple[str, str], str]) -> str | None:
    """The name under which a shard is there."""
    names = [placed.get((shard.split, record.id)) for record in shard.records]
    return names[0] if None not in names else None


def _name(source: str, number: int) -> str:
    return f"{source}_batch_{number}.safetensors"


def _number(source: str, name: str | None) -> int:
    """-1 for a name of another source or of none."""
    found = re.fullmatch(re.escape(source) + r"_batch_([0-9]{1,9})\.safetensors", name or "")
    return int(found[1]) if found else -1


def _by_picture(records: list[Record]) -> list[Record]:
    """Questions about one picture one after the other, pictures in order of first appearance."""
    places: dict[str, int] = {}
    for number, record in enumerate(records):
        places.setdefault(record.image or record.id, number)
    return sorted(records, key=lambda record: places[record.image or record.id])
