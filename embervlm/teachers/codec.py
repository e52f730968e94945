"""TeacherOutputs of many records <-> compact columns. Pure: arrays in, arrays out.

Per token, with k entries of a vocabulary of V: k * ceil(log2 V) bits of ids, k bytes of log-probabilities, 12 bits for
the tail at each temperature, one byte for which entry was realised and one for how many bytes of text it covers:
49 bytes at k = 16 and V = 2,000, 63 at V = 151,936.

What is lost: a log-probability lp comes back within sqrt(24 |lp|) / 255 + 0.0001 nats (and not below -24), the log of
the tail within 0.0045 nats. The normalisers are put together again from entries and tail, so the rest stays consistent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs

Columns = dict[str, np.ndarray]

LOWEST = -24.0
"""Natural log below which a probability (4e-11) is stored as this."""
NOISE = 1e-6
"""A tail below this share of the normaliser is rounding of fp32: stored as nothing."""
TAIL_BITS = 12
TAIL_RANGE = (-24.0, 12.0)
OUTSIDE, EXACT = 255, 255
"""Rank of a realised token that is not among the entries; size of a token whose span is kept in full."""

_BETAS = 1 / np.array(TEMPERATURE_GRID)
_LEVELS = (LOWEST * (np.arange(256) / 255) ** 2).astype(np.float32)


def encode(records: Sequence[tuple[str, Sequence[TeacherOutputs]]]) -> Columns:
    """Columns of one shard. All outputs must have the same number of entries, at most 254; turns count from 0."""
    outputs = [output for _, turns in records for output in turns]
    if not outputs:
        raise ValueError("a shard needs at least one response")
    names = [record_id.encode() for record_id, _ in records]
    top_ids = np.concatenate([output.top_ids for output in outputs])
    if top_ids.shape[1] >= OUTSIDE:
        raise UserError(f"a teacher cache keeps at most {OUTSIDE - 1} entries a token, asked for {top_ids.shape[1]}")
    top_logprobs = np.concatenate([output.top_logprobs for output in outputs])
    realised = np.concatenate([output.token_ids for output in outputs])
    realised_logprobs = np.concatenate([output.realised_logprobs for output in outputs])
    log_normalisers = np.concatenate([output.log_normalisers for output in outputs])
    is_realised = top_ids == realised[:, None]
    ranks = np.where(is_realised.any(1), is_realised.argmax(1), OUTSIDE).astype(np.uint8)
    outside = np.flatnonzero(ranks == OUTSIDE)
    id_bits = max(int(top_ids.max()), 1).bit_length()
    sizes, exact = _sizes(outputs)
    return {
        "record_names": np.frombuffer(b"".join(names), dtype=np.uint8),
        "record_name_ends": np.cumsum([len(name) for name in names], dtype=np.uint32),
        "record_response_ends": np.cumsum([len(turns) for _, turns in records], dtype=np.uint32),
        "response_token_ends": np.cumsum([len(output) for output in outputs], dtype=np.uint32),
        "id_bits": np.array([id_bits, top_ids.shape[1]], dtype=np.uint8),
        "top_ids": pack_bits(top_ids, id_bits),
        "top_logprobs": _quantise(top_logprobs),
        "tails": pack_bits(_quantise_tail(log_tails(top_logprobs, log_normalisers)), TAIL_BITS),
        "ranks": ranks,
        "sizes": sizes,
        "outside_at": outside.astype(np.uint32),
        "outside_ids": realised[outside].astype(np.uint32),
        "outside_logprobs": realised_logprobs[outside].astype(np.float16),
        "exact_at": exact.astype(np.uint32),
        "exact_starts": np.concatenate([output.starts for output in outputs])[exact].astype(np.int32),
        "exact_ends": np.concatenate([output.ends for output in outputs])[exact].astype(np.int32),
    }


def record_names(columns: Columns) -> list[str]:
    """The ids of a shard's records, in order."""
    text, ends = columns["record_names"].tobytes(), columns["record_name_ends"].tolist()
    return [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def decode(columns: Columns, index: int, record_id: str) -> list[TeacherOutputs]:
    """The turns of record number `index` of a shard."""
    responses = _range(columns["record_response_ends"], index)
    return [_decode(columns, response, record_id, turn) for turn, response in enumerate(responses)]


def _decode(columns: Columns, response: int, record_id: str, turn: int) -> TeacherOutputs:
    tokens = _range(columns["response_token_ends"], response)
    part = slice(tokens.start, tokens.stop)
    id_bits, k = columns["id_bits"].tolist()
    top_ids = unpack_bits(columns["top_ids"][part], id_bits, k)
    top_logprobs = _LEVELS[columns["top_logprobs"][part]]
    codes = unpack_bits(columns["tails"][part], TAIL_BITS, len(TEMPERATURE_GRID))
    head = np.exp(top_logprobs[:, :, None] * _BETAS).sum(1)
    ranks = columns["ranks"][part].astype(np.int64)
    rows = np.arange(len(ranks))
    inside = np.minimum(ranks, k - 1)
    token_ids, realised = top_ids[rows, inside], top_logprobs[rows, inside]
    rare = _slice_of(columns["outside_at"], tokens)
    at = columns["outside_at"][rare].astype(np.int64) - tokens.start
    token_ids[at] = columns["outside_ids"][rare]
    realised[at] = columns["outside_logprobs"][rare]
    starts, ends = _spans(columns, tokens)
    return TeacherOutputs(
        record_id=record_id,
        turn=turn,
        token_ids=token_ids,
        starts=starts,
        ends=ends,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        log_normalisers=np.log(head + _tail_of(codes)).astype(np.float32),
        realised_logprobs=realised,
    )


def log_tails(top_logprobs: np.ndarray, log_normalisers: np.ndarray) -> np.ndarray:
    """float64 [n, G]: log of sum p_w^(1/T) over all that is not among the entries; -inf where only rounding is left."""
    whole = np.exp(log_normalisers.astype(np.float64))
    tail = whole - np.exp(top_logprobs.astype(np.float64)[:, :, None] * _BETAS).sum(1)
    with np.errstate(divide="ignore"):
        return np.log(np.where(tail > NOISE * whole, tail, 0.0))


def pack_bits(values: np.ndarray, width: int) -> np.ndarray:
    """uint8 [n, ceil(m * width / 8)] from non-negative integers [n, m] below 2^width, each row by itself."""
    bits = (values.astype(np.int64)[:, :, None] >> np.arange(width)) & 1
    return np.packbits(bits.reshape(len(values), values.shape[1] * width).astype(np.uint8), axis=1, bitorder="little")


def unpack_bits(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """int32 [n, count]: the inverse of `pack_bits`."""
    bits = np.unpackbits(packed, axis=1, count=width * count, bitorder="little")
    return bits.reshape(len(packed), count, width) @ (1 << np.arange(width, dtype=np.int32))


def _quantise(logprobs: np.ndarray) -> np.ndarray:
    """uint8: steps of the square root, fine where a probability is near one and coarse where it hardly counts."""
    share = np.clip(logprobs.astype(np.float64), LOWEST, 0.0) / LOWEST
    return np.rint(255 * np.sqrt(share)).astype(np.uint8)


def _quantise_tail(log_tail: np.ndarray) -> np.ndarray:
    low, high = TAIL_RANGE
    steps = (np.clip(log_tail, low, high) - low) / (high - low) * (2**TAIL_BITS - 2)
    return np.where(np.isfinite(log_tail), 1 + np.rint(steps), 0).astype(np.int64)  # 0: nothing left


def _tail_of(codes: np.ndarray) -> np.ndarray:
    low, high = TAIL_RANGE
    return np.where(codes > 0, np.exp(low + (codes - 1) * ((high - low) / (2**TAIL_BITS - 2))), 0.0)


def _sizes(outputs: Sequence[TeacherOutputs]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of each token where the spans of its answer follow each other from 0, else EXACT; and those places."""
    sizes = []
    for output in outputs:
        size = output.ends - output.starts
        follow = np.array_equal(output.starts, np.concatenate([[0], np.cumsum(size[:-1])]))
        plain = follow and (output.starts >= 0).all() and (size >= 0).all() and (size < EXACT).all()
        sizes.append(size.astype(np.uint8) if plain else np.full(len(size), EXACT, dtype=np.uint8))
    joined = np.concatenate(sizes)
    return joined, np.flatnonzero(joined == EXACT)


def _spans(columns: Columns, tokens: range) -> tuple[np.ndarray, np.ndarray]:
    sizes = columns["sizes"][tokens.start : tokens.stop].astype(np.int32)
    if len(sizes) and sizes[0] == EXACT:
        rare = _slice_of(columns["exact_at"], tokens)
        return np.array(columns["exact_starts"][rare]), np.array(columns["exact_ends"][rare])
    ends = np.cumsum(sizes, dtype=np.int32)
    return ends - sizes, ends


def _range(ends: np.ndarray, index: int) -> range:
    return range(int(ends[index - 1]) if index else 0, int(ends[index]))


def _slice_of(sorted_at: np.ndarray, tokens: range) -> slice:
    """Where the tokens of a range lie in a sorted list of token numbers."""
    return slice(*np.searchsorted(sorted_at, (tokens.start, tokens.stop)).tolist())
