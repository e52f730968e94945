"""Which records when: the order of an epoch, and each process's share of it.

Both follow from the seed, the epoch and the step alone: a resumed run finds its place without reading what came before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch

from embervlm.data.official import image_key
from embervlm.data.record import Record
from embervlm.errors import UserError

NOTHING = -1
"""Index of a sample without labels: what a process reads in a step that has no sample left for it."""


class ImageMajorSampler(torch.utils.data.Sampler[int]):
    """Indices of `records`, every one once an epoch: pictures at random, the samples of one picture one after the
    other, ready to be packed. Not `together`: samples at random.

    With `weights` (source -> times an epoch; 1 where none is given) a source of n records gives round(weight x n) of
    them: 0.5 is another half in every other epoch, 2 is each record twice. Over the epochs each record of a source is
    read equally often.

    Attributes:
        taken: source -> (records of an epoch, records there are).
    """

    def __init__(
        self,
        records: Sequence[Record],
        seed: int,
        together: bool = True,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.seed = seed
        self.epoch = 0
        self._pictures = [
            f"alone:{index}" if record.image is None or not together else image_key(record.image)
            for index, record in enumerate(records)
        ]
        self._sources: defaultdict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            self._sources[record.source].append(index)
        self.taken = {
            source: (round((weights or {}).get(source, 1.0) * len(indices)), len(indices))
            for source, indices in self._sources.items()
        }
        self._whole = None if weights else self._grouped([(index, 0) for index in range(len(records))])

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(count for count, _ in self.taken.values())

    def __iter__(self) -> Iterator[int]:
        groups = self._grouped(sorted(self._drawn())) if self._whole is None else self._whole
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for group in torch.randperm(len(groups), generator=generator).tolist():
            indices = groups[group]
            for place in torch.randperm(len(indices), generator=generator).tolist():
                yield indices[place]

    def _grouped(self, drawn: list[tuple[int, int]]) -> list[list[int]]:
        """(index, how often it was there before) -> indices of one picture each; a repetition is in a group apart."""
        groups: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for index, again in drawn:
            groups[self._pictures[index], again].append(index)
        return list(groups.values())

    def _drawn(self) -> Iterator[tuple[int, int]]:
        """This epoch's piece of each source's endless row of shuffled passes."""
        for number, (source, indices) in enumerate(self._sources.items()):
            count, start = self.taken[source][0], self.taken[source][0] * self.epoch
            passes = range(start // len(indices), -(-(start + count) // len(indices)))
            for again, turn in enumerate(passes):
                row = self._shuffled(indices, number, turn)
                first = turn * len(indices)
                for index in row[max(0, start - first) : max(0, start + count - first)]:
                    yield index, again

    def _shuffled(self, indices: list[int], source: int, turn: int) -> list[int]:
        """One pass through a source, the samples of one picture together."""
        groups = self._grouped([(index, 0) for index in indices])
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + turn) * 1009 + source + 1)
        return [index for group in torch.randperm(len(groups), generator=generator).tolist() for index in groups[group]]


class RankBatches(torch.utils.data.Sampler[list[int]]):
    """One process's batches of an epoch: of every `ranks` x `batch_size` samples its own `batch_size`.

    Every sample is in exactly one batch of one process. The last step is shared out evenly; a process for which
    nothing is left gets [NOTHING], so that all have equally many steps and none waits for the others.
    """

    def __init__(self, order: ImageMajorSampler, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return -(-len(self.order) // (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.order)
        every = self.batch_size * self.ranks
        for start in range(0, len(indices), every):
            step = indices[start : start + every]
            share, more = divmod(len(step), self.ranks)
            first = self.rank * share + min(self.rank, more)
            yield step[first : first + share + (self.rank < more)] or [NOTHING]


def parse_weights(words: Sequence[str] | None, records: Sequence[Record]) -> dict[str, float] | None:
    """`--source_weights llava_instruct=1 vqa_v2=0.5` -> {source: times an epoch}; None where nothing was asked for.

    Raises:
        UserError: no NAME=NUMBER, a source that these records do not have, or nothing left to read.
    """
    if not words:
        return None
    there = sorted({record.source for record in records})
    weights: dict[str, float] = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = -1.0
        if not 0 <= weights[name] < float("inf"):
            raise UserError(f"--source_weights has {word!r}; it takes NAME=TIMES such as {there[0]}=0.5, 0 or more.")
        if name not in there:
            raise UserError(f"--source_weights names {name!r}; the sources of this data are {', '.join(there)}.")
    if not any(weights.get(source, 1.0) for source in there):
        raise UserError("--source_weights leaves nothing to read: every source has the weight 0.")
    return weights
