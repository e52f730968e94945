"""Compact columns: what comes back, how exactly, and how many bytes it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.errors import UserError
from embervlm.teachers import codec
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs


def make_outputs(record: str, turn: int, n: int, k: int = 16, vocabulary: int = 2000, seed: int = 0) -> TeacherOutputs:
    """Exact outputs of distributions from nearly certain to nearly flat."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (n, vocabulary)) * rng.uniform(0.5, 6, (n, 1))
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    top_ids = np.argsort(-logp, axis=1)[:, :k].astype(np.int32)
    inside = rng.random(n) < 0.8
    realised = np.where(inside, top_ids[np.arange(n), rng.integers(0, k, n)], rng.integers(0, vocabulary, n))
    ends = np.cumsum(rng.integers(0, 9, n)).astype(np.int32)
    return TeacherOutputs(
        record_id=record,
        turn=turn,
        token_ids=realised.astype(np.int32),
        starts=np.concatenate([[0], ends[:-1]]).astype(np.int32),
        ends=ends,
        top_ids=top_ids,
        top_logprobs=np.take_along_axis(logp, top_ids, 1).astype(np.float32),
        log_normalisers=np.stack([np.log(np.exp(logp / t).sum(1)) for t in TEMPERATURE_GRID], 1).astype(np.float32),
        realised_logprobs=logp[np.arange(n), realised].astype(np.float32),
    )


RECORDS = [
    ("vqa-1", [make_outputs("vqa-1", 0, 3, seed=1)]),
    ("llava-été", [make_outputs("llava-été", turn, 40 + turn, seed=2 + turn) for turn in range(3)]),
    ("caption-9", [make_outputs("caption-9", 0, 1, seed=9)]),
]


def test_ids_and_spans_come_back_exactly_and_numbers_within_the_stated_bounds():
    columns = codec.encode(RECORDS)
    assert codec.record_names(columns) == [name for name, _ in RECORDS]
    for number, (name, turns) in enumerate(RECORDS):
        for before, after in zip(turns, codec.decode(columns, number, name), strict=True):
            assert (before.record_id, before.turn) == (after.record_id, after.turn)
            for column in ("token_ids", "starts", "ends", "top_ids"):
                kept = getattr(after, column)
                np.testing.assert_array_equal(kept, getattr(before, column))
                assert kept.dtype == np.int32
            exact = np.maximum(before.top_logprobs, codec.LOWEST)
            bound = np.sqrt(24 * np.abs(exact)) / 255 + 1e-4
            assert (np.abs(after.top_logprobs - exact) <= bound).all()
            assert (np.diff(after.top_logprobs, axis=1) <= 0).all()
            realised = np.maximum(before.realised_logprobs, codec.LOWEST)
            assert (
                np.abs(after.realised_logprobs - before.realised_logprobs) <= np.sqrt(24 * -realised) / 255 + 1e-2
            ).all()
            tails = [codec.log_tails(side.top_logprobs, side.log_normalisers) for side in (before, after)]
            visible = tails[0] > np.log(1e-4)
            assert np.abs(tails[1] - tails[0])[visible].max() < 0.0055


def test_the_distribution_at_each_temperature_moves_by_less_than_two_percent():
    for before, after in zip(RECORDS[1][1], codec.decode(codec.encode(RECORDS), 1, "x"), strict=True):
        for column, temperature in enumerate(TEMPERATURE_GRID):
            p, q = (np.exp(o.top_logprobs / temperature - o.log_normalisers[:, [column]]) for o in (before, after))
            rest = [1 - side.sum(1) for side in (p, q)]
            assert (np.abs(p - q).sum(1) + np.abs(rest[0] - rest[1])).max() / 2 < 0.02


def test_bytes_per_token():
    for vocabulary, expected in ((2000, 49), (32_000, 57), (151_936, 63)):
        columns = codec.encode([("a", [make_outputs("a", 0, 8, vocabulary=vocabulary)])])
        rows = sum(columns[name].nbytes for name in ("top_ids", "top_logprobs", "tails", "ranks", "sizes"))
        assert rows / 8 == expected


def test_spans_that_do_not_follow_each_other_are_kept_in_full():
    """Unknown spans must come back unknown, or an answer would be aligned to a guess."""
    odd = make_outputs("odd", 0, 5)
    odd = replace(odd, starts=np.array([2, 5, -1, 9, -1], np.int32), ends=np.array([5, 8, -1, 900, -1], np.int32))
    plain = make_outputs("plain", 0, 4)
    columns = codec.encode([("plain", [plain]), ("odd", [odd]), ("again", [plain])])
    (found,) = codec.decode(columns, 1, "odd")
    np.testing.assert_array_equal(found.starts, odd.starts)
    np.testing.assert_array_equal(found.ends, odd.ends)
    for number in (0, 2):
        np.testing.assert_array_equal(codec.decode(columns, number, "plain")[0].ends, plain.ends)


def test_a_head_that_holds_everything_has_no_tail():
    certain = make_outputs("a", 0, 2, k=8, vocabulary=8)
    (found,) = codec.decode(codec.encode([("a", [certain])]), 0, "a")
    assert (codec.log_tails(found.top_logprobs, found.log_normalisers) == -np.inf).all()


def test_a_record_without_turns_and_one_with_an_empty_answer():
    end_only = make_outputs("b", 0, 1)
    columns = codec.encode([("none", []), ("b", [end_only])])
    assert codec.decode(columns, 0, "none") == []
    assert len(codec.decode(columns, 1, "b")[0]) == 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5), st.integers(0, 10**6))
def test_bits_come_back(width: int, count: int, rows: int, seed: int):
    values = np.random.default_rng(seed).integers(0, 2**width, (rows, count))
    packed = codec.pack_bits(values, width)
    assert packed.shape == (rows, -(-width * count // 8))
    np.testing.assert_array_equal(codec.unpack_bits(packed, width, count), values)


def test_too_many_entries_are_refused():
    with pytest.raises(UserError, match="at most 254"):
        codec.encode([("a", [make_outputs("a", 0, 1, k=300)])])
