"""The order of an epoch: pictures at random, the samples of one picture one after the other, ready to be packed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from embervlm.data.official import image_key
from embervlm.data.record import Record


class ImageMajorSampler(torch.utils.data.Sampler[int]):
    """Indices of `records`, every one once an epoch; the order follows from (seed, epoch) alone."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            groups[f"text:{index}" if record.image is None else image_key(record.image)].append(index)
        self._groups = list(groups.values())

    def set_epoch(self, epoch: int) -> None:
        """accelerate calls this before each epoch, also when a run is resumed."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for group in torch.randperm(len(self._groups), generator=generator).tolist():
            indices = self._groups[group]
            for place in torch.randperm(len(indices), generator=generator).tolist():
                yield indices[place]
