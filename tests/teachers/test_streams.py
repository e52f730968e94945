"""Streams of bytes: whatever goes in comes out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.teachers.streams import deflate, golomb, inflate, joined, planes, ungolomb, unzigzag, zigzag


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_streams_come_back(streams: list[bytes]):
    arrays = [np.frombuffer(stream, dtype=np.uint8) for stream in streams]
    assert [part.tobytes() for part in inflate(deflate(arrays), len(arrays))] == streams


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**24 - 1)))
def test_planes_come_back(values: list[int]):
    assert joined(planes(np.array(values, dtype=np.int64), 3)).tolist() == values


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-30_000, 30_000)))
def test_zigzag_comes_back_and_small_stays_small(values: list[int]):
    numbers = np.array(values, dtype=np.int64)
    assert unzigzag(zigzag(numbers)).tolist() == values
    assert (zigzag(numbers) <= 2 * np.abs(numbers)).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**40))))
def test_golomb_comes_back(values: list[int]):
    assert ungolomb(*golomb(np.array(values, dtype=np.int64))).tolist() == values
