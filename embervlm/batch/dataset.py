"""Records as a torch data set: encoded and with pixels, made when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embervlm.batch.encode import IGNORE, Encoded, encode, surely_fits
from embervlm.batch.features import FrozenFeatures
from embervlm.batch.memo import PIXEL_BYTES, Memo
from embervlm.batch.sampler import NOTHING
from embervlm.data.images import load_image, resolve_image
from embervlm.data.record import Record
from embervlm.errors import UserError

ENCODED_BYTES = 256 << 20


@dataclass(frozen=True)
class Sample:
    """One record, ready to be collated."""

    record: Record
    encoded: Encoded
    pixels: Tensor | None  # float32 [3, H, W] after the student's preprocessing; None: text only, or features instead
    features: Tensor | None = None  # float16 [c, h, w], what the tower's frozen part made of the picture


class RecordDataset(torch.utils.data.Dataset[Sample]):
    """Encodes and decodes on access. Records that keep no label within `max_length` are left out and listed.

    Attributes:
        records: what is left.
        without_labels: ids of the records left out.
        features: where to look up what the frozen part of the tower made of a picture, instead of decoding it.
    """

    def __init__(
        self,
        records: Sequence[Record],
        image_root: Path,
        processor: Any,
        max_length: int,
        pixel_bytes: int = PIXEL_BYTES,
        features: FrozenFeatures | None = None,
    ) -> None:
        self.image_root = Path(image_root)
        self.processor = processor
        self.max_length = max_length
        self._features = features
        self.records: list[Record] = []
        self.without_labels: list[str] = []
        for record in records:
            if surely_fits(record, processor, max_length) or encode(record, processor, max_length).has_labels:
                self.records.append(record)
            else:
                self.without_labels.append(record.id)
        if records and not self.records:
            raise UserError(
                f"None of the {len(records)} records has an answer that begins within max_length {max_length} "
                f"(a picture alone takes {processor.num_image_tokens} positions). Raise --max_length."
            )
        self._pixels: Memo[Tensor] = Memo(pixel_bytes)
        self._encoded: Memo[Encoded] = Memo(ENCODED_BYTES)
        # The samples of a picture come one after the other: it is decoded once even where the memory is full.
        self._latest: tuple[str, Tensor] | None = None

    @property
    def features(self) -> FrozenFeatures | None:
        return self._features

    @features.setter
    def features(self, features: FrozenFeatures | None) -> None:
        self._features, self._latest = features, None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        if index == NOTHING:
            return self._nothing()
        record = self.records[index]
        encoded = self._encoded.get_or_make(
            index, lambda: encode(record, self.processor, self.max_length), lambda made: 1024 + 24 * len(made.input_ids)
        )
        if record.image is None:
            return Sample(record, encoded, None)
        if self._latest is None or self._latest[0] != record.image:
            self._latest = (record.image, self._picture(record, record.image))
        picture = self._latest[1]
        return Sample(record, encoded, picture) if self.features is None else Sample(record, encoded, None, picture)

    def _picture(self, record: Record, image: str) -> Tensor:
        if self.features is not None:
            return self.features[image]
        return self._pixels.get_or_make(
            image, lambda: self._load(record), lambda made: made.element_size() * made.nelement()
        )

    def _nothing(self) -> Sample:
        """One position that is asked for nothing."""
        record = replace(self.records[0], image=None)
        end = np.array([self.processor.tokenizer.eos_token_id], dtype=np.int32)
        return Sample(record, Encoded(record.id, end, np.full_like(end, IGNORE), None, (), False), None)

    def _load(self, record: Record) -> Tensor:
        assert record.image is not None
        try:
            picture = load_image(resolve_image(self.image_root, record.image))
        except UserError as error:
            raise UserError(f"Record {record.id}: {error}") from error
        return self.processor.image_processor(picture, return_tensors="pt")["pixel_values"][0]
