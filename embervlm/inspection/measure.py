"""What the verification finds out: numbers only, no judgement and no printing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.encode import IGNORE
from embervlm.batch.targets import TeacherTargets
from embervlm.batch.teaching import Teaching
from embervlm.distill.loss import LossOptions
from embervlm.distill.targets import Targets
from embervlm.evaluate.divergence import Divergence, measure_divergence
from embervlm.inspection.view import Shares, count_kinds
from embervlm.teachers.facts import TeacherFacts, teacher_facts
from embervlm.teachers.gate import Surprise
from embervlm.teachers.outputs import TeacherOutputs

COMPARED_POSITIONS = 64
"""So many are compared with the teacher's whole distribution, which takes a megabyte each with large vocabularies."""


@dataclass(frozen=True)
class TargetFacts:
    """Over the positions that have a target, at temperature T."""

    shares: Shares
    events: float  # mean number of events
    rest: float  # mean mass of "everything else"
    label_mass: float  # mean probability that the teacher gives the label
    worst_sum: float  # largest |1 - sum of a row|


@dataclass(frozen=True)
class StepFacts:
    """One backward pass of the student on a few samples."""

    loss: float
    gradients: dict[str, float]  # norm in each part of the model that is trained


@dataclass(frozen=True)
class GradientFacts:
    """The kept part of the teacher's distributions against the whole."""

    samples: int
    positions: int  # with a target
    cosine: float  # of the two gradients of the distillation loss, all trained weights together


def measure_targets(data: RecordDataset, teaching: Teaching, temperature: float, batch_size: int = 16) -> TargetFacts:
    collate = Collator(data.processor, teaching.targets, temperature)
    parts: list[Targets] = []
    labels: list[torch.Tensor] = []
    kinds = []
    for start in range(0, len(data), batch_size):
        samples = [data[at] for at in range(start, min(start + batch_size, len(data)))]
        batch = collate(samples)
        parts.append(batch["targets"])
        labels.append(batch["shift_labels"][batch["shift_labels"] != -100])
        told = teaching.targets([s.record for s in samples], [s.encoded for s in samples])
        kinds += [answer for answers in told for answer in answers]
    counted = [
        torch.stack(
            [
                (part.ids >= 0).sum(1).float(),
                part.rest,
                torch.where(part.ids == label[:, None], part.probs, 0.0).sum(1),
                (1 - part.probs.sum(1) - part.rest).abs(),
            ]
        )[:, part.has_target]
        for part, label in zip(parts, labels, strict=True)
    ]
    rows = torch.cat(counted, 1)
    if not rows.shape[1]:
        return TargetFacts(count_kinds(kinds), 0.0, 0.0, 0.0, 0.0)
    events, rest, label_mass, _ = rows.mean(1).tolist()
    return TargetFacts(count_kinds(kinds), events, rest, label_mass, float(rows[3].max()))


def measure_teacher(
    data: RecordDataset, teaching: Teaching, temperature: float, fewest: int, batch_size: int = 16
) -> tuple[TeacherFacts, dict[str, Surprise]]:
    """The teacher on the answers of the data, and its surprise on each source with so many records or more."""
    said: dict[str, list[list[TeacherOutputs]]] = {}
    for start in range(0, len(data), batch_size):
        part = data.records[start : start + batch_size]
        for record, turns in zip(part, teaching.outputs(part), strict=True):
            said.setdefault(record.source, []).append(list(turns))
    facts = teacher_facts((one for answers in said.values() for turns in answers for one in turns), temperature)
    judged = {name: answers for name, answers in sorted(said.items()) if len(answers) >= fewest}
    return facts, {name: Surprise.of([one for turns in answers for one in turns]) for name, answers in judged.items()}


def measure_gradient(
    model: Any, data: RecordDataset, kept: TeacherTargets, whole: TeacherTargets, temperature: float
) -> GradientFacts:
    """How alike the distillation's gradients of all trained weights are: towards what is kept, and towards everything.

    Args:
        kept, whole: one teacher with few words a position, and with its whole vocabulary.
    """
    samples = []
    for index in range(len(data)):
        samples.append(data[index])
        if sum(int((s.encoded.shift_labels != IGNORE).sum()) for s in samples) >= COMPARED_POSITIONS:
            break
    options = LossOptions(alpha=1.0, sft_weight=0.0, temperature=temperature)
    was_training = model.training
    model.eval()
    gradients, positions = [], 0
    for targets in (kept, whole):
        batch = Collator(model.processor, targets, temperature)(samples)
        parts = model(**model_inputs(batch, model.device), loss_options=options, use_cache=False).parts
        parts.total.backward()
        grads = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
        positions = int(parts.n_targets)
        model.zero_grad()
    model.train(was_training)
    return GradientFacts(len(samples), positions, float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)))


def measure_step(model: Any, data: RecordDataset, teaching: Teaching, options: LossOptions, samples: int) -> StepFacts:
    """Loss and gradients as the first training step has them; the model is left without gradients."""
    collate = Collator(model.processor, teaching.targets, options.temperature)
    batch = collate([data[at] for at in range(min(samples, len(data)))])
    inputs = model_inputs(batch, model.device)
    was_training = model.training
    model.eval()
    loss = model(**inputs, loss_options=options, use_cache=False).loss
    loss.backward()
    norms = {}
    for name, part in model.named_children():
        trained = [p for p in part.parameters() if p.requires_grad]
        if trained:
            squares = sum(float(p.grad.double().square().sum()) for p in trained if p.grad is not None)
            norms[name.replace("_", " ")] = math.sqrt(squares)
    model.zero_grad()
    model.train(was_training)
    return StepFacts(loss.item(), norms)


def measure_student(
    model: Any, records: Sequence[Any], data: RecordDataset, teaching: Teaching, temperature: float
) -> Divergence:
    return measure_divergence(
        model,
        records,
        data.image_root,
        teaching.targets,
        temperature=temperature,
        max_length=data.max_length,
    )
