"""Ask a system the questions of the benchmarks, score its answers, and say the result to a person."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from embervlm.console import console
from embervlm.console import errors as error_console
from embervlm.evaluate.answerers import Answerer, StudentAnswerer
from embervlm.evaluate.benchmarks import BENCHMARKS, select
from embervlm.evaluate.divergence import Divergence, measure_divergence
from embervlm.evaluate.environment import environment
from embervlm.evaluate.instruct import score_instruct
from embervlm.evaluate.results import EvalResult
from embervlm.evaluate.vqa import Share, VqaScores, score_vqa

if TYPE_CHECKING:
    from embervlm.batch.targets import TeacherTargets
    from embervlm.data.prepared import PreparedSet
    from embervlm.data.record import Record


@dataclass(frozen=True)
class DivergenceOptions:
    """What the KL needs besides the model: a teacher's projected targets, and how rows are made."""

    teacher: TeacherTargets
    temperature: float = 2.0
    max_length: int = 512
    max_records: int | None = None


def evaluate(
    system: Any,
    prepared: PreparedSet,
    benchmarks: Sequence[str] = ("vqa", "okvqa", "instruct"),
    split: str = "val",
    *,
    name: str = "student",
    batch_size: int = 32,
    max_samples: int | None = None,
    max_new_tokens: int | None = None,
    divergence: DivergenceOptions | None = None,
    seed: int = 0,
    progress: bool = True,
) -> EvalResult:
    """Scores of one system on a prepared set.

    Args:
        system: an EmberVLM, or any `Answerer` (a teacher, a baseline).
        benchmarks: names in `BENCHMARKS`. A conversation is judged by its first turn: later ones would need the
            student's own earlier answers, or the teacher-forced ones, which give the answer away.
        max_samples: at most so many records of each benchmark, chosen by `seed`.
        max_new_tokens: of every benchmark; None: each benchmark's own.
        divergence: also measure KL to the teacher (only for an EmberVLM), on the same records.

    Raises UserError for an unknown benchmark, a missing split, or a benchmark without records.
    """
    chosen = select(prepared.records(split), benchmarks, split, max_samples, seed)
    answerer = system if hasattr(system, "answers") else StudentAnswerer(system)
    vqa: dict[str, VqaScores] = {}
    instruct = None
    predictions: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    for benchmark, records in chosen.items():
        began = time.monotonic()
        limit = max_new_tokens or BENCHMARKS[benchmark].max_new_tokens
        title = f"{BENCHMARKS[benchmark].title} ({name})"
        answers = ask(answerer, records, prepared.image_root, limit, batch_size, title if progress else None)
        predictions[benchmark] = {r.id: answer for r, answer in zip(records, answers, strict=True)}
        if benchmark == "instruct":
            instruct = score_instruct(records, answers, seed)
        else:
            vqa[benchmark] = score_vqa(records, answers, seed)
        seconds[benchmark] = time.monotonic() - began
    measured = None
    if divergence is not None:
        began = time.monotonic()
        measured = _divergence(system, chosen, prepared.image_root, divergence, batch_size, progress)
        seconds["divergence"] = time.monotonic() - began
    return EvalResult(
        system=name,
        split=split,
        data=prepared.fingerprint(split),
        vqa=vqa,
        instruct=instruct,
        divergence=measured,
        predictions=predictions,
        settings={
            "benchmarks": list(benchmarks),
            "batch_size": batch_size,
            "max_samples": max_samples,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
        },
        seconds={phase: round(value, 2) for phase, value in seconds.items()},
        environment=environment(),
    )


