"""The order of an epoch, from the seed and the epoch alone: a resumed run finds its place in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from embervlm.data.official import image_key
from embervlm.data.record import Record


class ImageMajorSampler(torch.utils.data.Sampler[int]):
    """Indices of `records`, every one once an epoch: pictures at random, the samples of one picture one after the
    other, ready to be packed. Not `together`: samples at random."""

    def __init__(self, records: Sequence[Record], seed: int, together: bool = True) -> None:
        self.seed = seed
        self.epoch = 0
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            alone = record.image is None or not together
            groups[f"alone:{index}" if alone else image_key(record.image or "")].append(index)
        self._groups = list(groups.values())

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for group in torch.randperm(len(self._groups), generator=generator).tolist():
            indices = self._groups[group]
            for place in torch.randperm(len(indices), generator=generator).tolist():
                yield indices[place]
