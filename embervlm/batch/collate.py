"""Samples side by side: one batch of tensors, with the teacher's targets beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from embervlm.batch.dataset import Sample
from embervlm.batch.encode import IGNORE
from embervlm.batch.pack import Row, lay_out, pack
from embervlm.batch.targets import TeacherTargets
from embervlm.distill.targets import Targets, collate_targets


def model_inputs(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What of a `Collator`'s batch a model is called with, on its device."""
    return {name: value.to(device) for name, value in batch.items() if value is not None and name != "labels"}


PADDING = -1
"""Group and segment of the positions that hold nothing."""


class Collator:
    """Lays rows side by side, padded on the right. Returns a dict of

    input_ids int64 [B, L], position_ids int64 [B, L], attention_mask int64 [B, L], or of packed rows groups and
    segments (`Row`), both int64 [B, L] and -1 for padding, shift_labels int64 [B, L], labels (the same tensor: its
    name makes transformers' Trainer count the labels of an accumulated step), pixel_values float32
    [n_images, 3, H, W] in the order of the rows or None, frozen_features float16 [n_images, c, h, w] in their place or
    None, targets (`distill.targets.Targets`, of several teachers a list of weights and Targets) or None.

    Args:
        teacher: the source of targets; several with their weights.
        pack_length: samples are packed into as few rows as they fill, of at most so many positions and as long as the
            longest of them needs; None: a row for each sample.
    """

    def __init__(
        self,
        processor: Any,
        teacher: TeacherTargets | Sequence[tuple[float, TeacherTargets]] | None = None,
        temperature: float = 1.0,
        pack_length: int | None = None,
    ) -> None:
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.shared = 1 + processor.num_image_tokens  # <|user|> and the picture begin every sample that has one
        self.teachers = [(1.0, teacher)] if callable(teacher) else list(teacher or ())
        self.temperature = temperature
        self.pack_length = pack_length

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        encoded = [s.encoded for s in samples]
        if self.pack_length is None:
            rows = lay_out(encoded, self.shared)
        else:
            rows = pack(encoded, self.shared, self.pack_length)
        length = max(len(row.input_ids) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_id)  # [B, L]
        shift_labels = torch.full_like(input_ids, IGNORE)
        position_ids = torch.zeros_like(input_ids)
        groups = torch.full_like(input_ids, PADDING)
        segments = torch.full_like(input_ids, PADDING)
        for index, row in enumerate(rows):
            count = len(row.input_ids)
            input_ids[index, :count] = torch.from_numpy(row.input_ids)
            shift_labels[index, :count] = torch.from_numpy(row.shift_labels)
            position_ids[index, :count] = torch.from_numpy(row.position_ids)
            groups[index, :count] = torch.from_numpy(row.groups)
            segments[index, :count] = torch.from_numpy(row.segments)
        if self.pack_length is None:
            seen = {"attention_mask": (segments != PADDING).long()}
        else:
            seen = {"groups": groups, "segments": segments}
        by_id = {s.encoded.record_id: s for s in samples}
        shown = [by_id[record_id] for row in rows for record_id in row.pictures]
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            **seen,
            "pixel_values": _stack([s.pixels for s in shown]),
            "frozen_features": _stack([s.features for s in shown]),
            "shift_labels": shift_labels,
            "labels": shift_labels,
            "targets": self._targets(samples, rows, shift_labels),
        }

    def _targets(self, samples: Sequence[Sample], rows: Sequence[Row], shift_labels: torch.Tensor) -> Any:
        told = [(weight, self._targets_of(teacher, samples, rows, shift_labels)) for weight, teacher in self.teachers]
        return told[0][1] if len(told) == 1 else told or None

    def _targets_of(
        self, teacher: TeacherTargets, samples: Sequence[Sample], rows: Sequence[Row], shift_labels: torch.Tensor
    ) -> Targets:
        said = teacher([s.record for s in samples], [s.encoded for s in samples])
        known = {
            (sample.encoded.record_id, response.turn): targets
            for sample, answers in zip(samples, said, strict=True)
            for response, targets in zip(sample.encoded.responses, answers, strict=True)
        }
        placed = [
            (index, place.first, known[place.record_id, place.response.turn])
            for index, row in enumerate(rows)
            for place in row.placed
        ]
        return collate_targets(placed, shift_labels, self.temperature)


def _stack(pictures: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    there = [picture for picture in pictures if picture is not None]
    return torch.stack(there) if there else None
