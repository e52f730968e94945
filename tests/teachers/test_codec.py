"""Compact columns: what comes back, how exactly, and how many bytes it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embervlm.errors import UserError
from embervlm.teachers import codec
from embervlm.teachers.entries import LOWEST
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs, entropies, keep_likely


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


ORDER = np.random.default_rng(0).permutation(2048)


def back(records, index: int, order: np.ndarray = ORDER) -> list[TeacherOutputs]:
    """One record through a shard."""
    columns = codec.encode(records, order)
    block, position = codec.place(columns, index)
    return codec.decode(codec.open_block(columns, block), position, records[index][0], order)


def test_ids_and_spans_come_back_exactly_and_numbers_within_the_stated_bounds():
    assert codec.record_names(codec.encode(RECORDS, ORDER)) == [name for name, _ in RECORDS]
    for number, (_, turns) in enumerate(RECORDS):
        for before, after in zip(turns, back(RECORDS, number), strict=True):
            assert (before.record_id, before.turn) == (after.record_id, after.turn)
            for column in ("token_ids", "starts", "ends"):
                kept = getattr(after, column)
                np.testing.assert_array_equal(kept, getattr(before, column))
                assert kept.dtype == np.int32
            np.testing.assert_array_equal(np.sort(after.top_ids), np.sort(before.top_ids))
            exact = np.maximum(logprobs_of(before, after.top_ids), LOWEST)
            np.testing.assert_allclose(after.log_normalisers[:, 0], 0, atol=1e-6)
            # All of a token are shifted alike, so that entries and tail are 1.
            off, bound = after.top_logprobs - exact, 0.0201 + 0.034 * np.abs(exact)
            assert (np.abs(off - off[:, :1]) <= bound + bound[:, :1]).all()
            assert (np.diff(after.top_logprobs, axis=1) <= 0).all()
            outside = ~(before.top_ids == before.token_ids[:, None]).any(1)
            np.testing.assert_allclose(after.realised_logprobs[outside], before.realised_logprobs[outside], atol=0.1)
            tails = [codec.log_tails(side.top_logprobs, side.log_normalisers) for side in (before, after)]
            visible = tails[0] > np.log(1e-4)
            off = np.abs(tails[1] - tails[0])
            assert off[:, 1:][visible[:, 1:]].max() < 0.0255
            allowed = np.sqrt(24 * np.abs(tails[0][:, 0])) / 254 + 1e-3
            assert (off[:, 0] < allowed)[visible[:, 0]].all()


def logprobs_of(outputs: TeacherOutputs, ids: np.ndarray) -> np.ndarray:
    """The exact log-probabilities of entries in another order."""
    at = (outputs.top_ids[:, None, :] == ids[:, :, None]).argmax(2)
    return np.take_along_axis(outputs.top_logprobs, at, 1)


def test_the_distribution_at_each_temperature_hardly_moves():
    """The mean is what a batch's gradient feels."""
    moved = []
    for before, after in zip(RECORDS[1][1], back(RECORDS, 1), strict=True):
        exact = logprobs_of(before, after.top_ids)
        for column, temperature in enumerate(TEMPERATURE_GRID):
            p = np.exp(exact / temperature - before.log_normalisers[:, [column]])
            q = np.exp(after.top_logprobs / temperature - after.log_normalisers[:, [column]])
            rest = [1 - side.sum(1) for side in (p, q)]
            moved.append((np.abs(p - q).sum(1) + np.abs(rest[0] - rest[1])) / 2)
    assert np.concatenate(moved).max() < 0.05
    assert np.concatenate(moved).mean() < 0.015


def test_a_token_keeps_as_many_entries_as_are_likely():
    before = make_outputs("a", 0, 50, k=40, seed=4)
    cut = keep_likely(before, 0.01)
    counts = (cut.top_ids >= 0).sum(1)
    shares = np.exp(before.top_logprobs / 2 - before.log_normalisers[:, [TEMPERATURE_GRID.index(2.0)]])
    np.testing.assert_array_equal(counts, np.maximum((shares >= 0.01).sum(1), 1))
    assert counts.min() < counts.max() == cut.top_ids.shape[1]
    (after,) = back([("a", [cut])], 0)
    np.testing.assert_array_equal((after.top_ids >= 0).sum(1), counts)
    assert (after.top_logprobs[after.top_ids < 0] == -np.inf).all()
    tails = [codec.log_tails(side.top_logprobs, side.log_normalisers) for side in (cut, after)]
    np.testing.assert_allclose(tails[1], tails[0], atol=0.06)


