"""Which teacher tokens speak about which student token, decided on the bytes of the text that both have read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embervlm.tokens import Spans

NONE, ANCHORED, INTERIOR = 0, 1, 2
"""Kinds of a student position."""


@dataclass(frozen=True)
class Alignment:
    """One entry per student token; every index is -1 where the kind is NONE.

    ANCHORED: the token starts where a teacher token starts. INTERIOR: it starts inside a teacher token whose start is
    also a student boundary. NONE: neither, or a span is unknown.
    """

    kinds: np.ndarray  # int8 [m]
    first: np.ndarray  # int32 [m], the teacher token that holds the student token's first byte
    last: np.ndarray  # int32 [m], one past the teacher token that holds its last byte
    boundary: np.ndarray  # int32 [m], the student token that starts where teacher token `first` starts


def align(student: Spans, teacher: Spans) -> Alignment:
    """Align by byte offsets. Spans of -1 are unknown and never guessed; the other starts must not decrease.

    A token without bytes (the end of turn) starts and ends at the end of the text: so the student's EOS is anchored to
    the teacher's end-of-turn token when both reach the end.
    """
    count = len(student.ids)
    known = np.flatnonzero((teacher.starts >= 0) & (teacher.ends >= teacher.starts))
    starts, ends = teacher.starts[known], teacher.ends[known]
    readable = np.flatnonzero((student.starts >= 0) & (student.ends >= student.starts))
    begin, end = student.starts[readable], student.ends[readable]
    for name, side in (("teacher", starts), ("student", begin)):
        if (np.diff(side) < 0).any():
            raise ValueError(f"the {name}'s spans are not in the order of the text")

    holder = np.searchsorted(starts, begin, side="right") - 1  # the last teacher token that starts at or before
    inside = holder >= 0
    at = np.maximum(holder, 0)
    if not len(starts):
        starts = ends = np.full(1, -1, dtype=np.int32)
    anchored = inside & (starts[at] == begin)
    within = inside & (starts[at] < begin) & (begin < ends[at])
    # Where several student tokens start at one byte, only the last one has bytes: that is the boundary.
    back = np.searchsorted(begin, starts[at], side="right") - 1
    interior = within & (back >= 0) & (begin[np.maximum(back, 0)] == starts[at])
    after = np.maximum(np.searchsorted(starts, end, side="left"), at + 1)

    kinds = np.zeros(count, dtype=np.int8)
    first, last, boundary = (np.full(count, -1, dtype=np.int32) for _ in range(3))
    kinds[readable] = np.where(anchored, ANCHORED, np.where(interior, INTERIOR, NONE))
    hit = anchored | interior
    rows = readable[hit]
    first[rows] = known[at[hit]]
    last[rows] = known[after[hit] - 1] + 1
    boundary[rows] = np.where(anchored, np.arange(len(readable)), back)[hit]
    boundary[rows] = readable[boundary[rows]]
    return Alignment(kinds, first, last, boundary)
