"""The training loop: transformers' Trainer with our loss, our measurements and our checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from embervlm.batch.sampler import ImageMajorSampler, RankBatches
from embervlm.distill.loss import LossOptions
from embervlm.errors import UserError
from embervlm.train import checkpoint as files
from embervlm.train.interrupt import begin_worker
from embervlm.train.keep import LOSS, Rotation, is_best, settle_best
from embervlm.train.meter import Meter, WaitClock
from embervlm.train.schedules import capped_warmup


@dataclass(frozen=True)
class Plan:
    """What one stage asks of the loop, besides `TrainingArguments`."""

    stage: int
    loss_at: Callable[[int, int], LossOptions]  # (step, all steps) -> weights of the losses
    learning_rates: dict[str, float]  # part of the model -> peak; parts that are missing are frozen
    evaluate: Callable[[Any, int], dict[str, float]]  # (model, step) -> metrics, asked on the first process
    describe: dict[str, Any]  # goes into training_args.json
    processor: Any
    sampler: ImageMajorSampler
    best_by: str = LOSS  # the metric of `evaluate` that chooses checkpoint-final; where it is missing, the loss does
    teachers: Sequence[str] = ()  # whose divergences are logged one by one

    @property
    def prefix(self) -> str:
        return f"stage{self.stage}/"


class _Begin(TrainerCallback):
    def __init__(self, trainer: EmberTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.settle()

    def on_epoch_begin(self, args, state, control, **kwargs):
        # accelerate tells the sampler too, but not on several processes after a resume: it looks two wrappers deep.
        self.trainer.plan.sampler.set_epoch(int(state.epoch))


class EmberTrainer(Trainer):
    """One forward of the wrapped model gives the loss, so that under DDP the head's gradient arises in it."""

    model: Any

    def __init__(self, plan: Plan, **kwargs: Any) -> None:
        super().__init__(processing_class=plan.processor, **kwargs)
        self.plan = plan
        self.add_callback(_Begin(self))
        self.meter = Meter(self.args.device, plan.teachers)
        self.waits = WaitClock()
        self._aside = 0.0  # seconds spent on evaluation and saving since the last report
        self._reported = time.monotonic()
        self._batches = 0  # of this process since the last report
        self.best_by = plan.best_by  # what really chose
        self._loader: Any = None
        self._resumed: Path | None = None
        self._rotation = Rotation(self._folder, self.args.save_total_limit, None)
        self.seconds = 0.0  # of the whole `train()`, known at its end

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        self._resumed = Path(str(resume_from_checkpoint)) if resume_from_checkpoint else None
        self._rotation = Rotation(self._folder, self.args.save_total_limit, self._resumed)
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            # Persistent workers outlive the last epoch, and would be waited for when the interpreter ends.
            batches: Any = getattr(getattr(self._loader, "base_dataloader", None), "_iterator", None)
            if hasattr(batches, "_shutdown_workers"):
                batches._shutdown_workers()

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    # ---- loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        options = self.plan.loss_at(self.state.global_step, self.state.max_steps)
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        loss, outputs = super().compute_loss(
            model, {**inputs, "loss_options": options, "use_cache": False}, True, num_items_in_batch
        )
        if not torch.isfinite(loss):
            raise UserError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1} "
                f"(learning rate {self._get_learning_rate():.2g}). Nothing was saved after the last checkpoint; resume "
                "from it with a lower --learning_rate or a lower --gradient_clip, or without --fp16."
            )
        self._batches += 1
        tokens = (inputs["input_ids"] != self.plan.processor.tokenizer.pad_token_id).sum()
        self.meter.add(outputs.parts, tokens, options)
        return (loss, outputs) if return_outputs else loss

    # ---- data

    def get_train_dataloader(self):
        """Our own batches: accelerate's shards would read the first samples twice where the counts do not divide."""
        batches = RankBatches(
            self.plan.sampler, self.args.train_batch_size, self.args.process_index, self.args.world_size
        )
        workers = self.args.dataloader_num_workers
        data: Any = self.train_dataset
        loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            worker_init_fn=partial(begin_worker, num_workers=workers, rank=self.args.process_index),
        )
        self._loader = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return self._loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        return super().get_batch_samples(self.waits.timed(epoch_iterator), num_batches, device)

    # ---- optimizer

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            options.pop("lr")
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = []
            for part, rate in self.plan.learning_rates.items():
                mine = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad and n.split(".")[0] == part]
                for decay in (True, False):
                    parameters = [p for n, p in mine if (n in decayed) is decay]
                    if parameters:
                        weight_decay = self.args.weight_decay if decay else 0.0
                        groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Moments and position come from the checkpoint, learning rates and weight decay from the settings of today."""
        if checkpoint is None:
            return
        optimizer: Any = self.optimizer
        today = [(group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups]
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise UserError(
                f"The optimizer of {checkpoint} was made for other trained parts ({error}): continue it with the "
                "--unfreeze_vision that it was trained with."
            ) from None
        scheduler: Any = self.lr_scheduler
        scheduler.base_lrs = [rate for rate, _ in today]
        scheduler._last_lr = [
            rate * shape(scheduler.last_epoch) for (rate, _), shape in zip(today, scheduler.lr_lambdas, strict=True)
        ]
        for group, (rate, decay), now in zip(optimizer.param_groups, today, scheduler._last_lr, strict=True):
            group.update(initial_lr=rate, lr=now, weight_decay=decay)

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.args.warmup_steps = capped_warmup(int(self.args.warmup_steps), num_training_steps)
        self.plan.describe["warmup_steps"] = self.args.warmup_steps  # what was done, beside what was asked for
        return super().create_scheduler(num_training_steps, optimizer)

    # ---- reports

    def log(self, logs, start_time=None):
        """Names become stage1/..., stage2/...; the Trainer's own summary at the end is not repeated."""
        if "loss" in logs:
            sums = self.meter.drain(lambda sums: self.accelerator.reduce(sums, "sum"), self._temperature())
            now = time.monotonic()
            seconds = max(now - self._reported - self._aside, 1e-9)
            self._reported, self._aside = now, 0.0
            tokens = sums.pop("tokens")
            samples = self._batches * self.args.train_batch_size * self.args.world_size
            self._batches = 0
            if self._options().alpha == 0:
                sums = {name: sums[name] for name in ("total_loss", "sft_loss", "token_accuracy")}
            logs = {
                **sums,
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm", 0.0),
                "samples_per_second": samples / seconds,
                "tokens_per_second": tokens / seconds,
                "data_wait_share": self.waits.drain(seconds),
            }
        elif "train_runtime" in logs:
            self.seconds = logs["train_runtime"]
            return
        super().log({self.plan.prefix + name: value for name, value in logs.items()}, start_time)

    def _options(self) -> LossOptions:
        return self.plan.loss_at(max(0, self.state.global_step - 1), self.state.max_steps)

    def _temperature(self) -> float:
        return self._options().temperature

    # ---- evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Measures on the first process; keeps the best weights so far as checkpoint-final."""
        began = time.monotonic()
        measured: list[dict[str, float]] = [{}]
        if self.is_world_process_zero():
            self.model.eval()
            with torch.random.fork_rng(), torch.no_grad():  # training goes on as if nobody had looked
                measured = [self.plan.evaluate(self.model, self.state.global_step)]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(measured, src=0, device=self.args.device)
        (metrics,) = measured
        self.log(dict(metrics))
        self.best_by = self.plan.best_by if self.plan.best_by in metrics else LOSS
        if is_best(self.state.log_history, self.plan.prefix, self.best_by, self.state.best_global_step):
            self.state.best_metric, self.state.best_global_step = metrics[self.best_by], self.state.global_step
            self.save_checkpoint(files.FINAL)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._aside += time.monotonic() - began
        return metrics

    def settle(self) -> None:
        """checkpoint-final of a run that goes on is the best step so far by the metric of today."""
        if self._resumed is None:
            return
        history, prefix = self.state.log_history, self.plan.prefix
        measured = any(prefix + self.plan.best_by in entry for entry in history)
        self.best_by = self.plan.best_by if measured else LOSS
        best: list[int | None] = [None]
        if self.is_world_process_zero():
            best = [settle_best(self._folder, self._resumed, history, prefix, self.best_by)]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(best, src=0, device=self.args.device)
        (self.state.best_global_step,) = best

    # ---- checkpoints

    def _save_checkpoint(self, model, trial):
        began = time.monotonic()
        self.save_checkpoint(f"checkpoint-{self.state.global_step}")
        if self.args.should_save:
            self._rotation.written(self.state.global_step)
        self._aside += time.monotonic() - began

    def save_checkpoint(self, name: str) -> Path:
        """Write a whole checkpoint or none. Every process takes part: each has its own random state."""
        target = self._folder / name
        partial = files.partial_of(target)
        if not all(torch.isfinite(p).all() for p in self.model.parameters()):
            raise UserError(
                f"Weights became infinite or NaN before step {self.state.global_step}; {name} was not written. "
                "Resume from the last checkpoint with a lower --learning_rate."
            )
        try:
            if self.args.should_save:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._save_rng_state(str(partial))
            self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            if self.args.should_save:
                files.save_model(self.model, self.plan.processor, partial, safetensors=name == files.FINAL)
                files.write_json(partial / files.TRAINING_ARGS, self.plan.describe)
                self.state.save_to_json(str(partial / files.STATE))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                files.publish(target)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's writer
                raise
            raise files.not_written(target, error, "earlier checkpoints are whole") from error
        finally:
            if self.args.should_save:
                shutil.rmtree(partial, ignore_errors=True)
        return target
