"""The report: one self-contained HTML file, without scripts, that explains itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.markup import escape

from embervlm.console import console
from embervlm.evaluate.pages.collect import collect_run
from embervlm.evaluate.pages.plots import Line, line_chart
from embervlm.evaluate.pages.report_inputs import Kind, ReportInputs, SystemRow, TrainingRun
from embervlm.evaluate.pages.templates import percent, render_page
from embervlm.evaluate.results import EvalResult
from embervlm.files import write_whole
from embervlm.settings import ReportSettings

GUESS_MARGIN = 0.05
"""A student less than this above the best guess has learnt little."""


@dataclass(frozen=True)
class Target:
    """One of the guide's targets, and what the student reached."""

    name: str
    value: float
    goal: float
    percent: bool
    below: bool  # good when below the goal
    others: tuple[tuple[str, float], ...]  # the same figure of other systems, for scale

    @property
    def met(self) -> bool:
        return self.value < self.goal if self.below else self.value > self.goal

    @property
    def filled(self) -> float:
        """Where the value lies on a scale that ends at the goal's double (or at 1): 0 to 1."""
        return min(1.0, self.value / (2 * self.goal if self.below else 1.0))

    @property
    def goal_at(self) -> float:
        return 0.5 if self.below else self.goal


def write_report(inputs: ReportInputs, path: str | Path) -> Path:
    """Write the report of whatever `inputs` holds to `path`, whole or not at all."""
    return write_whole(Path(path), render(inputs))


def run_report(settings: ReportSettings) -> None:
    """`embervlm report`: collect what a run left and write the page."""
    evaluations: tuple[Path, ...] | None = settings.evaluations
    if evaluations == ReportSettings().evaluations and not (evaluations[0].is_file() and settings.output_dir.is_dir()):
        evaluations = None  # nobody asked for it: take what lies in the run's own results/
    inputs = collect_run(settings.output_dir, evaluations)
    for note in inputs.notes:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    path = write_report(inputs, settings.report)
    console.print(f"Report: {path}", markup=False, soft_wrap=True)


def render(inputs: ReportInputs) -> str:
    """The report as a string. Everything that models and people wrote is escaped."""
    student = inputs.system("student")
    return render_page(
        "report.html.jinja",
        inputs=inputs,
        lead=lead(inputs),
        targets=targets(inputs),
        findings=findings(inputs),
        rows=[table_row(row, inputs) for row in inputs.systems],
        charts=charts(inputs.runs),
        templates=template_rows(inputs.systems),
        divergence=None if student is None else student.result.divergence,
        kinds=legend(inputs.systems),
    )


def targets(inputs: ReportInputs) -> list[Target]:
    """The guide's four, as far as they were measured."""
    row = inputs.told
    if row is None:
        return []
    found = []
    best_guess = _best_guess(inputs)
    scale = ("teacher", "undistilled")
    for_scale = [one for one in inputs.systems if one is not row and (one.kind in scale or one is best_guess)]

    def add(name: str, goal: float, measure: Any, percent: bool = False, below: bool = False) -> None:
        if (value := measure(row.result)) is not None:
            others = [(other.name, measure(other.result)) for other in for_scale]
            kept = tuple((label, other) for label, other in others if other is not None)
            found.append(Target(name, value, goal, percent, below, kept))

    add("VQA accuracy", 0.60, lambda r: r.vqa_accuracy, percent=True)
    add("Instruction score", 0.75, lambda r: r.instruct and r.instruct.score)
    add("KL(student ‖ teacher)", 1.0, lambda r: r.divergence and r.divergence.student_teacher, below=True)
    add("Coherence", 0.80, lambda r: r.instruct and r.instruct.coherence)
    return found


def lead(inputs: ReportInputs) -> str:
    """The result in a sentence or two."""
    student, teacher, plain = (inputs.system(kind) for kind in ("student", "teacher", "undistilled"))
    if student is None and plain is not None and plain.result.vqa_accuracy is not None:
        share = plain.result.vqa["vqa"].overall
        return (
            f"The student, trained without a teacher, scores {percent(share.accuracy)} on {share.n:,} questions it has "
            "never seen."
        )
    if student is None or student.result.vqa_accuracy is None:
        return ""
    share = student.result.vqa["vqa"].overall
    sentence = f"The distilled student scores {percent(share.accuracy)} on {share.n:,} questions it has never seen"
    if plain is not None and (without := plain.result.vqa_accuracy) is not None:
        gain = 100 * (share.accuracy - without)
        word = "more" if gain >= 0 else "less"
        sentence += f", {abs(gain):.1f} points {word} than the same student trained without a teacher"
    if teacher is not None and (best := teacher.result.vqa_accuracy) is not None:
        sentence += f"; its teacher scores {percent(best)}"
    return sentence + "."


def findings(inputs: ReportInputs) -> list[tuple[str, str]]:
    """What a careful reader would ask next, as (tone, sentence); tone is "good" or "warn"."""
    said = []
    student, plain = inputs.system("student"), inputs.system("undistilled")
    guess = _best_guess(inputs)
    mine = None if student is None else student.result.vqa_accuracy
    for sight in inputs.sights:
        said.append(("good" if sight.verdict == "looks" else "warn", sight.sentence()))
    if mine is not None and guess is not None:
        floor = guess.result.vqa_accuracy or 0.0
        text = f"Guessing from the question alone ({guess.name[:1].lower() + guess.name[1:]}) gives {percent(floor)}"
        tone = "good" if mine - floor >= GUESS_MARGIN else "warn"
        place = "above" if mine >= floor else "below"
        said.append((tone, f"{text}; the student is {100 * abs(mine - floor):.1f} points {place}."))
    teacher = inputs.system("teacher")
    if student is not None and plain is not None and teacher is not None:
        closed = gap_closed(*(row.result.vqa_accuracy for row in (student, plain, teacher)))
        if closed is not None:
            gap = 100 * ((teacher.result.vqa_accuracy or 0) - (plain.result.vqa_accuracy or 0))
            text = f"The teacher stands {gap:.1f} points above the student without a teacher"
            share = f"closes {100 * closed:.0f}% of that" if closed > 0 else "closes nothing of that here"
            said.append(("good" if closed > 0 else "warn", f"{text}; distillation {share}."))
    if student is not None and plain is not None and (ratio := kl_ratio(student.result, plain.result)) is not None:
        tone = "good" if ratio < 1 else "warn"
        text = "A small KL alone proves little, since small worlds are easily imitated. What counts is the ratio: "
        said.append((tone, f"{text}the student's is {ratio:.2f} times that of the undistilled one."))
    return said


