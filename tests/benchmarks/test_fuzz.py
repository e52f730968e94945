"""The fuzz benchmark: a hundred of its inputs, and that it notices what it is there to notice."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz.__main__ import summary
from benchmarks.fuzz.cases import CRASHED, HUNG, MEMORY, READ, REJECTED, Place, Result, run_case
from benchmarks.fuzz.mutations import BYTES, TREES, written
from benchmarks.fuzz.parts import RUNS, keys
from benchmarks.fuzz.watch import Watched
from benchmarks.fuzz.world import image_root, llava
from embervlm.errors import UserError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc and /dev")


def test_a_hundred_inputs_are_read_or_rejected_with_a_reason(tmp_path: Path) -> None:
    """In this process, for speed: bombs, hangs and signals are for the benchmark itself to find."""
    chosen = keys(0.04, ("prepare", "root", "loader", "image", "cache"))
    chosen = [key for key in chosen if not key.startswith(("image/bomb/", "root/zip/entries/"))]
    assert len(chosen) > 100
    results = []
    for number, key in enumerate(chosen):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(run_case(RUNS[key.rpartition("/")[0]], key, 5, folder))
    assert [f"{r.key}: {r.detail[-600:]}" for r in results if r.outcome not in (READ, REJECTED)] == []
    counts = summary(results)
    assert counts["passed"] and counts[READ] > 10 and counts[REJECTED] > 40


def _judged(run: object, tmp_path: Path) -> Result:
    return run_case(run, "x/0", 0, tmp_path)  # type: ignore[arg-type]


def test_another_exception_is_a_crash_and_a_sentence_is_none(tmp_path: Path) -> None:
    def wrong(place: Place) -> list[str]:
        raise KeyError("x") if place.number == 0 else UserError("x")

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    crashed, rejected = run_case(wrong, "x/0", 0, tmp_path / "a"), run_case(wrong, "x/1", 0, tmp_path / "b")
    assert (crashed.outcome, rejected.outcome) == (CRASHED, REJECTED) and "KeyError" in crashed.detail
    assert not summary([crashed, rejected])["passed"] and summary([rejected])["passed"]


@pytest.mark.parametrize("name", ["up/outside/secret.png", "link.png", "zero.png", "../outside/secret.png"])
def test_reading_outside_the_root_is_noticed(tmp_path: Path, name: str) -> None:
    def reads(place: Place) -> list[str]:
        (image_root(place) / name).open("rb").close()
        return []

    result = _judged(reads, tmp_path)
    assert result.outcome == CRASHED and "outside the image root" in result.detail


def test_a_reason_that_says_nothing_or_all_is_noticed(tmp_path: Path) -> None:
    for number, reason in enumerate((" ", "x" * 5000)):
        (tmp_path / str(number)).mkdir()
        assert _judged(lambda place, reason=reason: [reason], tmp_path / str(number)).outcome == CRASHED


def test_what_dies_hangs_or_eats_memory_is_counted_and_the_run_goes_on() -> None:
    wanted = ["bad/dies/0", "bad/hangs/0", "bad/eats/0", "bad/reads/0", "bad/spins/0", "bad/reads/1"]
    began = time.monotonic()
    with Watched(1, seed=0, seconds=1.0, memory=200 << 20, warm="tests.benchmarks.bad_cases") as watched:
        found = {result.key: result for result in watched.results(wanted)}
    outcomes = [found[key].outcome for key in wanted]
    assert outcomes == [CRASHED, HUNG, MEMORY, READ, HUNG, READ] and time.monotonic() - began < 60
    assert "SIGSEGV" in found["bad/dies/0"].detail and "hangs" in found["bad/hangs/0"].detail


def test_mutations_follow_their_seed_and_change_something() -> None:
    content = written(llava())
    for change in BYTES.values():
        assert change(content, Random(3)) == change(content, Random(3))
        assert any(change(content, Random(seed)) != content for seed in range(5))
    for tree in TREES.values():
        assert written(tree(llava(), Random(3))) == written(tree(llava(), Random(3)))
        assert any(written(tree(llava(), Random(seed))) != content for seed in range(5))
    assert os.path.exists("/proc/self/status")
