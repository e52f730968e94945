"""How far the student is from the teacher, on the text of the references: KL both ways, agreement, cross-entropy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.dataset import RecordDataset, Sample
from embervlm.batch.encode import IGNORE
from embervlm.data.official import image_key
from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.distill.targets import ANCHORED, INTERIOR, NONE

if TYPE_CHECKING:
    from embervlm.batch.features import FrozenFeatures
    from embervlm.batch.targets import TeacherTargets
    from embervlm.data.record import Record
    from embervlm.distill.targets import Targets


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
) -> Divergence:
    """Teacher-force the references through the student and compare with what the teacher said of them.

    Args:
        model: an EmberVLM with its `processor`.
        teacher: projected targets of every record (from a cache or a live teacher).
        temperature: a second temperature beside 1, usually the one of training.
        features: of the model's frozen blocks, in place of the pictures.
        advance: called with the number of records done, for a progress bar.
    """
    dataset = RecordDataset(records, image_root, model.processor, max_length, features=features)
    # By picture, so that its questions share a row and the picture is read once.
    order = sorted(range(len(dataset)), key=lambda at: image_key(dataset.records[at].image or ""))
    collate = Collator(model.processor, teacher, 1.0, max_length)
    at_temperature = Collator(model.processor, teacher, temperature, max_length)
    head = model.get_output_embeddings()
    sums: dict[str, float] = defaultdict(float)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            samples = [dataset[at] for at in order[start : start + batch_size]]
            _count(samples, teacher, sums)
            batch = model_inputs(collate(samples), model.device)
            outputs = model(**batch, loss_options=_options(1.0), use_cache=False, output_hidden_states=True)
            _add_parts(sums, outputs.parts, "")
            labelled = batch["shift_labels"] != IGNORE
            hidden = outputs.hidden_states[-1][labelled]  # [N, D]
            sums["agree"] += _agreement(_preferred(hidden, head), batch["targets"])
            if temperature != 1.0:
                again = at_temperature(samples)["targets"].to(model.device)
                labels = batch["shift_labels"][labelled]
                parts = chunked_loss(hidden, head.weight, head.bias, labels, again, _options(temperature))
                _add_parts(sums, parts, "_at_t")
            advance(len(samples))
    model.train(was_training)
    targets, tokens = max(sums["targets"], 1), max(sums["tokens"], 1)
    suffix = "" if temperature == 1.0 else "_at_t"
    return Divergence(
        student_teacher=sums["reverse"] / targets,
        teacher_student=sums["forward"] / targets,
        student_teacher_at_t=sums["reverse" + suffix] / targets,
        teacher_student_at_t=sums["forward" + suffix] / targets,
        temperature=temperature,
        top1_agreement=sums["agree"] / targets,
        ce_per_token=sums["ce"] / tokens,
        bits_per_byte=sums["ce"] / math.log(2) / max(sums["bytes"], 1),
        anchored=sums["anchored"] / tokens,
        interior=sums["interior"] / tokens,
        none=sums["none"] / tokens,
        tokens=int(sums["tokens"]),
        records=len(dataset),
    )


def _options(temperature: float) -> LossOptions:
    return LossOptions(alpha=1.0, sft_weight=1.0, temperature=temperature)


def _preferred(hidden: Tensor, head: torch.nn.Linear) -> Tensor:
    """The student's most probable token at each position, [N], without [N, vocabulary] in memory."""
    return torch.cat([head(part).argmax(-1) for part in hidden.split(1024)])


def _add_parts(sums: dict[str, float], parts: Any, suffix: str) -> None:
    sums["forward" + suffix] += float(parts.kd_sum)
    sums["reverse" + suffix] += float(parts.reverse_kd_sum)
    if not suffix:
        sums["ce"] += float(parts.ce_sum)
        sums["targets"] += int(parts.n_targets)


def _count(samples: Sequence[Sample], teacher: TeacherTargets, sums: dict[str, float]) -> None:
    """Tokens by kind, and the bytes of text they stand for (of a row that was cut: the bytes that were left)."""
    said = teacher([sample.record for sample in samples], [sample.encoded for sample in samples])
    for sample, answers in zip(samples, said, strict=True):
        for response, targets in zip(sample.encoded.responses, answers, strict=True):
            kept = response.kept(len(sample.encoded.input_ids))
            sums["tokens"] += kept
            sums["bytes"] += len(response.text.encode("utf-8")) * kept / len(response.ids)
            for name, kind in (("anchored", ANCHORED), ("interior", INTERIOR), ("none", NONE)):
                sums[name] += int((targets.kinds == kind).sum())


def _agreement(preferred: Tensor, targets: Targets) -> int:
    """How many targeted positions have the student's best token as the teacher's best event."""
    best = targets.ids.gather(1, targets.probs.argmax(1, keepdim=True)).squeeze(1)
    return int(((best == preferred) & targets.has_target).sum())
