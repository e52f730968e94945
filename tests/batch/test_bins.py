"""Rows must hold every item once, none too long, and waste little."""

import itertools

import numpy as np
import pytest

from embervlm.batch.bins import fill_rows


def slots(lengths, rows):
    return len(rows) * max(sum(lengths[item] for item in row) for row in rows)


@pytest.mark.parametrize("seed", range(8))
def test_every_item_is_in_one_row_and_no_row_is_too_long(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 100, rng.integers(1, 60)).tolist()
    rows = fill_rows(lengths, 100)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 100 for row in rows)
    assert rows == fill_rows(lengths, 100) == sorted(map(sorted, rows))


@pytest.mark.parametrize("seed", range(20))
def test_little_more_than_the_best_of_all_ways(seed):
    """The heuristic against all assignments of seven items."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 60, 7).tolist()
    best = np.inf
    for ways in itertools.product(range(7), repeat=6):
        places = (0, *ways)
        if max(places) == len(set(places)) - 1:
            sums = np.bincount(places, lengths)
            if sums.max() <= 100:
                best = min(best, len(sums) * sums.max())
    assert slots(lengths, fill_rows(lengths, 100)) <= 1.05 * best


def test_one_more_row_is_taken_where_it_wastes_less():
    """Two rows would hold three of 34 as 68 + 34: 136 slots; three rows hold them in 102."""
    assert fill_rows([34, 34, 34], 70) == [[0], [1], [2]]


def test_an_item_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="101 does not fit into a row of 100"):
        fill_rows([5, 101], 100)
    assert fill_rows([], 100) == []