def _best_guess(inputs: ReportInputs) -> SystemRow | None:
    """The strongest of the baselines without a model."""
    guesses = [row for row in inputs.systems if row.kind == "baseline" and row.result.vqa_accuracy is not None]
    return max(guesses, key=lambda row: row.result.vqa_accuracy or 0.0, default=None)


def table_row(row: SystemRow, inputs: ReportInputs) -> dict[str, Any]:
    """Cells of the main table; None where nothing was measured."""
    result = row.result
    vqa, okvqa = result.vqa.get("vqa"), result.vqa.get("okvqa")
    by_type = {} if vqa is None else vqa.by_answer_type
    plain = inputs.system("undistilled")
    return {
        "name": row.name,
        "kind": row.kind,
        "n": vqa and vqa.overall.n,
        "interval": vqa and vqa.overall.interval,
        "vqa": vqa and vqa.overall.accuracy,
        "yes_no": by_type["yes/no"].accuracy if "yes/no" in by_type else None,
        "number": by_type["number"].accuracy if "number" in by_type else None,
        "other": by_type["other"].accuracy if "other" in by_type else None,
        "without_yes_no": vqa and vqa.without_yes_no and vqa.without_yes_no.accuracy,
        "okvqa": okvqa and okvqa.overall.accuracy,
        "score": result.instruct and result.instruct.score,
        "coherence": result.instruct and result.instruct.coherence,
        "kl": result.divergence and result.divergence.student_teacher,
        "ratio": None if plain is None else kl_ratio(result, plain.result),
    }


def gap_closed(student: float | None, plain: float | None, teacher: float | None) -> float | None:
    """(student - plain) / (teacher - plain): the share of what there is to gain from the teacher; below 0 where the
    student lost. None where one was not measured, or the teacher is no better."""
    if student is None or plain is None or teacher is None or teacher <= plain:
        return None
    return (student - plain) / (teacher - plain)


def kl_ratio(result: EvalResult, plain: EvalResult) -> float | None:
    """KL(student || teacher) over the undistilled student's."""
    if result.divergence is None or plain.divergence is None or plain.divergence.student_teacher <= 0:
        return None
    return result.divergence.student_teacher / plain.divergence.student_teacher


def charts(runs: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """Curves with their captions: losses of each stage, then what evaluation during training saw."""
    wanted: list[tuple[str, str, str, bool, float | None]] = [
        ("stage1/sft_loss", "Stage 1: cross-entropy", "nats per token of the captions", False, None),
        ("stage2/sft_loss", "Stage 2: cross-entropy", "nats per token of the answers", False, None),
        ("stage2/distill_loss", "Stage 2: distillation loss", "T² KL(teacher ‖ student), nats per token", False, None),
        ("stage2/vqa_accuracy", "VQA accuracy during training", "on part of the validation set", True, 0.60),
        ("stage2/instruct_score", "Instruction score during training", "on part of the validation set", False, 0.75),
        ("stage2/teacher_kl_div", "KL(student ‖ teacher) during training", "nats per token, T = 1", False, None),
    ]
    drawn = []
    for key, title, unit, percents, mark in wanted:
        lines = []
        for run in runs:
            points = [(entry["step"], entry[key]) for entry in run.history if key in entry and "step" in entry]
            if len(points) > 1:
                lines.append(Line(run.name, run.kind, [x for x, _ in points], [y for _, y in points]))
        if lines and (svg := line_chart(lines, f"{title}, {unit}, by step", percents, mark)):
            drawn.append({"title": title, "unit": unit, "svg": Markup(svg), "lines": lines, "mark": mark})
    return drawn


def template_rows(systems: Sequence[SystemRow]) -> dict[str, Any] | None:
    """Accuracy by question type: {"columns": [...], "rows": [...]}; None when there is only one type."""
    columns = [row for row in systems if "vqa" in row.result.vqa]
    lead_row = next((row for row in columns if row.kind == "student"), columns[0] if columns else None)
    if lead_row is None or len(lead_row.result.vqa["vqa"].by_question_type) < 2:
        return None
    rows: list[dict[str, Any]] = []
    for name, share in lead_row.result.vqa["vqa"].by_question_type.items():
        cells = [row.result.vqa["vqa"].by_question_type.get(name) for row in columns]
        values = [None if cell is None else cell.accuracy for cell in cells]
        floors = [v for row, v in zip(columns, values, strict=True) if row.kind == "baseline" and v is not None]
        unlearnt = bool(floors) and share.accuracy <= max(floors)
        rows.append({"name": name, "n": share.n, "values": values, "unlearnt": unlearnt})
    rows.sort(key=lambda row: row["name"])
    return {"columns": columns, "rows": rows, "unlearnt": sum(row["unlearnt"] for row in rows)}


def legend(systems: Sequence[SystemRow]) -> Mapping[Kind, str]:
    return {row.kind: row.name for row in reversed(systems)}
