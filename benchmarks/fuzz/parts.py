"""All cases by key."""

from __future__ import annotations

from benchmarks.fuzz import archives, loader, official, pictures, saved
from benchmarks.fuzz.cases import Group, Run

GROUPS: tuple[Group, ...] = (*official.GROUPS, *archives.GROUPS, *loader.GROUPS, *pictures.GROUPS, *saved.GROUPS)
RUNS: dict[str, Run] = {group.name: group.run for group in GROUPS}
PARTS = tuple(dict.fromkeys(group.name.partition("/")[0] for group in GROUPS))


def keys(share: float = 1.0, parts: tuple[str, ...] = PARTS) -> list[str]:
    """Of that share of the cases, spread over all groups."""
    found = [f"{g.name}/{i}" for g in GROUPS if g.name.partition("/")[0] in parts for i in range(g.count)]
    step = 1 / share
    return [found[int(i * step)] for i in range(round(len(found) * share))]
