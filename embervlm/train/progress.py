"""What a person sees while it trains: a bar with ETA, speed, both losses, KL and accuracy; lines where there is no
terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

SHOWN = {
    "sft_loss": ("sft", "{:.3f}"),
    "distill_loss": ("distill", "{:.3f}"),
    "total_loss": ("total", "{:.3f}"),
    "teacher_kl_div": ("KL", "{:.3f}"),
    "eval_loss": ("val loss", "{:.3f}"),
    "vqa_accuracy": ("VQA", "{:.1%}"),
    "instruct_score": ("instruct", "{:.2f}"),
    "learning_rate": ("lr", "{:.1e}"),
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "tokens_per_second": ("tok/s", "{:,.0f}"),
    "data_wait_share": ("wait", "{:.1%}"),
}
ON_THE_BAR = ("sft_loss", "distill_loss", "teacher_kl_div", "vqa_accuracy", "tokens_per_second")


def told(values: dict[str, float], names: Any = SHOWN) -> str:
    """`sft 1.234  distill 0.567 ...` of those that are there."""
    parts = [f"{SHOWN[name][0]} {SHOWN[name][1].format(values[name])}" for name in names if name in values]
    return "  ".join(parts)


class ProgressBar(TrainerCallback):
    """One bar on a terminal; elsewhere one line per report."""

    def __init__(self, console: Console, stage: int) -> None:
        self.console = console
        self.stage = stage
        self._values: dict[str, float] = {}
        self._bar: Progress | None = None
        self._task: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("[bold]stage {task.fields[stage]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
        )
        self._task = self._bar.add_task(
            "train", total=state.max_steps, completed=state.global_step, stage=self.stage, numbers=""
        )
        self._bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        prefix = f"stage{self.stage}/"
        new = {name.removeprefix(prefix): value for name, value in logs.items() if name.startswith(prefix)}
        self._values.update(new)
        if self._bar is not None:
            self._bar.update(self._task, numbers=told(self._values, ON_THE_BAR))
        if self._bar is None or "sft_loss" not in new:  # an evaluation is worth a line that stays
            self.console.print(f"step {state.global_step}/{state.max_steps}  {told(new)}")

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Also after an error: a live bar would swallow its message."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
