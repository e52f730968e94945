"""Bin packing: items of some lengths into rows that are all padded to the longest of them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

CLOSE = 0.002
"""Rows that are so close to their mean length (as a share of it) are not improved any further."""
GOOD = 0.005
"""With so little waste (as a share of the items) no other number of rows is tried."""


def fill_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` for each row, so that rows x longest row is small and no row exceeds `capacity`.

    Longest first, each into the emptiest row (Graham's LPT rule, SIAM J. Appl. Math. 1969), then moves and swaps out of
    the fullest row. Rows, and items in a row, are in the order of the items. Deterministic.

    Raises:
        ValueError: an item is longer than `capacity`.
    """
    if not lengths:
        return []
    if max(lengths) > capacity:
        raise ValueError(f"an item of {max(lengths)} does not fit into a row of {capacity}")
    fewest = max(1, -(-sum(lengths) // capacity))
    best: tuple[int, list[list[int]]] | None = None
    for count in range(fewest, len(lengths) + 1):
        # Some more rows than needed, but shorter ones, can waste less.
        if best is not None and (best[0] <= (1 + GOOD) * sum(lengths) or count > fewest + 2 + fewest // 4):
            break
        rows, longest = _spread(lengths, count)
        if longest <= capacity and (best is None or count * longest < best[0]):
            best = (count * longest, rows)
    assert best is not None  # with a row for each item all fit
    return sorted(sorted(row) for row in best[1])


def _spread(lengths: Sequence[int], count: int) -> tuple[list[list[int]], int]:
    """Items over `count` rows of about equal sums, and the largest sum."""
    rows: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, row) for row in range(count)]
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        total, row = heapq.heappop(emptiest)
        rows[row].append(item)
        heapq.heappush(emptiest, (total + lengths[item], row))
    sums = [0] * count
    for total, row in emptiest:
        sums[row] = total
    enough = (1 + CLOSE) * sum(lengths) / count
    while max(sums) > enough and _improve(lengths, rows, sums):
        pass
    return rows, max(sums)


def _improve(lengths: Sequence[int], rows: list[list[int]], sums: list[int]) -> bool:
    """Move an item out of the fullest row, or swap it for a shorter one of another; False: nothing helps."""
    fullest = max(range(len(rows)), key=lambda row: sums[row])
    best = (sums[fullest], 0, -1, -1, -1)  # longer of the two rows after it, what moves on balance, its places
    for other, row in enumerate(rows):
        if other == fullest:
            continue
        room = sums[fullest] - sums[other]
        for mine, item in enumerate(rows[fullest]):
            for theirs, swapped in enumerate([*row, None]):
                moved = lengths[item] - (0 if swapped is None else lengths[swapped])
                if 0 < moved < room:
                    longer = max(sums[fullest] - moved, sums[other] + moved)
                    if longer < best[0]:
                        best = (longer, moved, other, mine, theirs)
    _, moved, other, mine, theirs = best
    if other < 0:
        return False
    item = rows[fullest].pop(mine)
    if theirs < len(rows[other]):
        rows[fullest].append(rows[other].pop(theirs))
    rows[other].append(item)
    sums[fullest] -= moved
    sums[other] += moved
    return True
