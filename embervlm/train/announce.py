"""What a person reads before the first step and after the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from embervlm.batch.dataset import RecordDataset
from embervlm.data.official import image_key
from embervlm.inspection.view import count_kinds, render_example, shows_much, view_example
from embervlm.lesson import Lesson, told_without
from embervlm.model.parameters import format_table, param_table
from embervlm.settings import TrainSettings
from embervlm.train.build import Data
from embervlm.train.checkpoint import FINAL
from embervlm.train.progress import told
from embervlm.train.start import Start, earlier_run
from embervlm.train.tracking import MetricsFile, numbers

MUCH_WAITING = 0.03

LOOKED_AT = 64
"""Records whose shares of targets are counted before the first step."""


def announce(
    console: Console,
    settings: TrainSettings,
    start: Start,
    data: Data,
    train_set: RecordDataset,
    model: Any,
    lesson: Lesson | None,
    steps: int,
    notes: Sequence[str],
) -> None:
    """Parameters, data, teacher, and one example as both models read it."""
    if console.quiet:
        return
    (stage,) = settings.stages
    console.rule(f"Stage {stage}: {settings.stage_name.replace('_', ' ')}")
    console.print(format_table(param_table(model)))
    console.print(_data_table(data))
    console.print(start.note, soft_wrap=True, markup=False)
    console.print(lesson.note if lesson is not None else told_without(stage), soft_wrap=True, markup=False)
    told_more = list(notes)
    if train_set.without_labels:
        first = ", ".join(train_set.without_labels[:3])
        told_more.append(
            f"{len(train_set.without_labels)} records are left out: no answer begins within max_length "
            f"{settings.max_length} ({first}{', ...' if len(train_set.without_labels) > 3 else ''})."
        )
    warmup = min(settings.warmup_steps, steps // 10)
    if warmup < settings.warmup_steps:
        told_more.append(f"Warm-up: {warmup} steps instead of {settings.warmup_steps}, a tenth of all {steps}.")
    if not start.resume and (note := earlier_run(settings.output_dir / f"stage{stage}")):
        told_more.append(note)
    for note in told_more:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    console.print(show_example(train_set, lesson))
    console.print(f"{steps:,} steps of {settings.batch_size} samples a device.")


def show_example(train_set: RecordDataset, lesson: Lesson | None) -> Panel:
    """One record of a few words and one turn, if there is any, and the shares of targets over the first records."""
    looked = [train_set[at] for at in range(min(LOOKED_AT, len(train_set)))]
    best = max(looked, key=lambda sample: shows_much(sample.encoded))
    outputs = targets = shares = None
    if lesson is not None:
        records = [sample.record for sample in looked]
        all_targets = lesson.targets(records, [sample.encoded for sample in looked])
        outputs = lesson.outputs([best.record])[0] or None  # the first of several may say nothing about it
        targets = outputs and all_targets[looked.index(best)]
        counted = count_kinds([answer for answers in all_targets for answer in answers])
        shares = f"\nfirst {len(looked)} records: {counted}"
    view = view_example(best.encoded, train_set.processor.tokenizer, outputs, targets)
    return Panel(Group(render_example(view), shares or ""), title=Text(f"record {view.record_id}"), title_align="left")


def _data_table(data: Data) -> Table:
    table = Table("data", title=str(data.prepared.folder))
    for heading in ("records", "pictures", "sources"):
        table.add_column(heading, justify="left" if heading == "sources" else "right")
    for split in ("train", "val"):
        records = data.prepared.records(split)
        sources = Counter(record.source for record in records)
        pictures = len({image_key(record.image) for record in records if record.image is not None})
        said = ", ".join(f"{name} {count:,}" for name, count in sources.most_common())
        table.add_row(split, f"{len(records):,}", f"{pictures:,}", said)
    return table


BEST_BY = {"vqa_accuracy": "VQA accuracy", "instruct_score": "instruction score", "eval_loss": "the loss on val"}


def summarise(console: Console, trainer: Any, metrics: MetricsFile, folder: Path) -> None:
    """The end of a stage: best step, its numbers, where the checkpoint is, how long it took. Also into metrics.json."""
    state, prefix = trainer.state, trainer.plan.prefix
    best = state.best_global_step
    at_best: dict[str, float] = {}
    for entry in state.log_history:
        if entry["step"] == best:
            at_best.update({name.removeprefix(prefix): value for name, value in numbers(entry).items()})
    metrics.summary = {
        "best_step": best,
        "best_by": trainer.best_by,
        "steps": state.global_step,
        "seconds": trainer.seconds,
        "data_wait_share": trainer.waits.overall,
        "checkpoint": FINAL,
        "metrics": {prefix + name: value for name, value in at_best.items()},
    }
    metrics.write(state)
    minutes, seconds = divmod(round(trainer.seconds), 60)
    waited = f"Waiting for data took {trainer.waits.overall:.1%} of the time."
    if trainer.waits.overall > MUCH_WAITING:
        waited += " More --dataloader_workers may help."
    console.print(
        Panel(
            f"{state.global_step:,} steps in {minutes}:{seconds:02d}. "
            f"Best at step {best:,} by {BEST_BY[trainer.best_by]}: {told(at_best)}\n{waited}\n"
            f"checkpoint  {folder / FINAL}\nmetrics     {metrics.path}",
            title=f"Stage {trainer.plan.stage} done",
            title_align="left",
        )
    )
