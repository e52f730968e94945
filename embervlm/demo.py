"""`embervlm demo`: the whole story on the embedded world, with the commands a person would type for real data.

Draw, prepare, align (Stage 1), let the teacher answer what nobody answered and say how likely it finds every token,
distil (Stage 2), the same without a teacher, evaluate, report.
Each phase is one public command and leaves its files; a demo that was stopped goes on with the first phase not done.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from embervlm.answering.run import run_answer
from embervlm.console import console
from embervlm.data import toyworld
from embervlm.data.prepare import run_prepare
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import run_toy
from embervlm.errors import UserError
from embervlm.evaluate.command import run_evaluate
from embervlm.evaluate.pages.report import run_report
from embervlm.options import parse
from embervlm.settings import (
    AnswerSettings,
    CacheSettings,
    DemoSettings,
    EvaluateSettings,
    ReportSettings,
    ToySettings,
    TrainSettings,
)
from embervlm.teachers.cache import run_cache
from embervlm.train.run import run_train

TEACHER = "toy-llava"


@dataclass(frozen=True)
class Size:
    """How much of everything; chosen so that the demo ends in minutes on two cores."""

    train_images: int
    val_images: int
    stage1_steps: int
    stage2_steps: int
    annotated: float
    """Share of train's pictures whose questions people answered; with few, a teacher pays: docs/does-it-pay.md."""


FULL = Size(train_images=1500, val_images=250, stage1_steps=480, stage2_steps=800, annotated=0.05)
QUICK = Size(train_images=60, val_images=12, stage1_steps=4, stage2_steps=4, annotated=0.2)
STAGE1 = "--batch_size 32 --learning_rate 3e-3"
STAGE2 = "--batch_size 64 --learning_rate 2e-3 --unfreeze_vision 0"
TAUGHT = "--distillation_alpha 0.9 --sft_weight 0.1 --distillation_temperature 1"
"""configs/recommended.yaml, which an installed package does not have beside it."""
LLAVA_SAMPLES = 300
"""Long texts have most of the tokens; with all of them the short answers would hardly be heard in so few steps."""


@dataclass(frozen=True)
class Phase:
    """One step of the story: a sentence, the command that does it, and the same as a call."""

    title: str
    words: list[str]  # verb and flags
    run: Callable[[], Any]

    @property
    def command(self) -> str:
        return shlex.join(["embervlm", *self.words])


def run_demo(settings: DemoSettings) -> int:
    """Runs what is not done yet; returns 0, or the exit code of a phase that was stopped."""
    began = time.monotonic()
    done = _Done(settings)
    phases = plan(settings)
    fresh = False
    for number, phase in enumerate(phases, start=1):
        console.rule(f"[bold]{number}/{len(phases)}  {escape(phase.title)}")
        console.print(f"[dim]$ {escape(phase.command)}[/dim]", soft_wrap=True)
        if done.has(phase) and not fresh:
            console.print("done before")
            continue
        if not fresh:  # what comes after it reads what it writes
            fresh = True
            done.keep(phases[: number - 1])
        start = time.monotonic()
        code = phase.run()
        if isinstance(code, int) and code:
            return code
        done.add(phase, time.monotonic() - start)
    report = settings.out / "report.html"
    console.rule("[bold]Done")
    minutes = (time.monotonic() - began) / 60
    console.print(f"{minutes:.1f} minutes. Open the report: [bold]{report.resolve()}[/bold]", soft_wrap=True)
    ask = [_program(), "infer", "--checkpoint", f"{settings.out}/outputs/stage2/checkpoint-final"]
    ask += ["--image", str(_a_picture(settings.out)), "--prompt", "How many shapes are there?"]
    console.print(f"Ask the student: {shlex.join(ask)}", soft_wrap=True)
    return 0


