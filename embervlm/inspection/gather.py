"""The batches of a training, with what is needed to judge them: whole samples, rows, what every teacher says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset, Sample
from embervlm.batch.encode import IGNORE, Encoded, encode
from embervlm.batch.pack import Row, lay_out, pack
from embervlm.batch.sampler import ImageMajorSampler
from embervlm.batch.targets import LookUp, TeacherTargets
from embervlm.data.official import image_key
from embervlm.distill.targets import NONE, ResponseTargets
from embervlm.errors import UserError
from embervlm.inspection.view import cut_from
from embervlm.lesson import Lesson
from embervlm.teachers.outputs import TeacherOutputs

WITHOUT_LIMIT = 1 << 40


@dataclass(frozen=True)
class Teachers:
    """Who speaks, with which share, and what is trained on."""

    names: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    targets: tuple[TeacherTargets, ...] = ()
    outputs: LookUp | None = None  # of the first one
    live: bool = False
    trained: str = "resolved"

    @classmethod
    def of(cls, lesson: Lesson | None) -> Teachers:
        if lesson is None:
            return cls()
        shares, targets = zip(*lesson.weighted, strict=True)
        return cls(lesson.names, shares, targets, lesson.outputs, lesson.live, lesson.trained)


@dataclass(frozen=True)
class Seen:
    """One sample of a batch."""

    sample: Sample
    whole: Encoded  # the same record without a limit of length
    problem: str = ""  # why its picture cannot be read: training would stop here
    said: tuple[Sequence[ResponseTargets], ...] = ()  # of each teacher, one for each response
    outputs: Sequence[TeacherOutputs] | None = None  # of the first teacher; None: it says nothing

    @property
    def id(self) -> str:
        return self.sample.record.id

    @property
    def source(self) -> str:
        return self.sample.record.source

    @property
    def picture(self) -> str | None:
        """What names the picture, whatever folder it is in."""
        image = self.sample.record.image
        return None if image is None else image_key(image)

    @property
    def labels(self) -> int:
        return int((self.sample.encoded.shift_labels != IGNORE).sum())

    @property
    def cut(self) -> tuple[int, int]:
        """Tokens that are cut off, and labels among them."""
        return cut_from(self.sample.encoded, self.whole)

    @property
    def targets(self) -> int:
        """Labels about which some teacher says something."""
        answers = zip(*self.said, strict=True)  # every response, as each teacher sees it
        return sum(int(np.any([one.kinds != NONE for one in answer], axis=0).sum()) for answer in answers)


@dataclass(frozen=True)
class Batch:
    """What one step reads on one device."""

    number: int
    seen: tuple[Seen, ...]
    rows: tuple[Row, ...]
    images: dict[str, str | None] = field(default_factory=dict)  # of each record

    @property
    def used(self) -> int:
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def longest(self) -> int:
        return max((len(row.input_ids) for row in self.rows), default=0)

    @property
    def slots(self) -> int:
        return len(self.rows) * self.longest

    @property
    def shown(self) -> list[str]:
        """The pictures of the rows, one that is in two rows twice."""
        return [image_key(self.images[name] or "") for row in self.rows for name in row.pictures]


def gather(
    data: RecordDataset,
    order: ImageMajorSampler,
    teachers: Teachers,
    *,
    first: int,
    count: int,
    batch_size: int,
    row_length: int | None,
) -> Iterator[Batch]:
    """So many batches from number `first` on (1 is the first of all), at most to the end of its epoch.

    Args:
        row_length: most positions of a packed row; None: a row for each sample.
    """
    per_epoch = -(-len(order) // batch_size)
    epoch, skipped = divmod(first - 1, per_epoch)
    order.set_epoch(epoch)
    indices = list(order)
    for place in range(skipped, min(skipped + count, per_epoch)):
        chosen = indices[place * batch_size : (place + 1) * batch_size]
        yield read_batch(epoch * per_epoch + place + 1, chosen, data, teachers, row_length)


def read_batch(
    number: int, chosen: Sequence[int], data: RecordDataset, teachers: Teachers, row_length: int | None
) -> Batch:
    """One batch from the places of its samples in `data`."""
    read = [_read(data, at) for at in chosen]
    samples = [sample for sample, _ in read]
    encoded = [sample.encoded for sample in samples]
    shared = Collator(data.processor).shared
    rows = lay_out(encoded, shared) if row_length is None else pack(encoded, shared, row_length)
    # A live teacher would stop at a picture that cannot be read.
    asked = [at for at, (_, problem) in enumerate(read) if not (problem and teachers.live)]
    records = [samples[at].record for at in asked]
    said = [targets(records, [encoded[at] for at in asked]) for targets in teachers.targets] if asked else []
    outputs = teachers.outputs(records) if teachers.outputs is not None and asked else []
    places = {at: place for place, at in enumerate(asked)}
    seen = []
    for at, (sample, problem) in enumerate(read):
        whole = encode(sample.record, data.processor, WITHOUT_LIMIT) if sample.encoded.truncated else sample.encoded
        place = places.get(at)
        of_each = () if place is None else tuple(one[place] for one in said)
        seen.append(
            Seen(sample, whole, problem, of_each, (outputs[place] or None) if place is not None and outputs else None)
        )
    return Batch(number, tuple(seen), tuple(rows), {sample.record.id: sample.record.image for sample in samples})


def _read(data: RecordDataset, at: int) -> tuple[Sample, str]:
    """The sample, or what is left of it without its picture, and why."""
    try:
        return data[at], ""
    except UserError as error:
        record = data.records[at]
        return Sample(record, encode(record, data.processor, data.max_length), None), str(error)
