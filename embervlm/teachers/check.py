"""`embervlm test-teacher`: one picture, one question. Does the teacher load, see, answer, and score what it said?"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table

from embervlm.console import console, print_tokens
from embervlm.data.images import load_image
from embervlm.data.record import Record
from embervlm.data.shows import SHOWS
from embervlm.data.toyworld.draw import draw
from embervlm.data.toyworld.scene import sample_scene
from embervlm.data.toyworld.stories import description
from embervlm.device import peak_memory, pick_device
from embervlm.errors import UserError
from embervlm.settings import CacheSettings
from embervlm.teachers.codec import expected_bytes
from embervlm.teachers.outputs import Teacher, TeacherOutputs, keep_likely
from embervlm.teachers.registry import load_teacher, loading_options
from embervlm.tokens import token_bytes

if TYPE_CHECKING:
    from embervlm.settings import TeacherCheckSettings

SHOWN = 5
TOKENS_A_SAMPLE = 31
"""The guide's data: 23 words a response, 1.3 tokens a word, and the end of the turn."""


@dataclass(frozen=True)
class Heard:
    """What came back from the teacher."""

    answer: str
    seconds: float  # of the answer
    tokens: int  # of the answer, its end included
    outputs: TeacherOutputs  # the answer again, teacher-forced

    @property
    def agreement(self) -> float:
        """Share of the answer's tokens that scoring finds the likeliest, as greedy answering did."""
        return float((self.outputs.top_ids[:, 0] == self.outputs.token_ids).mean())


def run_test_teacher(settings: TeacherCheckSettings) -> int:
    """Load, ask, score, say what was found. Exit code 1: it answers nothing, or scoring and answering disagree."""
    began = time.perf_counter()
    device = pick_device(settings.device)
    teacher = load_teacher(settings.model, device, **loading_options(settings))
    loaded = time.perf_counter() - began
    told = getattr(teacher, "told", "")
    if settings.shows and not told:
        raise UserError(f"{settings.model} sees the picture itself: drop --shows, it would not be read")
    with tempfile.TemporaryDirectory() as folder:
        picture, drawn = _picture(settings.image, Path(folder))
        shows = (settings.shows or drawn) if told else ""
        heard = ask(teacher, picture, settings.prompt, settings.max_new_tokens, CacheSettings.top_k, shows)
    entries = float((keep_likely(heard.outputs, CacheSettings.min_share).top_ids >= 0).sum(1).mean())
    weight = expected_bytes(entries)
    facts = Table.grid(padding=(0, 3, 0, 0))
    facts.add_row("teacher", _what(teacher, settings.model, device))
    if (commit := getattr(teacher, "revision", None)) is not None:
        facts.add_row("commit", commit)
    facts.add_row("loaded in", f"{loaded:.1f} s")
    if told:
        facts.add_row("only reads", f"it is told what the picture shows, by {told}: {shows}", style="yellow")
    facts.add_row("question", escape(settings.prompt))
    facts.add_row("answer", f"[bold]{escape(heard.answer) or '(nothing)'}[/]")
    facts.add_row("speed", f"{heard.tokens / heard.seconds:.1f} tokens/s, the picture included")
    if teacher.model is not None:
        facts.add_row("memory", f"{peak_memory(device) / 1e9:.2f} GB at most")
    facts.add_row("agreement", f"{heard.agreement:.0%} of the answer's tokens are the likeliest when scored")
    facts.add_row(
        "a cache",
        f"of {settings.samples:,} samples of {TOKENS_A_SAMPLE} tokens weighs about "
        f"{weight * settings.samples * TOKENS_A_SAMPLE / 1e9:.2f} GB "
        f"({weight:.0f} bytes a token, {entries:.1f} entries)",
    )
    console.print(facts)
    table = token_bytes(teacher.tokenizer)
    first = zip(heard.outputs.top_ids[0, :SHOWN], np.exp(heard.outputs.top_logprobs[0, :SHOWN]), strict=True)
    print_tokens("how the answer could have begun", [(table[token], float(p)) for token, p in first])
    console.print()
    return _verdict(heard)


def _what(teacher: Teacher, name: str, device: torch.device) -> str:
    if teacher.model is None:
        return escape(f"{teacher.name}, served at {name}")
    parameters = sum(parameter.numel() for parameter in teacher.model.parameters())
    dtype = str(next(teacher.model.parameters()).dtype).removeprefix("torch.")
    return f"{name}: {parameters / 1e6:,.1f}M parameters, {dtype} on {device}"


def ask(teacher: Teacher, picture: Path, question: str, max_new_tokens: int, top_k: int, shows: str = "") -> Heard:
    """The teacher's greedy answer, and its own score of that answer; `shows` is for a teacher that only reads."""
    metadata = {SHOWS: shows} if shows else {}
    record = Record(id="check", image=picture.name, instruction=question, response="", metadata=metadata)
    began = time.perf_counter()
    (answer,) = teacher.generate([record], picture.parent, max_new_tokens)
    seconds = time.perf_counter() - began
    ((outputs,),) = teacher.score([replace(record, response=answer)], picture.parent, top_k)
    return Heard(answer, seconds, len(outputs), outputs)


def _picture(given: Path | None, folder: Path) -> tuple[Path, str]:
    """The given picture, or one of the embedded world and what it shows, in a folder of its own."""
    if given is None:
        path, scene = folder / "drawn.png", sample_scene(random.Random(0), "free")
        draw(scene).save(path)
        return path, description(scene)
    load_image(given)
    return Path(shutil.copy(given, folder)), ""


def _verdict(heard: Heard) -> int:
    if not heard.answer:
        console.print("[red]The teacher answers nothing: its chat template or its weights are wrong.[/]")
        return 1
    if heard.outputs.token_ids[0] not in heard.outputs.top_ids[0, :SHOWN]:
        console.print(
            f"[red]Scored, the answer's first token is not among the {SHOWN} likeliest, though the teacher chose it: "
            "scoring and answering do not read the same prompt, and distillation would teach the wrong thing.[/]"
        )
        return 1
    console.print("[green]The teacher loads, answers, and scores what it says.[/]")
    return 0
