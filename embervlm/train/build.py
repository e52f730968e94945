"""The parts of a training run, each from the settings: arguments, data, model, trainer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback, TrainingArguments, set_seed

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.features import FrozenFeatures
from embervlm.batch.memo import PIXEL_BYTES
from embervlm.batch.sampler import ImageMajorSampler, parse_weights
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.distill.loss import LossOptions
from embervlm.errors import UserError
from embervlm.lesson import Lesson
from embervlm.model.modeling import EmberVLM
from embervlm.options import as_dict
from embervlm.settings import TrainSettings
from embervlm.train.features import Pictures, use_frozen_features
from embervlm.train.loop import EmberTrainer, Plan
from embervlm.train.precision import precision_here
from embervlm.train.schedules import alpha_at, loss_weights
from embervlm.train.start import Start
from embervlm.train.validation import build_evaluation, evaluated


def build_arguments(settings: TrainSettings) -> tuple[TrainingArguments, list[str]]:
    """transformers' arguments, and notes for the person. Under torchrun the processes meet here."""
    (stage,) = settings.stages
    if settings.max_steps == 0:
        raise UserError("--max_steps 0 would train nothing; leave it out (or -1) to train for --epochs.")
    has_gpu = torch.cuda.is_available()
    numbers = precision_here(settings.fp16, settings.bf16)
    notes = [numbers.note] if numbers.note else []
    arguments = TrainingArguments(
        output_dir=str(settings.output_dir / f"stage{stage}"),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps if settings.max_steps > 0 else -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,  # capped when the number of steps is known
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_clip,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is no number ends the run
        eval_strategy="steps",
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=settings.save_total_limit,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not has_gpu,
        dataloader_pin_memory=has_gpu,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cache=True,  # else the Trainer would write use_cache: false into config.json
        fp16=numbers.fp16,
        bf16=numbers.bf16,
    )
    if arguments.n_gpu > 1:
        notes.append(
            f"There are {arguments.n_gpu} GPUs, one is used; torchrun --nproc_per_node={arguments.n_gpu} uses all."
        )
        arguments._n_gpu = 1
    return arguments, notes


@dataclass(frozen=True)
class Data:
    """One stage's data; `prepared.image_root` is the one in use."""

    prepared: PreparedSet
    records: list[Any]


def build_data(settings: TrainSettings) -> Data:
    """Opened and read; both splits have records."""
    (stage,) = settings.stages
    prepared = open_prepared(settings.data_dir / f"stage{stage}")
    if settings.image_root is not None:
        prepared = replace(prepared, image_root=settings.image_root)
    if not prepared.image_root.is_dir():
        raise UserError(f"The folder of pictures {prepared.image_root} does not exist; pass --image_root.")
    prepared.records("val")
    return Data(prepared, prepared.records("train"))


def build_model(settings: TrainSettings, start: Start) -> EmberVLM:
    """From the preset or a checkpoint, with the parts that this stage does not train frozen.

    Stage 1 trains the projector and the open vision blocks; the language model too, unless it comes pretrained:
    a new one has nothing yet to align with.
    """
    (stage,) = settings.stages
    set_seed(settings.seed)
    if start.weights is None:
        model = EmberVLM.from_preset(
            settings.preset, vision_weights=settings.vision_weights, language_model=settings.language_model
        )
    else:
        model = EmberVLM.from_pretrained(start.weights.path)
        if model.processor is None:
            raise UserError(f"{start.weights.path} has no processor files; copy the whole checkpoint.")
    if settings.unfreeze_vision is not None:
        model.unfreeze_vision(settings.unfreeze_vision)
    if stage == 1 and settings.language_model is not None:
        model.language_model.requires_grad_(False)
    return model


def fit_length(settings: TrainSettings, model: EmberVLM) -> tuple[TrainSettings, list[str]]:
    """`max_length` cut to what the language model can read, with a note."""
    positions = model.config.text_config.max_position_embeddings
    if settings.max_length <= positions:
        return settings, []
    note = f"max_length {settings.max_length} becomes {positions}: the language model has no more positions."
    return replace(settings, max_length=positions), [note]


