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
    """One answer to the first instruction of each record; `evaluate` hands over a batch at a time."""

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]: ...


def load_pictures(records: Sequence[Record], image_root: Path) -> list[Image.Image | None]:
    """The picture of each record, None where it has none."""
    return [None if r.image is None else load_image(resolve_image(image_root, r.image)) for r in records]


@dataclasses.dataclass
class StudentAnswerer:
    """Answers of an EmberVLM, greedy unless `options` (of transformers' generate) say otherwise."""

    model: Any
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        images = load_pictures(records, image_root)
        return _generate(self.model, images, records, max_new_tokens, self.options)


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
        blind = [dataclasses.replace(record, image=None) for record in records]
        return self.answerer.answers(blind, image_root, max_new_tokens)


class MeanImage:
    """A student that always sees the mean of some pictures: like no picture, but in the form it was trained on."""

    def __init__(self, model: Any, records: Sequence[Record], image_root: Path, most: int = 64) -> None:
        names = sorted({record.image for record in records if record.image is not None})[:most]
        self.model = model
        self.image = _mean_image([load_image(resolve_image(image_root, name)) for name in names])

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        images = [None if record.image is None else self.image for record in records]
        return _generate(self.model, images, records, max_new_tokens)


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


def _generate(
    model: Any, images: list, records: Sequence[Record], max_new_tokens: int, options: Mapping[str, Any] | None = None
) -> list[str]:
    prompts = [record.instruction for record in records]
    with torch.inference_mode():
        return model.generate(image=images, prompt=prompts, max_length=max_new_tokens, **(options or {}))


def _mean_image(images: Sequence[Image.Image]) -> Image.Image | None:
    if not images:
        return None
    size = images[0].size
    total = sum(np.asarray(image.resize(size), dtype=np.float64) for image in images)
    return Image.fromarray(np.round(total / len(images)).astype(np.uint8))