def plan(settings: DemoSettings) -> list[Phase]:
    """The phases in order."""
    size = QUICK if settings.quick else FULL
    folders = ("toy", "data", "answered", "outputs", "results", "report.html")
    toy, data, answered, outputs, results, report = (shlex.quote(str(settings.out / name)) for name in folders)
    seed = f"--seed {settings.seed}"
    cache = f"{outputs}/stage2/teacher_outputs"
    shared = f"--max_length 256 --dataloader_workers 0 --eval_samples 200 --save_total_limit 2 {seed}"
    first = f"{STAGE1} {_steps(size.stage1_steps)}"
    second = f"--resume_from {outputs}/stage1/checkpoint-final {shared} {STAGE2} {_steps(size.stage2_steps)}"
    second += f" --features_dir {outputs}/features"
    asked = f"--dataset_path {answered}/stage2 --teacher_outputs {cache} --batch_size 64"
    return [
        _phase(
            "Draw the embedded world, in the official files of VQA-v2, OK-VQA and LLaVA",
            f"toy --out {toy} --train_images {size.train_images} --val_images {size.val_images} "
            f"--annotated {size.annotated} {seed}",
        ),
        _phase(
            "Read these files into records, split by picture",
            "prepare " + shlex.join(prepare_words(settings.out / "toy", settings.out / "data")),
        ),
        _phase(
            "Stage 1: align pictures with words",
            f"train --stages 1 --preset tiny --data_dir {data} --output_dir {outputs} {shared} {first}",
        ),
        _phase(
            "Let the teacher answer what nobody answered, and keep what it is sure of",
            f"answer --teacher_model {TEACHER} --dataset_path {data}/stage2 --output_dir {answered} "
            "--ask unlabelled --min_confidence 0.75 --max_new_tokens 16 --batch_size 64",
        ),
        _phase(
            "Let the teacher read every answer once, and keep how likely it finds which token",
            f"cache build --teacher_model {TEACHER} --dataset_path {answered}/stage2 --output_dir {cache} "
            "--batch_size 64",
        ),
        _phase(
            "Stage 2: follow instructions, taught by the teacher",
            f"train --stages 2 --data_dir {answered} {second} --output_dir {outputs} --teacher_model {TEACHER} "
            f"--use_cached_teacher_outputs {cache} {TAUGHT}",
        ),
        _phase(
            "Stage 2 again: as many steps on what people answered, without the teacher",
            f"train --stages 2 --data_dir {data} {second} --output_dir {outputs}/undistilled --disable_distillation",
        ),
        _phase(
            "Evaluate the distilled student, its teacher, and what can be guessed without seeing",
            f"evaluate --checkpoint {outputs}/stage2/checkpoint-final {asked} --output_file {results}/student.json "
            f"--teacher_model {TEACHER}",
        ),
        _phase(
            "Evaluate the student without a teacher",
            f"evaluate --checkpoint {outputs}/undistilled/stage2/checkpoint-final {asked} "
            f"--output_file {results}/undistilled.json --baselines none",
        ),
        _phase("Write the report", f"report --output_dir {shlex.quote(str(settings.out))} --report {report}"),
    ]


_CALLS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "toy": (ToySettings, run_toy),
    "prepare": (PrepareSettings, run_prepare),
    "train": (TrainSettings, run_train),
    "answer": (AnswerSettings, run_answer),
    "cache build": (CacheSettings, run_cache),
    "evaluate": (EvaluateSettings, run_evaluate),
    "report": (ReportSettings, run_report),
}


def _phase(title: str, command: str) -> Phase:
    """A phase that is exactly what the command line would do."""
    verb = next(verb for verb in _CALLS if command.startswith(f"{verb} "))
    settings, run = _CALLS[verb]
    words = shlex.split(command.removeprefix(verb))
    return Phase(title, [*verb.split(), *words], lambda: run(parse(settings, words)))


def prepare_words(toy: Path, data: Path) -> list[str]:
    """`embervlm prepare` on what `embervlm toy` wrote. The questions stay bare: every token costs time here."""
    words = ["--out", str(data), *toyworld.prepare_words(toy), "--unlabelled", "keep"]
    return [*words, "--llava_samples", str(LLAVA_SAMPLES), "--image_tokens", "36"]  # of the tiny student's pictures


def _steps(steps: int) -> str:
    every = -(-steps // 3)  # rounded up, so that the last evaluation is the last step
    return (
        f"--max_steps {steps} --warmup_steps {steps // 20} "
        f"--logging_steps {max(1, steps // 30)} --eval_steps {every} --save_steps {every}"
    )


def _program() -> str:
    """How this person calls us: `make demo` leaves the command in .venv/bin, which is not on the path."""
    return "embervlm" if shutil.which("embervlm") else os.path.relpath(Path(sys.executable).with_name("embervlm"))


def _a_picture(out: Path) -> Path:
    return next(iter(sorted((out / "toy" / "images" / "val2014").glob("*.jpg"))), Path("picture.jpg"))


class _Done:
    """Which phases are behind us, in `demo.json`; a phase with other words is another phase."""

    def __init__(self, settings: DemoSettings) -> None:
        self.path = settings.out / "demo.json"
        self.seconds: dict[str, float] = {}
        if self.path.is_file():
            try:
                self.seconds = dict(json.loads(self.path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{self.path} cannot be read ({error}); delete {settings.out} to start anew") from error

    def has(self, phase: Phase) -> bool:
        return phase.command in self.seconds

    def keep(self, phases: Sequence[Phase]) -> None:
        """Forget all others, those of another version of this demo too."""
        self.seconds = {phase.command: self.seconds[phase.command] for phase in phases}

    def add(self, phase: Phase, seconds: float) -> None:
        self.seconds[phase.command] = round(seconds, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.seconds, indent=1) + "\n", encoding="utf-8")
