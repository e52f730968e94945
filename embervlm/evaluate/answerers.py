"""Anything that answers questions about pictures: the student, a teacher, and both with the picture taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from embervlm.data.images import load_image, resolve_image

if TYPE_CHECKING:
    from embervlm.data.record import Record
    from embervlm.teachers.outputs import Teacher


class Answerer(Protocol):
    """One answer to the first instruction of each record; `evaluate` hands over a batch at a time.

    A question that the system cannot read is answered with "". Systems with questions of that kind name them: `unread`.
    """

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]: ...


def load_pictures(records: Sequence[Record], image_root: Path) -> list[Image.Image | None]:
    """The picture of each record, None where it has none."""
    return [None if r.image is None else load_image(resolve_image(image_root, r.image)) for r in records]


@dataclasses.dataclass
class StudentAnswerer:
    """Answers of an EmberVLM; a question that is longer than the model reads has none.

    Greedy unless `options` (of transformers' generate) say otherwise, whatever the checkpoint's own settings are.
    """

    model: Any
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        return self.about(load_pictures(records, image_root), records, max_new_tokens)

    def about(self, images: Sequence[Any], records: Sequence[Record], max_new_tokens: int) -> list[str]:
        """The answers about these pictures, one a record, None: no picture."""
        unread = set(self.unread(records))
        asked = [at for at, record in enumerate(records) if record.id not in unread]
        if not asked:
            return [""] * len(records)
        with torch.inference_mode():
            said = self.model.generate(
                image=[images[at] for at in asked],
                prompt=[records[at].instruction for at in asked],
                max_length=max_new_tokens,
                **{"do_sample": False, **self.options},
            )
        answers = dict(zip(asked, said, strict=True))
        return [answers.get(at, "") for at in range(len(records))]

    def unread(self, records: Sequence[Record]) -> list[str]:
        """Ids of the records whose question takes all of the model's positions, its picture included."""
        room = getattr(self.model.config.text_config, "max_position_embeddings", None)
        read = self.model.processor.encode_prompt
        return [r.id for r in records if room is not None and len(read(r.instruction, r.image is not None)) >= room]


@dataclasses.dataclass
class TeacherAnswerer:
    """Answers of a teacher, in its own chat template."""

    teacher: Teacher

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        return self.teacher.generate(list(records), image_root, max_new_tokens)


class FromFile:
    """Answers that were written down before, in VQA's submission form: [{"question_id": .., "answer": ".."}, ..]."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        """answers: record id -> answer."""
        self.known = answers

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        return [self.known[record.id] for record in records]


@dataclasses.dataclass
class WithoutImage:
    """Another answerer that gets the questions alone."""

    answerer: Answerer

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        return self.answerer.answers(_blind(records), image_root, max_new_tokens)

    def unread(self, records: Sequence[Record]) -> list[str]:
        return unread(self.answerer, _blind(records))


class MeanImage:
    """A student that always sees the mean of some pictures: like no picture, but in the form it was trained on."""

    def __init__(self, student: StudentAnswerer, records: Sequence[Record], image_root: Path, most: int = 64) -> None:
        names = sorted({record.image for record in records if record.image is not None})[:most]
        self.student = student
        self.image = _mean_image([load_image(resolve_image(image_root, name)) for name in names])

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        images = [None if record.image is None else self.image for record in records]
        return self.student.about(images, records, max_new_tokens)

    def unread(self, records: Sequence[Record]) -> list[str]:
        return self.student.unread(records)


class ShuffledImages:
    """Another answerer that sees the picture of another record: what it still gets right, it did not see."""

    def __init__(self, answerer: Answerer, records: Sequence[Record], seed: int = 0) -> None:
        names = sorted({record.image for record in records if record.image is not None})
        np.random.default_rng(seed).shuffle(names)
        # A cycle through all of them: nobody keeps the own picture as long as there are two.
        self.answerer = answerer
        self.swapped = dict(zip(names, names[1:] + names[:1], strict=True))

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        swapped = [
            record if record.image is None else dataclasses.replace(record, image=self.swapped[record.image])
            for record in records
        ]
        return self.answerer.answers(swapped, image_root, max_new_tokens)

    def unread(self, records: Sequence[Record]) -> list[str]:
        return unread(self.answerer, records)


def _blind(records: Sequence[Record]) -> list[Record]:
    return [dataclasses.replace(record, image=None) for record in records]


def unread(answerer: Answerer, records: Sequence[Record]) -> list[str]:
    """Ids of the records whose question a system cannot read, as far as it tells."""
    return answerer.unread(records) if hasattr(answerer, "unread") else []


def _mean_image(images: Sequence[Image.Image]) -> Image.Image | None:
    if not images:
        return None
    size = images[0].size
    total = sum(np.asarray(image.resize(size), dtype=np.float64) for image in images)
    return Image.fromarray(np.round(total / len(images)).astype(np.uint8))
