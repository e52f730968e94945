"""How far the student is from the teacher, on the text of the references: KL both ways, agreement, cross-entropy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.dataset import RecordDataset, Sample
from embervlm.batch.encode import IGNORE
from embervlm.data.official import image_key
from embervlm.distill.targets import ANCHORED, INTERIOR, NONE
from embervlm.evaluate.positions import Positions, by_place, calibration_error, compare, join, labelled, most_different
from embervlm.processes import ALONE, Processes

if TYPE_CHECKING:
    from embervlm.batch.features import FrozenFeatures
    from embervlm.batch.targets import TeacherTargets
    from embervlm.data.record import Record


@dataclass(frozen=True)
class Divergence:
    """Nats are per position that has a target (anchored and interior student tokens), at temperature T = 1.

    Both KLs are over the teacher's events and one bucket for everything else, which is a lower bound of the KL over
    the whole vocabulary; a teacher's zero counts as 1e-7 in KL(student || teacher).
    """

    student_teacher: float  # KL(student || teacher), the guide's figure
    teacher_student: float  # KL(teacher || student), what is trained against
    student_teacher_at_t: float  # both distributions at `temperature`
    teacher_student_at_t: float
    temperature: float
    top1_agreement: float  # share of targeted positions where both prefer the same token
    ce_per_token: float  # nats per student token of the references, end of turn included
    bits_per_byte: float  # the same in bits per UTF-8 byte of the references: comparable across tokenizers
    anchored: float  # shares of the student's tokens
    interior: float
    none: float
    tokens: int  # student tokens
    records: int
    calibration_error: float | None = None  # of the student's likeliest token at T = 1, as `calibration_error` defines
    by_place: list[dict[str, Any]] = field(default_factory=list)  # both KLs by place in the answer
    most_different: list[dict[str, Any]] = field(default_factory=list)  # the positions with the largest KL, in words


def measure_divergence(
    model: Any,
    records: Sequence[Record],
    image_root: Path,
    teacher: TeacherTargets,
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
    max_length: int = 512,
    features: FrozenFeatures | None = None,
    advance: Callable[[int], None] = lambda count: None,
    processes: Processes = ALONE,
) -> Divergence:
    """Teacher-force the references through the student and compare with what the teacher said of them.

    Args:
        model: an EmberVLM with its `processor`.
        teacher: projected targets of every record (from a cache or a live teacher).
        temperature: a second temperature beside 1, usually the one of training.
        features: of the model's frozen blocks, in place of the pictures.
        advance: called with the number of records done, for a progress bar.
        processes: each reads its share; all return the same.
    """
    dataset = RecordDataset(records, image_root, model.processor, max_length, features=features)
    # By picture, so that its questions share a row and the picture is read once.
    order = sorted(range(len(dataset)), key=lambda at: image_key(dataset.records[at].image or ""))
    collate = Collator(model.processor, teacher, 1.0, max_length)
    at_temperature = None if temperature == 1.0 else Collator(model.processor, teacher, temperature, max_length)
    counts: dict[str, float] = {}
    found: list[Positions] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(processes.rank * batch_size, len(order), processes.count * batch_size):
            batch = order[start : start + batch_size]
            samples = [dataset[at] for at in batch]
            _add(counts, _count(samples, teacher))
            found.append(_read(model, batch, samples, collate, at_temperature))
            advance(len(samples) * processes.count)
    model.train(was_training)
    gathered = processes.gather((counts, found))
    total: dict[str, float] = {}
    for some, _ in gathered:
        _add(total, some)
    everything = [part for _, parts in gathered for part in parts]
    return _summary(join(everything), total, dataset, temperature)


def _read(
    model: Any, numbers: Sequence[int], samples: Sequence[Sample], collate: Collator, at_temperature: Collator | None
) -> Positions:
    """One batch through the student; `numbers` are its records' places in the data set."""
    batch = model_inputs(collate(samples), model.device)
    labels, targets = batch.pop("shift_labels"), batch.pop("targets")
    outputs = model(**batch, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    asked = labels != IGNORE
    tempered = None
    if at_temperature is not None:
        tempered = at_temperature(samples)["targets"].to(model.device)
    columns = compare(
        outputs.hidden_states[-1][asked],
        model.get_output_embeddings(),
        labels[asked],
        targets,
        tempered,
        1.0 if at_temperature is None else at_temperature.temperature,
    )
    by_id = {sample.encoded.record_id: number for number, sample in zip(numbers, samples, strict=True)}
    assert collate.pack_length is not None
    places = np.array(
        [
            (by_id[record_id], response.turn, place)
            for record_id, response, count in labelled(samples, collate.shared, collate.pack_length)
            for place in range(count)
        ],
        dtype=np.int32,
    ).reshape(-1, 3)
    return Positions(*places.T, **columns)


def _summary(
    positions: Positions, counts: Mapping[str, float], dataset: RecordDataset, temperature: float
) -> Divergence:
    there, tokens = positions.has_target, max(len(positions), 1)

    def mean(values: np.ndarray) -> float:
        return float(values[there].mean(dtype=np.float64)) if there.any() else 0.0

    nats = float(positions.cross_entropy.sum(dtype=np.float64))
    return Divergence(
        student_teacher=mean(positions.student_teacher),
        teacher_student=mean(positions.teacher_student),
        student_teacher_at_t=mean(positions.student_teacher_at_t),
        teacher_student_at_t=mean(positions.teacher_student_at_t),
        temperature=temperature,
        top1_agreement=mean(positions.best == positions.teacher_best),
        ce_per_token=nats / tokens,
        bits_per_byte=nats / math.log(2) / max(counts["bytes"], 1),
        anchored=counts["anchored"] / tokens,
        interior=counts["interior"] / tokens,
        none=counts["none"] / tokens,
        tokens=len(positions),
        records=len(dataset),
        calibration_error=calibration_error(positions.best_probability, positions.best == positions.label),
        by_place=by_place(positions),
        most_different=most_different(positions, dataset.records, dataset.processor.tokenizer),
    )


def _count(samples: Sequence[Sample], teacher: TeacherTargets) -> dict[str, float]:
    """Tokens by kind, and the bytes of text they stand for (of a row that was cut: the bytes that were left)."""
    counts: dict[str, float] = defaultdict(float)
    said = teacher([sample.record for sample in samples], [sample.encoded for sample in samples])
    for sample, answers in zip(samples, said, strict=True):
        for response, targets in zip(sample.encoded.responses, answers, strict=True):
            kept = response.kept(len(sample.encoded.input_ids))
            counts["bytes"] += len(response.text.encode("utf-8")) * kept / len(response.ids)
            for name, kind in (("anchored", ANCHORED), ("interior", INTERIOR), ("none", NONE)):
                counts[name] += int((targets.kinds == kind).sum())
    return dict(counts)


def _add(counts: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        counts[name] = counts.get(name, 0) + value
