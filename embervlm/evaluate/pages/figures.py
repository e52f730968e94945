"""How pages and tables write what an evaluation measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from embervlm.evaluate.paired import Difference, minus, points
from embervlm.evaluate.questions import title_of
from embervlm.evaluate.results import EvalResult

_DIVERGENCE: dict[str, tuple[str, str]] = {
    "student_teacher": ("KL(student ‖ teacher), nats", "{:.3f}"),
    "teacher_student": ("KL(teacher ‖ student), nats", "{:.3f}"),
    "student_teacher_at_t": ("KL(student ‖ teacher) at temperature T", "{:.3f}"),
    "teacher_student_at_t": ("KL(teacher ‖ student) at temperature T", "{:.3f}"),
    "temperature": ("T", "{:g}"),
    "top1_agreement": ("Same most probable token", "{:.1%}"),
    "ce_per_token": ("Cross-entropy of the references, nats per token", "{:.3f}"),
    "bits_per_byte": ("Bits per byte of the references", "{:.3f}"),
    "calibration_error": ("Expected calibration error, T = 1", "{:.1%}"),
    "anchored": ("Positions at a boundary of the teacher's", "{:.1%}"),
    "interior": ("Positions inside a teacher's token", "{:.1%}"),
    "none": ("Positions without a target", "{:.1%}"),
    "tokens": ("Tokens", "{:,}"),
    "records": ("Records", "{:,}"),
}


def divergence_figures(result: EvalResult) -> dict[str, str]:
    """Name -> value of every number about the divergence from the teacher; {} when it was not measured."""
    if result.divergence is None:
        return {}
    figures = {}
    for name, value in dataclasses.asdict(result.divergence).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            title, form = _DIVERGENCE.get(name, (name.replace("_", " ").capitalize(), "{:.4g}"))
            figures[title] = form.format(value)
    return figures


def score_words(benchmark: str, score: float) -> str:
    """A VQA accuracy as "65.0%", an instruction score as "0.786"."""
    return f"{score:.3f}" if benchmark == "instruct" else f"{100 * score:.1f}%"


def gain_words(benchmark: str, gain: float, sign: bool = True) -> str:
    """A difference in the same unit: "−3.2" points, "+0.021"."""
    return minus(round(gain, 3), 3, sign) if benchmark == "instruct" else points(gain, sign)


def interval_words(benchmark: str, interval: tuple[float, float], sign: bool = False) -> str:
    low, high = (gain_words(benchmark, value, sign) for value in interval)
    return f"{low} to {high}"


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def sure(difference: Difference) -> int:
    """1: above 0 beyond chance (the 95% interval leaves 0 out), -1: below, 0: neither."""
    low, high = difference.interval
    return int(low > 0) - int(high < 0)


def verdict_sentence(benchmark: str, names: Sequence[str], row: Any, other: int) -> str:
    """What the difference of a `Row` between the first run and another says, in a sentence."""
    difference = row.differences[other - 1]
    unit = "" if benchmark == "instruct" else " points"
    score = f"{names[other]} scores {score_words(benchmark, row.scores[other])}"
    asked = f"{row.n:,} {title_of(benchmark)} questions"
    how = f"95% interval {interval_words(benchmark, difference.interval, True)}, {p_words(difference.p)}"
    if not (which := sure(difference)):
        gain = gain_words(benchmark, difference.mean)
        return f"{score} on {asked}; its difference to {names[0]}, {gain}{unit}, may be chance ({how})."
    gain = gain_words(benchmark, abs(difference.mean), sign=False)
    return f"{score} on {asked}, {gain}{unit} {'above' if which > 0 else 'below'} {names[0]} ({how})."


def decoding(settings: Mapping[str, Any]) -> str:
    """How the answers were made, in words; "" where the result does not say."""
    if "do_sample" not in settings:
        return ""
    words = "greedy"
    if settings["do_sample"]:
        words = f"sampled at temperature {settings.get('temperature', 1):g}, top-p {settings.get('top_p', 1):g}"
    beams = settings.get("num_beams") or 1
    return (
        words if beams == 1 else f"{words}, {beams} beams" if settings["do_sample"] else f"beam search, {beams} beams"
    )


def shown(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
