"""The likeliest tokens of a distribution <-> streams of bytes: numbers of entries, levels, ranks.

A log-probability is kept as the level it falls into; levels are narrow where tokens are likely and wide where they are
not, as the gradient feels it. Within one level the entries have no order, so they are sorted by rank and only the gaps
between the ranks are written: of m entries that saves log2(m!) bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers.streams import golomb, ungolomb

MOST = 254
"""Entries that a token has at most."""
LOWEST = -24.0
"""Natural log below which a probability (4e-11) is stored as this."""
STREAMS = 7

_NARROWEST, _WIDENING = 0.04, 0.0622  # the level at -9 nats is 0.6 nats wide


def _edges() -> np.ndarray:
    edges = [0.0]
    while edges[-1] > LOWEST:
        edges.append(edges[-1] - _NARROWEST + _WIDENING * edges[-1])
    return np.array(edges)


_EDGES = _edges()
_VALUES = (_EDGES[:-1] + _EDGES[1:]) / 2


@dataclass(frozen=True)
class Entries:
    """Of n tokens, one after the other; those of a token by falling level, within a level by rising rank."""

    ends: np.ndarray  # int64 [n], one past each token's last entry
    ranks: np.ndarray  # int32 [E]
    levels: np.ndarray  # uint8 [E]

    def padded(self, tokens: range) -> tuple[np.ndarray, np.ndarray]:
        """int64 [m, k] ranks, -1 where a token has fewer entries, and float64 [m, k] log-probabilities, -inf there."""
        ends = self.ends[tokens.start : tokens.stop]
        first = int(self.ends[tokens.start - 1]) if tokens.start else 0
        counts = np.diff(ends, prepend=first)
        filled = np.arange(max(int(counts.max(initial=0)), 1)) < counts[:, None]
        part = slice(first, int(ends[-1]) if len(ends) else first)
        ranks, logprobs = np.full(filled.shape, -1, dtype=np.int64), np.full(filled.shape, -np.inf)
        ranks[filled], logprobs[filled] = self.ranks[part], _VALUES[self.levels[part]]
        return ranks, logprobs


def sort_entries(ranks: np.ndarray, logprobs: np.ndarray) -> Entries:
    """From [n, k] in any order; a log-probability of -inf is no entry.

    Raises:
        UserError: more than `MOST` entries.
    """
    if ranks.shape[1] > MOST:
        raise UserError(f"a teacher cache keeps at most {MOST} entries a token, asked for {ranks.shape[1]}")
    filled = logprobs > -np.inf
    at = np.searchsorted(-_EDGES, -np.clip(logprobs, LOWEST, 0.0), side="right") - 1
    levels = np.clip(at, 0, len(_VALUES) - 1)
    order = np.argsort(np.where(filled, (levels.astype(np.int64) << 32) + ranks, 1 << 62), axis=1)
    ordered = np.arange(ranks.shape[1]) < filled.sum(1)[:, None]
    return Entries(
        ends=np.cumsum(filled.sum(1)),
        ranks=np.take_along_axis(ranks, order, 1)[ordered].astype(np.int32),
        levels=np.take_along_axis(levels, order, 1)[ordered].astype(np.uint8),
    )


def write_entries(entries: Entries) -> list[np.ndarray]:
    """`STREAMS` arrays of uint8."""
    counts = np.diff(entries.ends, prepend=0)
    first = np.zeros(len(entries.ranks), dtype=bool)
    first[entries.ends[counts > 0] - counts[counts > 0]] = True
    drop = np.diff(entries.levels.astype(np.int64), prepend=0)
    same = ~first & (drop == 0)
    gaps = np.diff(entries.ranks.astype(np.int64), prepend=0) - 1
    return [
        counts.astype(np.uint8),
        entries.levels[first],
        drop[~first].astype(np.uint8),
        *golomb(entries.ranks[~same]),
        *golomb(gaps[same]),
    ]


def read_entries(streams: list[np.ndarray]) -> Entries:
    counts, start, drop, *coded = streams
    ends = np.cumsum(counts, dtype=np.int64)
    first = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=bool)
    first[(ends - counts)[counts > 0]] = True
    steps = np.zeros(len(first), dtype=np.int64)
    steps[first], steps[~first] = start, drop
    levels = _sums(steps, first)
    fresh = first | (steps != 0)
    gaps = np.zeros(len(first), dtype=np.int64)
    gaps[fresh], gaps[~fresh] = ungolomb(*coded[:2]), ungolomb(*coded[2:]) + 1
    return Entries(ends, _sums(gaps, fresh).astype(np.int32), levels.astype(np.uint8))


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Running sums that begin anew where `first` is true, as it is at 0."""
    total = np.cumsum(values)
    begin = np.flatnonzero(first)
    return total - np.repeat((total - values)[begin], np.diff(begin, append=len(values)))
