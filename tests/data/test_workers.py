"""Processes must not change what comes out, nor swallow what went wrong."""

import os
import time

import pytest

from embervlm.data.workers import Workers
from embervlm.errors import UserError


def _slow_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number * number


def _fail(number: int) -> int:
    raise UserError(f"row {number} is bad")


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_work_and_sentences_through(count: int) -> None:
    with Workers(count) as workers:
        assert list(workers.in_order(_slow_first, range(20))) == [n * n for n in range(20)]
        with pytest.raises(UserError, match="row 0 is bad"):
            list(workers.in_order(_fail, range(5)))
        assert list(workers.in_order(_slow_first, range(3))) == [0, 1, 4]


def test_a_process_that_dies_is_a_sentence_and_no_wait_without_end() -> None:
    with Workers(2) as workers, pytest.raises(UserError, match="has died.*--num_workers 1"):
        list(workers.in_order(os._exit, [9] * 10))


def test_work_is_taken_as_it_is_needed() -> None:
    """Otherwise all rows of a file stand in a queue."""
    taken: list[int] = []
    with Workers(2) as workers:
        next(workers.in_order(_slow_first, (taken.append(n) or n for n in range(1000))))
        assert len(taken) < 10