def evaluate_subset(
    model: Any, prepared: PreparedSet, split: str = "val", max_samples: int = 200, batch_size: int = 64, seed: int = 0
) -> dict[str, float]:
    """A quick look during training at a fixed, seeded subset: vqa_accuracy, and instruct_score and coherence.

    Benchmarks without records are left out. vqa_accuracy falls back to OK-VQA where there is no VQA-v2.
    """
    records = prepared.records(split)
    sources = {record.metadata.get("source") for record in records}
    present = [name for name, benchmark in BENCHMARKS.items() if benchmark.source in sources]
    if "vqa" in present:
        present = [name for name in present if name != "okvqa"]
    found: dict[str, float] = {}
    for name, some in select(records, present, split, max_samples, seed).items() if present else ():
        limit = BENCHMARKS[name].max_new_tokens
        answers = ask(StudentAnswerer(model), some, prepared.image_root, limit, batch_size, None)
        if name == "instruct":
            scores = score_instruct(some, answers, seed)
            found |= {"instruct_score": scores.score, "coherence": scores.coherence}
        else:
            found["vqa_accuracy"] = score_vqa(some, answers, seed).overall.accuracy
    return found


def ask(
    answerer: Answerer,
    records: Sequence[Record],
    image_root: Path,
    max_new_tokens: int,
    batch_size: int = 32,
    title: str | None = None,
) -> list[str]:
    """One answer per record, asked in batches of similar length. `title`: show a progress bar under this name."""
    order = sorted(range(len(records)), key=lambda at: (records[at].image is None, len(records[at].instruction)))
    answers = [""] * len(records)
    with _bar(title, len(records)) as advance:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            said = answerer.answers([records[at] for at in batch], image_root, max_new_tokens)
            for at, text in zip(batch, said, strict=True):
                answers[at] = text
            advance(len(batch))
    return answers


def print_result(result: EvalResult, to: Console = console) -> None:
    """The guide's lines, one benchmark after the other."""
    for name, scores in result.vqa.items():
        to.print(
            f"[bold]{BENCHMARKS[name].title} Accuracy: {_percent(scores.overall)}[/bold]{_details(scores.overall)}"
        )
        for kind, share in scores.by_answer_type.items():
            if len(scores.by_answer_type) > 1:
                to.print(f"  {kind.title()} Questions: {_percent(share)}")
    if result.instruct is not None:
        found = result.instruct
        to.print(f"[bold]Instruction Following Score: {found.score:.3f}[/bold]  [dim]({found.n} answers)[/dim]")
        for part in ("relevance", "completeness", "coherence"):
            to.print(f"  {part.title()}: {getattr(found, part):.3f}")
    if result.divergence is not None:
        _print_divergence(result.divergence, to)


def _divergence(
    model: Any,
    chosen: Mapping[str, Sequence[Record]],
    image_root: Path,
    options: DivergenceOptions,
    batch_size: int,
    progress: bool,
) -> Divergence:
    records = [record for some in chosen.values() for record in some]
    if options.max_records is not None and options.max_records < len(records):
        some = np.random.default_rng(0).choice(len(records), options.max_records, replace=False)
        records = [records[at] for at in sorted(some)]
    with _bar("KL to the teacher" if progress else None, len(records)) as advance:
        return measure_divergence(
            model,
            records,
            image_root,
            options.teacher,
            temperature=options.temperature,
            batch_size=batch_size,
            max_length=options.max_length,
            advance=advance,
        )


def _print_divergence(found: Divergence, to: Console) -> None:
    to.print(f"[bold]KL(student || teacher): {found.student_teacher:.3f} nats[/bold]  [dim](T = 1)[/dim]")
    to.print(f"  KL(teacher || student): {found.teacher_student:.3f} nats")
    to.print(f"  Same most probable token: {100 * found.top1_agreement:.1f}%")
    to.print(
        f"  Cross-entropy of the references: {found.ce_per_token:.3f} nats/token, {found.bits_per_byte:.3f} bits/byte"
    )
    shares = f"{100 * found.anchored:.1f}% anchored, {100 * found.interior:.1f}% interior, {100 * found.none:.1f}% none"
    to.print(f"  Positions with a target: {shares}")


def _percent(share: Share) -> str:
    return f"{100 * share.accuracy:.1f}%"


def _details(share: Share) -> str:
    low, high = share.interval
    return (
        f"  [dim]({share.n} questions, 95% interval {100 * low:.1f} to {100 * high:.1f}; "
        f"exact match {100 * share.exact_match:.1f}%)[/dim]"
    )


@contextmanager
def _bar(title: str | None, total: int) -> Iterator[Any]:
    if title is None:
        yield lambda count: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=error_console, transient=True
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
