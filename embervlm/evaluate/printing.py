"""An evaluation as lines on the terminal, in the guide's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from embervlm.console import console
from embervlm.evaluate.benchmarks import BENCHMARKS
from embervlm.evaluate.divergence import Divergence
from embervlm.evaluate.judge import JudgeResult
from embervlm.evaluate.results import EvalResult
from embervlm.evaluate.vqa import Share

SHOWN_TYPES = 8
"""Question types that are printed."""


def print_result(result: EvalResult, to: Console = console) -> None:
    """The guide's lines, one benchmark after the other."""
    for name, scores in result.vqa.items():
        to.print(
            f"[bold]{BENCHMARKS[name].title} Accuracy: {_percent(scores.overall)}[/bold]{_details(scores.overall)}"
        )
        if len(scores.by_answer_type) > 1:
            for kind, share in scores.by_answer_type.items():
                to.print(f"  {kind.title()} Questions: {_percent(share)}")
        if len(scores.by_question_type) > 1:
            to.print(f"  [dim]{_question_types(scores.by_question_type)}[/dim]")
        if name in result.closed:
            share = result.closed[name].overall
            to.print(f"  Out of a closed set of answers: {_percent(share)}{_details(share)}")
        others = ", ".join(f"{variant} {100 * accuracy:.1f}%" for variant, accuracy in scores.variants.items())
        if others:
            to.print(f"  [dim]as others normalise answers: {others}[/dim]")
    if result.instruct is not None:
        found = result.instruct
        to.print(f"[bold]Instruction Following Score: {found.score:.3f}[/bold]  [dim]({found.n} answers)[/dim]")
        for part in ("relevance", "completeness", "coherence"):
            to.print(f"  {part.title()}: {getattr(found, part):.3f}")
    if result.judge is not None:
        print_judge(result.judge, to)
    if result.divergence is not None:
        _print_divergence(result.divergence, to)
    for name, count in result.unread.items():
        which = f"{count} of the {BENCHMARKS[name].title} questions {'is' if count == 1 else 'are'}"
        to.print(
            f"[yellow]{which} longer than the model reads: unanswered, which counts as wrong[/yellow]", soft_wrap=True
        )


def print_judge(found: JudgeResult, to: Console = console) -> None:
    """What another model thinks of the instruction answers."""
    unread = f"; {found.unparsable} verdicts could not be read" if found.unparsable else ""
    if found.mean is None or found.interval is None:
        to.print(f"[bold]Judge's Score: none[/bold]  [dim]({escape(found.model)}{unread})[/dim]")
        return
    low, high = found.interval
    details = f"{escape(found.model)}, {found.n} answers, 95% interval {low:.3f} to {high:.3f}{unread}"
    to.print(f"[bold]Judge's Score: {found.mean:.3f}[/bold]  [dim]({details})[/dim]")


def print_systems(results: Sequence[EvalResult], to: Console = console) -> None:
    """One row for each system that was asked the same questions."""
    table = Table.grid(padding=(0, 2))
    names = [name for name in BENCHMARKS if any(_score(result, name) for result in results)]
    judged = ["[dim]Judge[/dim]"] if any(result.judge for result in results) else []
    table.add_row("", *(f"[dim]{BENCHMARKS[name].title}[/dim]" for name in names), *judged)
    for result in results:
        mean = None if result.judge is None else result.judge.mean
        scores = [*(_score(result, name) for name in names), "" if mean is None else f"{mean:.3f}"]
        table.add_row(escape(result.system.replace("_", " ")), *scores[: len(names) + len(judged)])
    to.print()
    to.print(table)


def _score(result: EvalResult, benchmark: str) -> str:
    if benchmark == "instruct":
        return "" if result.instruct is None else f"{result.instruct.score:.3f}"
    return _percent(result.vqa[benchmark].overall) if benchmark in result.vqa else ""


def _print_divergence(found: Divergence, to: Console) -> None:
    to.print(f"[bold]KL(student || teacher): {found.student_teacher:.3f} nats[/bold]  [dim](T = 1)[/dim]")
    to.print(f"  KL(teacher || student): {found.teacher_student:.3f} nats")
    if found.temperature != 1.0:
        both = f"{found.student_teacher_at_t:.3f} and {found.teacher_student_at_t:.3f} nats"
        to.print(f"  At T = {found.temperature:g}: {both}")
    to.print(f"  Same most probable token: {100 * found.top1_agreement:.1f}%")
    to.print(f"  References: {found.ce_per_token:.3f} nats/token, {found.bits_per_byte:.3f} bits/byte")
    if found.calibration_error is not None:
        to.print(
            f"  Expected calibration error: {100 * found.calibration_error:.1f}% (T = 1, tokens of the references)"
        )
    if found.by_place:
        places = ", ".join(f"{line['place']}: {line['student_teacher']:.3f}" for line in found.by_place)
        to.print(f"  KL(student || teacher) by place in the answer: {places}")
    shares = f"{100 * found.anchored:.1f}% anchored, {100 * found.interior:.1f}% interior, {100 * found.none:.1f}% none"
    to.print(f"  Positions by target: {shares}")


def _question_types(shares: Mapping[str, Share]) -> str:
    """The most frequent ones in a line."""
    often = sorted(shares.items(), key=lambda item: -item[1].n)
    said = ", ".join(f"{escape(kind)} {_percent(share)}" for kind, share in often[:SHOWN_TYPES])
    left = len(often) - SHOWN_TYPES
    return f"by question type: {said}" + (f", and {left} more in the file" if left > 0 else "")


def _percent(share: Share) -> str:
    return f"{100 * share.accuracy:.1f}%"


def _details(share: Share) -> str:
    low, high = share.interval
    return (
        f"  [dim]({share.n} questions, 95% interval {100 * low:.1f} to {100 * high:.1f}; "
        f"exact match {100 * share.exact_match:.1f}%)[/dim]"
    )