@pytest.mark.parametrize("vocabulary", [2000, 32_000, 151_936])
def test_bytes_per_token_of_the_worst_text(vocabulary: int):
    """Random ids are the worst case: nothing to foretell, every byte of an id is paid."""
    records = [(str(n), [make_outputs(str(n), 0, 60, vocabulary=vocabulary, seed=n)]) for n in range(20)]
    columns = codec.encode(records, np.arange(vocabulary))
    whole = sum(column.nbytes for column in columns.values()) / (20 * 60)
    assert whole < 16 * np.log2(vocabulary) / 8 * 1.02 + 12


def test_frequent_ids_are_cheap():
    rng = np.random.default_rng(0)
    often = (rng.zipf(1.5, (600, 16)) % 2000).astype(np.int32)
    records = [("a", [replace(make_outputs("a", 0, 600), top_ids=often)])]
    ids, counts = np.unique(often, return_counts=True)
    by_count = np.concatenate([ids[np.argsort(-counts)], np.setdiff1d(np.arange(2000), ids)])
    sizes = [codec.encode(records, order)["blocks"].nbytes for order in (by_count, rng.permutation(2000))]
    assert sizes[0] < 0.9 * sizes[1]


def test_a_record_is_found_in_whichever_block_it_lies(monkeypatch):
    monkeypatch.setattr(codec, "BLOCK_TOKENS", 10)
    records = [(str(n), [make_outputs(str(n), 0, 1 + 5 * (n % 3), seed=n)]) for n in range(12)]
    columns = codec.encode(records, ORDER)
    assert len(columns["block_ends"]) > 3
    for number, (_, (before,)) in enumerate(records):
        (after,) = back(records, number)
        np.testing.assert_array_equal(np.sort(after.top_ids), np.sort(before.top_ids))
        np.testing.assert_array_equal(after.token_ids, before.token_ids)


def test_spans_that_do_not_follow_each_other_are_kept_in_full():
    """Unknown spans must come back unknown, or an answer would be aligned to a guess."""
    odd = make_outputs("odd", 0, 5)
    odd = replace(odd, starts=np.array([2, 5, -1, 9, -1], np.int32), ends=np.array([5, 8, -1, 900, -1], np.int32))
    plain = make_outputs("plain", 0, 4)
    records = [("plain", [plain]), ("odd", [odd]), ("again", [plain])]
    (found,) = back(records, 1)
    np.testing.assert_array_equal(found.starts, odd.starts)
    np.testing.assert_array_equal(found.ends, odd.ends)
    for number in (0, 2):
        np.testing.assert_array_equal(back(records, number)[0].ends, plain.ends)


def test_a_head_that_holds_everything_has_no_tail():
    certain = make_outputs("a", 0, 2, k=8, vocabulary=8)
    (found,) = back([("a", [certain])], 0, np.arange(8))
    assert (codec.log_tails(found.top_logprobs, found.log_normalisers) == -np.inf).all()


def test_a_record_without_turns_and_one_with_an_empty_answer():
    records = [("none", []), ("b", [make_outputs("b", 0, 1)])]
    assert back(records, 0) == []
    assert len(back(records, 1)[0]) == 1


def test_too_many_entries_are_refused():
    with pytest.raises(UserError, match="at most 254"):
        codec.encode([("a", [make_outputs("a", 0, 1, k=300)])], ORDER)


@pytest.mark.parametrize("temperature", [1.4, 2.0, 3.5])
def test_the_entropy_of_the_whole_distribution_comes_from_the_normalisers(temperature: float):
    logits = np.random.default_rng(0).normal(0, 3, (20, 5000))
    logits[:5] *= 4
    logp = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1)[:, None]
    normalisers = np.stack([np.log(np.exp(logp / t).sum(1)) for t in TEMPERATURE_GRID], 1).astype(np.float32)
    p = np.exp(logp / temperature)
    p /= p.sum(1, keepdims=True)
    exact = -(p * np.log(np.maximum(p, 1e-300))).sum(1)
    np.testing.assert_allclose(entropies(normalisers, temperature), exact, atol=0.05)
