"""Processes must not change what comes out, nor swallow what went wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embervlm.data.workers import Workers
from embervlm.errors import UserError

ROOT = Path(__file__).parents[2]


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


def test_a_parent_that_is_killed_takes_its_workers_along() -> None:
    """Otherwise each kill leaves processes that hold memory for good."""
    code = """
import os, time
from embervlm.data.workers import Workers
from tests.data.test_workers import _pid
with Workers(2) as workers:
    print(*set(workers.in_order(_pid, range(8))), flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.05)


def _pid(_: int) -> int:
    return os.getpid()


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