def build_train_set(settings: TrainSettings, data: Data, model: EmberVLM) -> RecordDataset:
    """The records that keep a label; on several processes the memory for pixels is shared out."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * max(1, settings.dataloader_workers)
    return RecordDataset(
        data.records, data.prepared.image_root, model.processor, settings.max_length, PIXEL_BYTES // processes
    )


def build_order(settings: TrainSettings, train_set: RecordDataset) -> tuple[ImageMajorSampler, list[str]]:
    """The order of the epochs, with a note where sources are weighted."""
    weights = parse_weights(settings.source_weights, train_set.records)
    order = ImageMajorSampler(train_set.records, settings.seed, settings.pack, weights)
    if weights is None:
        return order, []
    shares = (
        f"{count:,} of {there:,} {source} ({count / len(order):.0%})" for source, (count, there) in order.taken.items()
    )
    return order, [f"An epoch reads {', '.join(shares)}."]


def build_features(
    settings: TrainSettings,
    arguments: TrainingArguments,
    data: Data,
    train_set: RecordDataset,
    samples: int,
    model: EmberVLM,
    steps: int,
    console: Console,
) -> tuple[FrozenFeatures | None, list[str]]:
    """Frozen features of the pictures that train and the evaluations show, if they pay over so many steps.

    Args:
        samples: of an epoch.
    """
    every = settings.batch_size * settings.gradient_accumulation_steps * arguments.world_size
    looks = steps * every / max(samples, 1)  # packed, an epoch shows each picture once
    if not settings.pack:
        shown = [record.image for record in train_set.records if record.image is not None]
        looks *= len(shown) / max(len(set(shown)), 1)
    records = [*train_set.records, *evaluated(settings, data.prepared)]
    pictures = Pictures.of(data.prepared.image_root, records, looks)
    rank, ranks = arguments.process_index, arguments.world_size
    return use_frozen_features(settings, model, pictures, arguments.device, console, rank, ranks)


def loss_schedule(settings: TrainSettings, distilled: bool) -> Any:
    """(step, all steps) -> LossOptions. Without a teacher the loss is the cross-entropy."""
    if not distilled:
        plain = LossOptions(alpha=0.0, sft_weight=1.0, temperature=1.0)
        return lambda step, total: plain

    def at(step: int, total: int) -> LossOptions:
        start = settings.distillation_alpha if settings.alpha_schedule == "constant" else settings.alpha_start
        alpha = alpha_at(step, total, settings.alpha_schedule, start, settings.alpha_end)
        return LossOptions(
            *loss_weights(alpha, settings.sft_weight),
            temperature=settings.distillation_temperature,
            divergence=settings.distillation_loss,
            jsd_beta=settings.jsd_beta,
        )

    for step in (0, 1):  # impossible weights are told before training, not in its first step or its last
        at(step, 2)
    return at


def learning_rates(settings: TrainSettings) -> dict[str, float]:
    """Peak learning rate of each part of the model; the first is the one that is logged."""
    given = {
        "language_model": settings.language_learning_rate,
        "projector": settings.projector_learning_rate,
        "vision": settings.vision_learning_rate,
    }
    return {part: settings.learning_rate if rate is None else rate for part, rate in given.items()}


def all_steps(arguments: TrainingArguments, samples: int) -> int:
    """Optimizer steps of the whole run, as the Trainer counts them."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batches = math.ceil(math.ceil(samples / arguments.per_device_train_batch_size) / arguments.world_size)
    return math.ceil(batches / arguments.gradient_accumulation_steps) * math.ceil(arguments.num_train_epochs)


def build_trainer(
    settings: TrainSettings,
    arguments: TrainingArguments,
    data: Data,
    train_set: RecordDataset,
    order: ImageMajorSampler,
    model: EmberVLM,
    lesson: Lesson | None,
    callbacks: list[Any],
    row_length: int,
    features: FrozenFeatures | None = None,
) -> EmberTrainer:
    """The loop with everything in it; packed rows have at most `row_length` positions."""
    (stage,) = settings.stages
    train_set.features = features
    # A live teacher speaks where the batches are made, and it can only be in this process.
    arguments.dataloader_num_workers = 0 if lesson and lesson.live else settings.dataloader_workers
    arguments.dataloader_persistent_workers = arguments.dataloader_num_workers > 0
    assert model.processor is not None
    about_val = lesson.targets if lesson and lesson.about_val else None
    plan = Plan(
        stage=stage,
        loss_at=loss_schedule(settings, lesson is not None),
        learning_rates=learning_rates(settings),
        evaluate=build_evaluation(settings, data.prepared, model.processor, about_val, features),
        describe={
            "stage": stage,
            "settings": as_dict(settings),
            "processes": arguments.world_size,
            "data": {split: data.prepared.fingerprint(split) for split in ("train", "val")},
            "teacher": ", ".join(lesson.names) if lesson else None,
        },
        processor=model.processor,
        sampler=order,
        best_by=settings.metric_for_best_model,
        teachers=lesson.names if lesson and lesson.others and lesson.trained != "uld" else (),
    )
    collator = Collator(
        model.processor,
        lesson.weighted if lesson else (),
        settings.distillation_temperature,
        row_length if settings.pack else None,
    )
    trainer = EmberTrainer(
        plan,
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_set,
        eval_dataset=data.prepared.records("val"),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
