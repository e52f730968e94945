"""How pages and tables write what an evaluation measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
