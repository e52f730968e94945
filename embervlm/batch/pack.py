"""Image-major packing: a row holds a picture once and every sample about it, each seeing the picture and itself only.

Positions restart after the picture, so that the loss and its gradients equal those of the unpacked rows. VQA-v2 asks
5.4 questions of a picture: unpacked, most of a row is the same picture again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.batch.encode import IGNORE, Encoded, Response
from embervlm.data.official import image_key

SHARED = 0
"""Segment of the positions that every sample of a row sees."""


@dataclass(frozen=True)
class Placed:
    """Where one response lies in a packed row: shift_labels[first] is its first token."""

    record_id: str
    response: Response
    first: int


@dataclass(frozen=True)
class Row:
    """One packed row of one picture (or of one sample without a picture)."""

    input_ids: np.ndarray  # int32 [L]
    shift_labels: np.ndarray  # int32 [L]
    position_ids: np.ndarray  # int32 [L]; restart after the picture
    segments: np.ndarray  # int32 [L]; SHARED for the picture, 1, 2, ... for the samples
    image: str | None
    placed: tuple[Placed, ...]


def pack(samples: Sequence[Encoded], shared: int, max_length: int) -> list[Row]:
    """Samples -> rows of at most `max_length` positions, those of one picture together, in order of first appearance.

    Args:
        shared: positions at the start of every sample with a picture that are the same in all of them.
        max_length: samples that do not fit any more open the next row of their picture; 0 gives each its own row.
    """
    open_rows: dict[str, list[list[Encoded]]] = {}
    rows: list[list[Encoded]] = []
    for sample in samples:
        if sample.image is None:
            rows.append([sample])
            continue
        mine = open_rows.setdefault(image_key(sample.image), [])
        for row in mine:
            if shared + sum(len(s.input_ids) - shared for s in row) + len(sample.input_ids) - shared <= max_length:
                row.append(sample)
                break
        else:
            row = [sample]
            mine.append(row)
            rows.append(row)
    return [_join(row, shared if row[0].image is not None else 0) for row in rows]


def _join(samples: list[Encoded], shared: int) -> Row:
    ids = [samples[0].input_ids[:shared], *(s.input_ids[shared:] for s in samples)]
    labels = [np.full(shared, IGNORE, dtype=np.int32), *(s.shift_labels[shared:] for s in samples)]
    lengths = [len(s.input_ids) - shared for s in samples]
    positions = [np.arange(shared), *(np.arange(shared, shared + n) for n in lengths)]
    segments = [np.full(shared, SHARED), *(np.full(n, i) for i, n in enumerate(lengths, start=1))]
    placed, start = [], shared
    for sample, length in zip(samples, lengths, strict=True):
        for response in sample.responses:
            placed.append(Placed(sample.record_id, response, response.first - shared + start))
        start += length
    return Row(
        input_ids=np.concatenate(ids).astype(np.int32),
        shift_labels=np.concatenate(labels).astype(np.int32),
        position_ids=np.concatenate(positions).astype(np.int32),
        segments=np.concatenate(segments).astype(np.int32),
        image=samples[0].image,
        placed=tuple(placed),
    )


def visible(segments: np.ndarray) -> np.ndarray:
    """Which positions see which: bool [B, 1, L, L] from segments [B, L] (-1 = padding).

    A position sees itself, the shared start and what came before it in its own sample.
    """
    length = segments.shape[1]
    causal = np.tri(length, dtype=bool)
    same = segments[:, :, None] == segments[:, None, :]
    seen = (same | (segments[:, None, :] == SHARED)) & causal
    # Padding sees itself, since a softmax over nothing is NaN.
    return (seen | np.eye(length, dtype=bool))[:, None]
