"""Which records go where: a split without a common picture, subsets with every answer type in its share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from embervlm.data.official import image_key


def picture_of(record_id: str, image: str | None) -> str:
    """What a record is split by: its picture, whatever a source calls it; a record without one stands alone."""
    return f"text:{record_id}" if image is None else image_key(image)


def val_pictures(pictures: Iterable[str], fraction: float, seed: int) -> set[str]:
    """The pictures of val: `fraction` of them, at least one where it is not 0."""
    known = sorted(set(pictures))
    random.Random(f"{seed}-split").shuffle(known)
    # At least one picture, or an evaluation would have nothing to look at.
    return set(known[: max(1, round(fraction * len(known)))]) if fraction else set()


def subset(kinds: Sequence[str | None], wanted: int, seed: int, source: str) -> list[int]:
    """Which of some records to keep, in their order: `wanted` by chance, each answer type in the share that it has.

    Shares are rounded by largest remainders, so that exactly `wanted` are kept. 0 or too many keeps all.
    """
    if not wanted or wanted >= len(kinds):
        return list(range(len(kinds)))
    counts = Counter(kind or "" for kind in kinds)
    exact = {kind: wanted * count / len(kinds) for kind, count in sorted(counts.items())}
    quotas = {kind: int(share) for kind, share in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: (quotas[kind] - exact[kind], kind))
    for kind in by_remainder[: wanted - sum(quotas.values())]:
        quotas[kind] += 1
    places: dict[str, list[int]] = {kind: [] for kind in counts}
    for i, its_kind in enumerate(kinds):
        places[its_kind or ""].append(i)
    chance = random.Random(f"{seed}-{source}")
    return sorted(i for kind, quota in quotas.items() for i in chance.sample(places[kind], quota))
