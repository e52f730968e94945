"""The bootstrap over pictures: questions about one picture are easy or hard together, so they are drawn together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embervlm.data.official import image_key
from embervlm.data.record import Record

DRAWS = 1000
_AT_ONCE = 4_000_000
"""Counts held at once: so many draws as fit."""


def pictures_of(records: Sequence[Record]) -> list[str]:
    """What each record is drawn with: its picture; one without a picture is drawn by itself."""
    return [f"alone:{r.id}" if r.image is None else image_key(r.image) for r in records]


def pictures_by_id(records: Sequence[Record]) -> dict[str, str]:
    """The same, by the record's id."""
    return dict(zip((record.id for record in records), pictures_of(records), strict=True))


def drawn_means(
    values: np.ndarray, pictures: Sequence[str] | np.ndarray | None, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Means [draws] over the questions of as many pictures as there are, drawn with replacement.

    The cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8.

    Args:
        values: [questions], float.
        pictures: of each question; None: every question is drawn by itself.
    """
    _, group = np.unique(np.arange(len(values)) if pictures is None else np.asarray(pictures), return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    # Pictures with equal sums and sizes are alike: how often each kind is drawn is multinomial.
    kinds, counts = np.unique(np.stack([np.round(sums, 9), sizes], 1), axis=0, return_counts=True)
    step = max(1, _AT_ONCE // len(counts))
    parts = []
    for start in range(0, draws, step):
        drawn = rng.multinomial(len(sums), counts / len(sums), size=min(step, draws - start)) @ kinds
        parts.append(drawn[:, 0] / drawn[:, 1])
    return np.concatenate(parts)


def bootstrap_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    pictures: Sequence[str] | np.ndarray | None = None,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` [n], from drawing whole pictures with replacement."""
    return interval_of(drawn_means(values, pictures, draws, rng))


def interval_of(drawn: np.ndarray) -> tuple[float, float]:
    """95%, percentiles."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
