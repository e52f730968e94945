"""TeacherOutputs of many records <-> compact columns. Pure: arrays in, arrays out.

Records are cut into blocks of about `BLOCK_TOKENS` tokens; a block is opened as a whole. Of each token it keeps

- k ids, as ranks in an order by frequency: small numbers, of which an entropy coder makes 1 to 1.5 bytes each;
- the first log-probability, and 5-bit steps down to the k - 1 others;
- the tail (all that is not among the k) at each temperature of the grid, as steps from what the last ones foretell;
- which entry was realised, and how many bytes of text it covers.

What is lost: the first log-probability comes back within sqrt(24 |lp|) / 255 + 1e-4 nats, each further one within
sqrt(24 d) / 31 + 0.02 for a difference of d to the one before (or that one's error), none below about -24; the log of
the tail within 0.025 nats (at T = 1: sqrt(24 |t|) / 254 + 1e-4). Normalisers are put together again from both.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.teachers.streams import deflate, inflate, joined, planes, unzigzag, zigzag

Columns = dict[str, np.ndarray]
Records = Sequence[tuple[str, Sequence[TeacherOutputs]]]

BLOCK_TOKENS = 2048
LOWEST = -24.0
"""Natural log below which a probability (4e-11) is stored as this."""
NOISE = 1e-6
"""A tail below this share of the normaliser is rounding of fp32: stored as nothing."""
TAIL_STEP = 0.05
OUTSIDE, EXACT, NO_TAIL = 255, 255, 255
"""Which entry was realised: none; size of a token whose span is kept in full; first tail where there is none at all."""

_BETAS = 1 / np.array(TEMPERATURE_GRID)
_LEVELS = (LOWEST * (np.arange(256) / 255) ** 2).astype(np.float32)
_DIFFERENCES = (-LOWEST * (np.arange(32) / 31) ** 2).astype(np.float32)
_TAILS = LOWEST * (np.arange(255) / 254) ** 2
_STREAMS = 16  # of a block, without the planes of the ids


def expected_bytes(top_k: int) -> float:
    """About what a token costs on disk, for an estimate before there is a cache."""
    return 3 + 1.5 * top_k


@dataclass(frozen=True)
class Block:
    """An opened block of R records, A answers and n tokens."""

    record_ends: np.ndarray  # int64 [R], answers
    answer_ends: np.ndarray  # int64 [A], tokens
    top_ranks: np.ndarray  # int64 [k, n]
    first: np.ndarray  # uint8 [n]
    steps: np.ndarray  # uint8 [k - 1, n]
    tail_first: np.ndarray  # uint8 [n]
    tail_steps: np.ndarray  # int64 [G - 1, n]
    realised: np.ndarray  # uint8 [n]
    sizes: np.ndarray  # uint8 [n]
    outside_ids: np.ndarray  # int64, of the tokens whose `realised` is OUTSIDE
    outside_logprobs: np.ndarray  # float16
    exact: np.ndarray  # int32 [2, ...], first and last byte of the tokens whose size is EXACT


def encode(records: Records, order: np.ndarray) -> Columns:
    """Columns of one shard.

    Args:
        records: all with the same number of entries a token, at most 254; turns count from 0.
        order: int [V], every id of the teacher, the most frequent one first.
    """
    outputs = [output for _, turns in records for output in turns]
    if not outputs:
        raise ValueError("a shard needs at least one response")
    k = outputs[0].top_ids.shape[1]
    if k >= OUTSIDE:
        raise UserError(f"a teacher cache keeps at most {OUTSIDE - 1} entries a token, asked for {k}")
    id_planes = (len(order) - 1).bit_length() + 7 >> 3
    ranks = ranks_of(order)
    parts = _split(records)
    blocks = [_encode_block(part, ranks, id_planes) for part in parts]
    names = b"\0".join(name.encode() for name, _ in records)
    return {
        "shape": np.array([k, id_planes], dtype=np.uint8),
        "names": np.frombuffer(zlib.compress(names, 9), dtype=np.uint8),
        "block_records": np.cumsum([len(part) for part in parts], dtype=np.uint32),
        "block_ends": np.cumsum([len(block) for block in blocks], dtype=np.uint32),
        "blocks": np.frombuffer(b"".join(blocks), dtype=np.uint8),
    }


def ranks_of(order: np.ndarray) -> np.ndarray:
    """int64 [V]: where each id stands in the order."""
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def record_names(columns: Columns) -> list[str]:
    """The ids of a shard's records, in order."""
    return zlib.decompress(columns["names"].tobytes()).decode().split("\0")


def place(columns: Columns, index: int) -> tuple[int, int]:
    """(block, position in it) of record number `index` of a shard."""
    block = int(np.searchsorted(columns["block_records"], index, side="right"))
    return block, index - (int(columns["block_records"][block - 1]) if block else 0)


