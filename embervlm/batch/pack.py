"""Image-major packing: a row holds several pictures, each once and followed by the samples about it.

A sample sees its picture and itself only, and its positions go on where the picture's end, so that the loss and its
gradients equal those of a row for each sample. VQA-v2 asks 5.4 questions of a picture: unpacked, most of a row is the
same picture again, and most of the rest is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.batch.bins import fill_rows
from embervlm.batch.encode import IGNORE, Encoded, Response
from embervlm.data.official import image_key

SHARED = 0
"""Segment of the positions that every sample of a group sees."""


@dataclass(frozen=True)
class Placed:
    """Where one response lies in a packed row: shift_labels[first] is its first token."""

    record_id: str
    response: Response
    first: int


@dataclass(frozen=True)
class Row:
    """One packed row: groups of samples, those of a group about one picture; a sample without one is its own group."""

    input_ids: np.ndarray  # int32 [L]
    shift_labels: np.ndarray  # int32 [L]
    position_ids: np.ndarray  # int32 [L]; restart in each group, and after its picture in each sample
    groups: np.ndarray  # int32 [L]; 0, 1, ...
    segments: np.ndarray  # int32 [L]; SHARED for the picture, 1, 2, ... for the samples of a group
    pictures: tuple[str, ...]  # for each picture, in order, the id of a record that shows it
    placed: tuple[Placed, ...]


def pack(samples: Sequence[Encoded], shared: int, max_length: int) -> list[Row]:
    """Samples -> as few slots (rows x longest row) as `fill_rows` finds; everything in order of first appearance.

    Args:
        shared: positions at the start of every sample with a picture that are the same in all of them.
        max_length: most positions of a row. The samples of one picture stay together while they fit into a row; else
            they are split, and the picture is repeated.
    """
    groups = _group(samples, shared, max_length)
    bins = fill_rows([_length(group, shared) for group in groups], max_length)
    return [_join([groups[index] for index in row], shared) for row in bins]


def lay_out(samples: Sequence[Encoded], shared: int) -> list[Row]:
    """A row for each sample."""
    return [_join([[sample]], shared) for sample in samples]


def _start(sample: Encoded, shared: int) -> int:
    return shared if sample.image is not None else 0


def _length(group: Sequence[Encoded], shared: int) -> int:
    start = _start(group[0], shared)
    return start + sum(len(sample.input_ids) - start for sample in group)


def _group(samples: Sequence[Encoded], shared: int, max_length: int) -> list[list[Encoded]]:
    """Samples by picture, each list short enough for a row."""
    by_picture: dict[str | int, list[Encoded]] = {}
    for index, sample in enumerate(samples):
        by_picture.setdefault(index if sample.image is None else image_key(sample.image), []).append(sample)
    groups = []
    for group in by_picture.values():
        start = _start(group[0], shared)
        parts = fill_rows([len(sample.input_ids) - start for sample in group], max_length - start)
        groups += [[group[index] for index in part] for part in parts]
    return groups


def _join(groups: Sequence[Sequence[Encoded]], shared: int) -> Row:
    columns: list[tuple[np.ndarray, ...]] = []  # ids, labels, positions, group and segment of each piece
    pictures, placed = [], []
    at = 0
    for number, group in enumerate(groups):
        start = _start(group[0], shared)
        if start:
            pictures.append(group[0].record_id)
            none = np.full(start, IGNORE)
            columns.append((group[0].input_ids[:start], none, np.arange(start), *_numbers(start, number, SHARED)))
        at += start
        for segment, sample in enumerate(group, start=SHARED + 1):
            length = len(sample.input_ids) - start
            positions = np.arange(start, start + length)
            ids, labels = sample.input_ids[start:], sample.shift_labels[start:]
            columns.append((ids, labels, positions, *_numbers(length, number, segment)))
            placed += [Placed(sample.record_id, reply, reply.first - start + at) for reply in sample.responses]
            at += length
    row = [np.concatenate(parts).astype(np.int32) for parts in zip(*columns, strict=True)]
    token_ids, shift_labels, position_ids, numbers, segments = row
    return Row(token_ids, shift_labels, position_ids, numbers, segments, tuple(pictures), tuple(placed))


def _numbers(length: int, group: int, segment: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(length, group), np.full(length, segment)
