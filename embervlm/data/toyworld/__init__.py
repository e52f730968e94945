"""The embedded world: pictures of shapes, with questions, conversations and captions in the official file formats."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from embervlm.data.toyworld.files import write_toy

if TYPE_CHECKING:
    from embervlm.settings import ToySettings

__all__ = ["prepare_words", "run_toy", "write_toy"]


def run_toy(settings: ToySettings) -> None:
    """`embervlm toy`: draws the world below `settings.out`, says what was written, and how to prepare it."""
    console = Console(highlight=False)
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=settings.train_images + settings.val_images)
        counts = write_toy(
            settings.out,
            settings.train_images,
            settings.val_images,
            settings.seed,
            lambda: progress.advance(bar),
            settings.annotated,
        )
    table = Table(
        "", *counts, title=f"The embedded world in {settings.out}, in the official file formats", title_justify="left"
    )
    for name in counts["train"]:
        table.add_row(name, *(f"{split[name]:,}" for split in counts.values()))
    console.print(table)
    words = prepare_words(settings.out) + (["--unlabelled", "keep"] if settings.annotated < 1 else [])
    flags = [at for at, word in enumerate(words) if word.startswith("--")]
    lines = [shlex.join(words[start:stop]) for start, stop in zip(flags, [*flags[1:], len(words)], strict=True)]
    console.print("Prepared with its questions bare, as the embedded teacher toy-llava knows them:\n")
    console.print(" \\\n  ".join(["embervlm prepare", *lines]), markup=False, soft_wrap=True)


def prepare_words(toy: Path) -> list[str]:
    """The flags of `embervlm prepare` that fit what `embervlm toy` wrote to `toy`: all of its files, every question,
    worded as the embedded teacher was trained on it."""
    words = ["--image_root", f"{toy}/images", "--vqa_samples", "0", "--vqa_prompt", "{question}"]
    for split, flag in (("train", "--"), ("val", "--val_")):
        words += [f"{flag}captions", f"{toy}/captions_{split}.json"]
        words += [f"{flag}llava", f"{toy}/llava_instruct_{split}.json"]
        for name, prefix in (("vqa", "v2_"), ("okvqa", "")):
            words += [f"{flag}{name}", f"{toy}/{prefix}OpenEnded_mscoco_{split}2014_questions.json"]
            words += [f"{flag}{name}_annotations", f"{toy}/{prefix}mscoco_{split}2014_annotations.json"]
    return words
