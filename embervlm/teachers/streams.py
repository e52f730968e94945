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
