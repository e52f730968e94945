"""What is measured during training, on a fixed part of val."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.markup import escape

from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.features import FrozenFeatures
from embervlm.batch.targets import TeacherTargets
from embervlm.console import console
from embervlm.data.official import image_key
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record
from embervlm.evaluate.divergence import measure_divergence
from embervlm.evaluate.runner import choose_subset, evaluate_subset
from embervlm.settings import TrainSettings


def validation_loss(model: Any, dataset: RecordDataset, batch_size: int) -> float:
    """Mean cross-entropy per labelled position, nats."""
    collate = Collator(dataset.processor, pack_length=dataset.max_length)
    # By picture, so that each is looked at once.
    order = sorted(range(len(dataset)), key=lambda at: image_key(dataset.records[at].image or ""))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = collate([dataset[at] for at in order[start : start + batch_size]])
            parts = model(**model_inputs(batch, model.device), use_cache=False).parts
            total += float(parts.ce_sum)
            count += int(parts.n_labels)
    return total / max(count, 1)


def fixed_part(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """The same records in every evaluation of a run, and in every run with this seed."""
    if len(records) <= count:
        return list(records)
    chosen = np.random.default_rng(seed).choice(len(records), count, replace=False)
    return [records[at] for at in sorted(chosen)]


def evaluated(settings: TrainSettings, prepared: PreparedSet) -> list[Record]:
    """The part of val that every evaluation of this run reads."""
    return fixed_part(prepared.records("val"), settings.eval_samples, settings.seed)


def build_evaluation(
    settings: TrainSettings,
    prepared: PreparedSet,
    processor: Any,
    teacher: TeacherTargets | None,
    features: FrozenFeatures | None = None,
) -> Callable[[Any, int], dict[str, float]]:
    """(model, step) -> metrics.

    eval_loss: cross-entropy on val, nats per token. teacher_kl_div: KL(student || teacher) on the same text at T = 1,
    where a teacher speaks about val. vqa_accuracy and instruct_score (Stage 2): from generated answers.
    """
    (stage,) = settings.stages
    records = evaluated(settings, prepared)
    image_root = settings.image_root or prepared.image_root
    size = settings.batch_size
    sampling = {"do_sample": True, "top_p": settings.top_p} if settings.do_sample else {}
    asked: dict[str, list[Record]] | None = None
    dataset = None if teacher else RecordDataset(records, image_root, processor, settings.max_length, features=features)

    def measure(model: Any, step: int) -> dict[str, float]:
        nonlocal asked
        if dataset is None:
            assert teacher is not None
            found = measure_divergence(
                model, records, image_root, teacher, batch_size=size, max_length=settings.max_length, features=features
            )
            metrics = {"eval_loss": found.ce_per_token, "teacher_kl_div": found.student_teacher}
        else:
            metrics = {"eval_loss": validation_loss(model, dataset, size)}
        if stage == 2:
            if asked is None:
                # Half of the samples to each of the two kinds of questions.
                asked, unread = choose_subset(model, prepared, "val", max(1, settings.eval_samples // 2), settings.seed)
                _tell(unread)
            metrics |= evaluate_subset(model, prepared, asked, size, settings.seed, sampling)
        return metrics

    return measure


def _tell(unread: Sequence[str]) -> None:
    if unread:
        first = ", ".join(unread[:3]) + (", ..." if len(unread) > 3 else "")
        console.print(
            f"[yellow]note[/] Evaluations leave out {len(unread)} questions of val that are longer than the model "
            f"reads: {escape(first)}.",
            soft_wrap=True,
        )
