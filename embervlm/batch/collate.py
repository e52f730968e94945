"""Samples side by side: one batch of tensors, with the teacher's targets beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from embervlm.batch.dataset import Sample
from embervlm.batch.encode import IGNORE
from embervlm.batch.targets import TeacherTargets
from embervlm.distill.targets import collate_targets


class Collator:
    """Pads on the right. Returns a dict of

    input_ids int64 [B, L], attention_mask int64 [B, L], shift_labels int64 [B, L], labels (the same tensor: its name
    makes transformers' Trainer count the labels of an accumulated step), pixel_values float32 [n_images, 3, H, W] in
    the order of the rows or None, targets (`distill.targets.Targets`) or None.
    """

    def __init__(self, pad_id: int, teacher: TeacherTargets | None = None, temperature: float = 1.0) -> None:
        self.pad_id = pad_id
        self.teacher = teacher
        self.temperature = temperature

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        length = max(len(sample.encoded.input_ids) for sample in samples)
        input_ids = torch.full((len(samples), length), self.pad_id)  # [B, L]
        shift_labels = torch.full_like(input_ids, IGNORE)
        attention_mask = torch.zeros_like(input_ids)
        for row, sample in enumerate(samples):
            count = len(sample.encoded.input_ids)
            input_ids[row, :count] = torch.from_numpy(sample.encoded.input_ids)
            shift_labels[row, :count] = torch.from_numpy(sample.encoded.shift_labels)
            attention_mask[row, :count] = 1
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        targets = None
        if self.teacher is not None:
            encoded = [sample.encoded for sample in samples]
            projected = self.teacher([sample.record for sample in samples], encoded)
            rows = [
                (row, response.first, said)
                for row, (item, answers) in enumerate(zip(encoded, projected, strict=True))
                for response, said in zip(item.responses, answers, strict=True)
            ]
            targets = collate_targets(rows, shift_labels, self.temperature)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": torch.stack(pixels) if pixels else None,
            "shift_labels": shift_labels,
            "labels": shift_labels,
            "targets": targets,
        }