def open_block(columns: Columns, number: int) -> Block:
    """Undo the entropy coding of one block."""
    ends = columns["block_ends"]
    data = columns["blocks"][int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes()
    k, id_planes = columns["shape"].tolist()
    streams = inflate(data, _STREAMS + id_planes)
    ids, rest = streams[:id_planes], iter(streams[id_planes:])
    turns, lengths = joined([next(rest), next(rest)]), joined([next(rest), next(rest)])
    first, steps, tail_first = next(rest), next(rest), next(rest)
    tail_steps = unzigzag(joined([next(rest), next(rest)]))
    realised, sizes = next(rest), next(rest)
    outside_ids = joined([next(rest), next(rest), next(rest)])
    outside_logprobs, exact = next(rest), next(rest)
    n = len(first)
    return Block(
        record_ends=np.cumsum(turns),
        answer_ends=np.cumsum(lengths),
        top_ranks=joined(ids).reshape(k, n),
        first=first,
        steps=steps.reshape(k - 1, n),
        tail_first=tail_first,
        tail_steps=tail_steps.reshape(len(TEMPERATURE_GRID) - 1, n),
        realised=realised,
        sizes=sizes,
        outside_ids=outside_ids,
        outside_logprobs=outside_logprobs.view(np.float16),
        exact=exact.view(np.int32).reshape(2, -1),
    )


def decode(block: Block, position: int, record_id: str, order: np.ndarray) -> list[TeacherOutputs]:
    """The turns of the record at `position` of a block."""
    answers = _range(block.record_ends, position)
    return [_decode(block, answer, record_id, turn, order) for turn, answer in enumerate(answers)]


def _decode(block: Block, answer: int, record_id: str, turn: int, order: np.ndarray) -> TeacherOutputs:
    tokens = _range(block.answer_ends, answer)
    part = slice(tokens.start, tokens.stop)
    top_ids = order[block.top_ranks[:, part].T].astype(np.int32)
    top_logprobs = _LEVELS[block.first[part]][:, None] - np.pad(
        np.cumsum(_DIFFERENCES[block.steps[:, part].T], axis=1, dtype=np.float32), ((0, 0), (1, 0))
    )
    k = top_ids.shape[1]
    tails = _tails(block.tail_first[part], block.tail_steps[:, part], len(order) - k)
    head = np.exp(top_logprobs[:, :, None] * _BETAS).sum(1)
    at = block.realised[part].astype(np.int64)
    rows, inside = np.arange(len(at)), np.minimum(at, k - 1)
    token_ids, realised = top_ids[rows, inside], top_logprobs[rows, inside]
    rare = _rare(block.realised, tokens, OUTSIDE)
    token_ids[at == OUTSIDE] = block.outside_ids[rare]
    realised[at == OUTSIDE] = block.outside_logprobs[rare]
    starts, ends = _spans(block, tokens)
    return TeacherOutputs(
        record_id=record_id,
        turn=turn,
        token_ids=token_ids,
        starts=starts,
        ends=ends,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        log_normalisers=np.log(head + np.exp(tails)).astype(np.float32),
        realised_logprobs=realised,
    )


def log_tails(top_logprobs: np.ndarray, log_normalisers: np.ndarray) -> np.ndarray:
    """float64 [n, G]: log of sum p_w^(1/T) over all that is not among the entries; -inf where only rounding is left."""
    whole = np.exp(log_normalisers.astype(np.float64))
    tail = whole - np.exp(top_logprobs.astype(np.float64)[:, :, None] * _BETAS).sum(1)
    with np.errstate(divide="ignore"):
        return np.log(np.where(tail > NOISE * whole, tail, 0.0))


def _split(records: Records) -> list[Records]:
    """Consecutive records whose tokens make a block."""
    parts, begin, tokens = [], 0, 0
    for number, (_, turns) in enumerate(records, start=1):
        tokens += sum(len(output) for output in turns)
        if tokens >= BLOCK_TOKENS or number == len(records):
            parts.append(records[begin:number])
            begin, tokens = number, 0
    return parts


def _encode_block(records: Records, ranks: np.ndarray, id_planes: int) -> bytes:
    outputs = [output for _, turns in records for output in turns]
    turns = np.array([len(turns) for _, turns in records])
    lengths = np.array([len(output) for output in outputs], dtype=np.int64)
    if max(turns.max(initial=0), lengths.max(initial=0)) > 65535:
        raise UserError("a record of a teacher cache holds at most 65,535 turns of 65,535 tokens; cut it")
    k = outputs[0].top_ids.shape[1] if outputs else 2

    def column(name: str, *shape: int) -> np.ndarray:
        return np.concatenate([np.empty((0, *shape), np.float32), *(getattr(output, name) for output in outputs)])

    top_ids, realised = column("top_ids", k).astype(np.int64), column("token_ids").astype(np.int64)
    top_logprobs = column("top_logprobs", k)
    is_realised = top_ids == realised[:, None]
    entry = np.where(is_realised.any(1), is_realised.argmax(1), OUTSIDE).astype(np.uint8)
    outside = entry == OUTSIDE
    first, steps = _quantise(top_logprobs)
    tails = log_tails(top_logprobs, column("log_normalisers", len(TEMPERATURE_GRID)))
    tail_first, tail_steps = _quantise_tails(tails, len(ranks) - k)
    sizes = _sizes(outputs)
    exact = np.stack([column("starts"), column("ends")])[:, sizes == EXACT].astype(np.int32)
    return deflate(
        [
            *planes(ranks[top_ids.T], id_planes),
            *planes(turns, 2),
            *planes(lengths, 2),
            first,
            steps,
            tail_first,
            *planes(zigzag(tail_steps), 2),
            entry,
            sizes,
            *planes(realised[outside], 3),
            column("realised_logprobs")[outside].astype(np.float16),
            exact,
        ]
    )


def _quantise(logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n], uint8 [k - 1, n]. A step starts from what the one before decodes to: errors do not add up."""
    exact = np.clip(logprobs.astype(np.float64), LOWEST, 0.0)
    first = np.rint(255 * np.sqrt(exact[:, 0] / LOWEST)).astype(np.uint8)
    here, steps = _LEVELS[first].astype(np.float64), np.empty((exact.shape[1] - 1, len(exact)), np.uint8)
    for j in range(1, exact.shape[1]):
        steps[j - 1] = np.rint(31 * np.sqrt(np.clip(here - exact[:, j], 0.0, -LOWEST) / -LOWEST))
        here = here - _DIFFERENCES[steps[j - 1]]
    return first, steps


def _quantise_tails(tails: np.ndarray, others: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n], int64 [G - 1, n]."""
    exact = np.clip(np.nan_to_num(tails, neginf=LOWEST), LOWEST, None)
    first = np.rint(254 * np.sqrt(np.minimum(exact[:, 0], 0.0) / LOWEST)).astype(np.uint8)
    steps = np.zeros((tails.shape[1] - 1, len(tails)), dtype=np.int64)
    known = [_TAILS[first]]
    for g in range(1, tails.shape[1]):
        foretold = _foretell(known, others)
        steps[g - 1] = np.rint((exact[:, g] - foretold) / TAIL_STEP)
        known.append(foretold + TAIL_STEP * steps[g - 1])
    none = ~np.isfinite(tails).any(1)
    steps[:, none] = 0
    return np.where(none, NO_TAIL, first).astype(np.uint8), steps


def _tails(first: np.ndarray, steps: np.ndarray, others: int) -> np.ndarray:
    """float64 [n, G]: log of the tail; -inf where there is none."""
    known = [_TAILS[np.minimum(first, NO_TAIL - 1)]]
    for g in range(1, len(TEMPERATURE_GRID)):
        known.append(_foretell(known, others) + TAIL_STEP * steps[g - 1])
    return np.where((first == NO_TAIL)[:, None], -np.inf, np.stack(known, axis=1))


def _foretell(known: list[np.ndarray], others: int) -> np.ndarray:
    """The next tail. Its log is convex in 1/T and log(others) at 1/T = 0: below the chord, above the tangent."""
    g = len(known)
    chord = known[-1] + (1 - _BETAS[g] / _BETAS[g - 1]) * (np.log(max(others, 1)) - known[-1])
    if g == 1:
        return chord
    tangent = known[-1] + (known[-1] - known[-2]) * (_BETAS[g] - _BETAS[g - 1]) / (_BETAS[g - 1] - _BETAS[g - 2])
    return (chord + tangent) / 2


def _sizes(outputs: Sequence[TeacherOutputs]) -> np.ndarray:
    """uint8: bytes of each token where the spans of its answer follow each other from 0, else EXACT."""
    sizes = [np.empty(0, np.uint8)]
    for output in outputs:
        size = output.ends - output.starts
        follow = np.array_equal(output.starts, np.concatenate([[0], np.cumsum(size[:-1])]))
        plain = follow and (output.starts >= 0).all() and (size >= 0).all() and (size < EXACT).all()
        sizes.append(size.astype(np.uint8) if plain else np.full(len(size), EXACT, dtype=np.uint8))
    return np.concatenate(sizes)


def _spans(block: Block, tokens: range) -> tuple[np.ndarray, np.ndarray]:
    sizes = block.sizes[tokens.start : tokens.stop].astype(np.int32)
    if len(sizes) and sizes[0] == EXACT:
        starts, ends = block.exact[:, _rare(block.sizes, tokens, EXACT)]
        return starts.copy(), ends.copy()
    ends = np.cumsum(sizes, dtype=np.int32)
    return ends - sizes, ends


def _range(ends: np.ndarray, index: int) -> range:
    return range(int(ends[index - 1]) if index else 0, int(ends[index]))


def _rare(codes: np.ndarray, tokens: range, code: int) -> slice:
    """Where the rare values of a range of tokens lie in their list."""
    before = int((codes[: tokens.start] == code).sum())
    return slice(before, before + int((codes[tokens.start : tokens.stop] == code).sum()))
