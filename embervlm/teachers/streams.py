"""Small arrays <-> bytes: each stream of bytes is entropy-coded by itself with DEFLATE (RFC 1951)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

LEVEL = 9


def deflate(streams: Sequence[np.ndarray]) -> bytes:
    """Arrays of uint8 -> one block: the number of bytes of each coded stream, then the streams.

    Alike values belong into one stream: the coder learns how often each byte occurs in it.
    """
    coded = []
    for stream in streams:
        coder = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        coded.append(coder.compress(stream.tobytes()) + coder.flush() if stream.size else b"")
    return np.array([len(part) for part in coded], dtype="<u4").tobytes() + b"".join(coded)


def inflate(block: bytes, count: int) -> list[np.ndarray]:
    """The `count` uint8 arrays of a block."""
    sizes = np.frombuffer(block, dtype="<u4", count=count)
    ends = 4 * count + np.cumsum(sizes)
    parts = (block[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True))
    return [np.frombuffer(zlib.decompress(part, -zlib.MAX_WBITS) if part else b"", dtype=np.uint8) for part in parts]


def planes(values: np.ndarray, count: int) -> list[np.ndarray]:
    """Non-negative integers below 256^count as `count` arrays of bytes, the lowest first."""
    return [((values.astype(np.int64) >> 8 * plane) & 255).astype(np.uint8).reshape(-1) for plane in range(count)]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """int64: the inverse of `planes`."""
    whole = np.zeros(parts[0].shape, dtype=np.int64)
    for plane, part in enumerate(parts):
        whole |= part.astype(np.int64) << 8 * plane
    return whole


def zigzag(values: np.ndarray) -> np.ndarray:
    """Integers around zero as small non-negative ones: 0, -1, 1, -2, 2 -> 0, 1, 2, 3, 4."""
    return np.where(values < 0, -2 * values - 1, 2 * values)


def unzigzag(values: np.ndarray) -> np.ndarray:
    return np.where(values % 2 == 1, -(values + 1) // 2, values // 2)


def golomb(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative integers below 2^62 as classes (uint8), which an entropy coder shortens, and raw bits (uint8).

    An Exp-Golomb code whose class holds the exponent of value + 1 and its two leading bits after the first.
    """
    x = values.astype(np.int64) + 1
    exponent = np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1
    raw = np.maximum(exponent - 2, 0)
    leading = (x >> raw) & ((1 << (exponent - raw)) - 1)
    at = np.cumsum(raw) - raw
    bits = np.zeros(int(raw.sum()), dtype=np.uint8)
    for bit in range(int(raw.max(initial=0))):
        has = raw > bit
        bits[at[has] + bit] = x[has] >> bit & 1
    return (4 * exponent + leading).astype(np.uint8), np.packbits(bits)


def ungolomb(classes: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """int64: the inverse of `golomb`."""
    exponent = classes.astype(np.int64) >> 2
    raw = np.maximum(exponent - 2, 0)
    x = (1 << exponent) | (classes & 3).astype(np.int64) << raw
    at, bits = np.cumsum(raw) - raw, np.unpackbits(packed)
    for bit in range(int(raw.max(initial=0))):
        has = raw > bit
        x[has] |= bits[at[has] + bit].astype(np.int64) << bit
    return x - 1
