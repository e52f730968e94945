"""TeacherOutputs of many records <-> compact columns. Pure: arrays in, arrays out.

Records are cut into blocks of about `BLOCK_TOKENS` tokens; a block is opened as a whole. Of each token it keeps

- the likeliest tokens (`entries`), ids as ranks in an order by frequency: small numbers, about a byte each;
- the tail (all that is not among them) at each temperature of the grid, as steps from what the last ones foretell;
- which entry was realised, and how many bytes of text it covers.

What is lost: each log-probability comes back within 0.02 + 0.034 |lp| nats, none below about -24, after which all are
shifted so that entries and tail are 1 at T = 1; the log of the tail within 0.025 nats (at T = 1: sqrt(24 |t|) / 254 +
1e-4); entries of one level lose their order. Normalisers are put together again from both.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers import entries
from embervlm.teachers.entries import LOWEST, Entries, read_entries, sort_entries, write_entries
from embervlm.teachers.outputs import BETAS, TEMPERATURE_GRID, TeacherOutputs, log_tails, stack_entries
from embervlm.teachers.streams import deflate, golomb, inflate, joined, planes, ungolomb, unzigzag, zigzag

Columns = dict[str, np.ndarray]
Records = Sequence[tuple[str, Sequence[TeacherOutputs]]]

BLOCK_TOKENS = 2048
TAIL_STEP = 0.05
OUTSIDE, EXACT, NO_TAIL = 255, 255, 255
"""Which entry was realised: none; size of a token whose span is kept in full; first tail where there is none at all."""

_LEVELS = (LOWEST * (np.arange(256) / 255) ** 2).astype(np.float32)
_TAILS = LOWEST * (np.arange(255) / 254) ** 2
_STREAMS = entries.STREAMS + 13  # of a block


def expected_bytes(entries: float) -> float:
    """About what a token with so many entries costs on disk, for an estimate before there is a cache."""
    return 6 + 1.4 * entries


@dataclass(frozen=True)
class Block:
    """An opened block of R records, A answers and n tokens."""

    record_ends: np.ndarray  # int64 [R], answers
    answer_ends: np.ndarray  # int64 [A], tokens
    entries: Entries
    tail_first: np.ndarray  # uint8 [n]
    tail_steps: np.ndarray  # int64 [G - 1, n]
    realised: np.ndarray  # uint8 [n]
    sizes: np.ndarray  # uint8 [n]
    outside_ranks: np.ndarray  # int64, of the tokens whose `realised` is OUTSIDE
    outside_logprobs: np.ndarray  # float32
    exact: np.ndarray  # int32 [2, ...], first and last byte of the tokens whose size is EXACT
    _told: dict[float, np.ndarray] = field(default_factory=dict)

    def tails(self, log_size: float) -> np.ndarray:
        """float64 [n, G], of all tokens at once: record by record it would be most of the time of a look-up."""
        if log_size not in self._told:
            self._told[log_size] = _tails(self.tail_first, self.tail_steps, log_size)
        return self._told[log_size]


def encode(records: Records, order: np.ndarray) -> Columns:
    """Columns of one shard.

    Args:
        records: at most 254 entries a token; turns count from 0.
        order: int [V], every id of the teacher, the most frequent one first.
    """
    outputs = [output for _, turns in records for output in turns]
    if not outputs:
        raise ValueError("a shard needs at least one response")
    ranks = ranks_of(order)
    parts = _split(records)
    blocks = [_encode_block(part, ranks) for part in parts]
    names = b"\0".join(name.encode() for name, _ in records)
    return {
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


def ranks_in(columns: Columns) -> np.ndarray:
    """int64: every rank that occurs in a shard, once, rising."""
    blocks = [open_block(columns, number) for number in range(len(columns["block_ends"]))]
    return np.unique(np.concatenate([part for block in blocks for part in (block.entries.ranks, block.outside_ranks)]))


def place(columns: Columns, index: int) -> tuple[int, int]:
    """(block, position in it) of record number `index` of a shard."""
    block = int(np.searchsorted(columns["block_records"], index, side="right"))
    return block, index - (int(columns["block_records"][block - 1]) if block else 0)


def open_block(columns: Columns, number: int) -> Block:
    """Undo the entropy coding of one block."""
    ends = columns["block_ends"]
    data = columns["blocks"][int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes()
    streams = inflate(data, _STREAMS)
    rest = iter(streams[entries.STREAMS :])
    turns, lengths = joined([next(rest), next(rest)]), joined([next(rest), next(rest)])
    tail_first = next(rest)
    tail_steps = unzigzag(joined([next(rest), next(rest)]))
    realised, sizes = next(rest), next(rest)
    outside_ranks = ungolomb(next(rest), next(rest))
    outside_levels, exact = next(rest), next(rest)
    return Block(
        record_ends=np.cumsum(turns),
        answer_ends=np.cumsum(lengths),
        entries=read_entries(streams[: entries.STREAMS]),
        tail_first=tail_first,
        tail_steps=tail_steps.reshape(len(TEMPERATURE_GRID) - 1, len(tail_first)),
        realised=realised,
        sizes=sizes,
        outside_ranks=outside_ranks,
        outside_logprobs=_LEVELS[outside_levels],
        exact=exact.view(np.int32).reshape(2, -1),
    )


def decode(block: Block, position: int, record_id: str, order: np.ndarray) -> list[TeacherOutputs]:
    """The turns of the record at `position` of a block."""
    answers = _range(block.record_ends, position)
    return [_decode(block, answer, record_id, turn, order) for turn, answer in enumerate(answers)]


def _decode(block: Block, answer: int, record_id: str, turn: int, order: np.ndarray) -> TeacherOutputs:
    tokens = _range(block.answer_ends, answer)
    part = slice(tokens.start, tokens.stop)
    ranks, logprobs = block.entries.padded(tokens)
    tails = block.tails(np.log(len(order)))[part]
    # Levels are coarse where a token is nearly certain; that all is 1 at T = 1 says the rest.
    logprobs += (np.log1p(-np.minimum(np.exp(tails[:, 0]), 0.999)) - np.log(np.exp(logprobs).sum(1)))[:, None]
    head = np.exp(logprobs[:, :, None] * BETAS).sum(1)
    top_ids = np.where(ranks >= 0, order[ranks], -1).astype(np.int32)
    top_logprobs = logprobs.astype(np.float32)
    at = block.realised[part].astype(np.int64)
    rows, inside = np.arange(len(at)), np.minimum(at, top_ids.shape[1] - 1)
    token_ids, realised = top_ids[rows, inside], top_logprobs[rows, inside]
    rare = _rare(block.realised, tokens, OUTSIDE)
    token_ids[at == OUTSIDE] = order[block.outside_ranks[rare]]
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


def _split(records: Records) -> list[Records]:
    """Consecutive records whose tokens make a block."""
    parts, begin, tokens = [], 0, 0
    for number, (_, turns) in enumerate(records, start=1):
        tokens += sum(len(output) for output in turns)
        if tokens >= BLOCK_TOKENS or number == len(records):
            parts.append(records[begin:number])
            begin, tokens = number, 0
    return parts


def _encode_block(records: Records, ranks: np.ndarray) -> bytes:
    outputs = [output for _, turns in records for output in turns]
    turns = np.array([len(turns) for _, turns in records])
    lengths = np.array([len(output) for output in outputs], dtype=np.int64)
    if max(turns.max(initial=0), lengths.max(initial=0)) > 65535:
        raise UserError("a record of a teacher cache holds at most 65,535 turns of 65,535 tokens; cut it")

    def column(name: str, *shape: int) -> np.ndarray:
        return np.concatenate([np.empty((0, *shape), np.float32), *(getattr(output, name) for output in outputs)])

    top_ids, top_logprobs = stack_entries(outputs)
    kept = sort_entries(np.where(top_ids >= 0, ranks[top_ids], 0), top_logprobs)
    realised = ranks[column("token_ids").astype(np.int64)]
    is_realised = kept.padded(range(len(realised)))[0] == realised[:, None]
    entry = np.where(is_realised.any(1), is_realised.argmax(1), OUTSIDE).astype(np.uint8)
    outside = entry == OUTSIDE
    outside_logprobs = np.clip(column("realised_logprobs")[outside], LOWEST, 0.0)
    tails = log_tails(top_logprobs, column("log_normalisers", len(TEMPERATURE_GRID)))
    tail_first, tail_steps = _quantise_tails(tails, np.log(len(ranks)))
    sizes = _sizes(outputs)
    exact = np.stack([column("starts"), column("ends")])[:, sizes == EXACT].astype(np.int32)
    return deflate(
        [
            *write_entries(kept),
            *planes(turns, 2),
            *planes(lengths, 2),
            tail_first,
            *planes(zigzag(tail_steps), 2),
            entry,
            sizes,
            *golomb(realised[outside]),
            np.rint(255 * np.sqrt(outside_logprobs / LOWEST)).astype(np.uint8),
            exact,
        ]
    )


def _quantise_tails(tails: np.ndarray, log_size: float) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n], int64 [G - 1, n]."""
    exact = np.clip(np.nan_to_num(tails, neginf=LOWEST), LOWEST, None)
    first = np.rint(254 * np.sqrt(np.minimum(exact[:, 0], 0.0) / LOWEST)).astype(np.uint8)
    steps = np.zeros((tails.shape[1] - 1, len(tails)), dtype=np.int64)
    known = [_TAILS[first]]
    for g in range(1, tails.shape[1]):
        foretold = _foretell(known, log_size)
        steps[g - 1] = np.rint((exact[:, g] - foretold) / TAIL_STEP)
        known.append(foretold + TAIL_STEP * steps[g - 1])
    none = ~np.isfinite(tails).any(1)
    steps[:, none] = 0
    return np.where(none, NO_TAIL, first).astype(np.uint8), steps


def _tails(first: np.ndarray, steps: np.ndarray, log_size: float) -> np.ndarray:
    """float64 [n, G]: log of the tail; -inf where there is none."""
    known = [_TAILS[np.minimum(first, NO_TAIL - 1)]]
    for g in range(1, len(TEMPERATURE_GRID)):
        known.append(_foretell(known, log_size) + TAIL_STEP * steps[g - 1])
    return np.where((first == NO_TAIL)[:, None], -np.inf, np.stack(known, axis=1))


def _foretell(known: list[np.ndarray], log_size: float) -> np.ndarray:
    """The next tail. Its log is convex in 1/T and about log V at 1/T = 0: below the chord, above the tangent."""
    g = len(known)
    chord = known[-1] + (1 - BETAS[g] / BETAS[g - 1]) * (log_size - known[-1])
    if g == 1:
        return chord
    tangent = known[-1] + (known[-1] - known[-2]) * (BETAS[g] - BETAS[g - 1]) / (BETAS[g - 1] - BETAS[g - 2])
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
