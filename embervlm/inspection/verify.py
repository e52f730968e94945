"""`embervlm verify`: one screen that says whether a distillation is set up right, before hours of training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from embervlm import tokens
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.teaching import Teaching, cached_teaching, live_teaching
from embervlm.console import console
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.device import pick_device
from embervlm.distill.loss import LossOptions
from embervlm.errors import UserError
from embervlm.evaluate.divergence import Divergence
from embervlm.inspection.measure import (
    GradientFacts,
    StepFacts,
    TargetFacts,
    measure_gradient,
    measure_step,
    measure_student,
    measure_targets,
    measure_teacher,
)
from embervlm.inspection.student import open_student, positions
from embervlm.inspection.view import render_example, shows_much, view_example
from embervlm.settings import TrainSettings, VerifySettings
from embervlm.teachers.facts import TeacherFacts
from embervlm.teachers.from_logprobs import TAIL_EFFECT
from embervlm.teachers.gate import ADVICE, Surprise, draw_by_source
from embervlm.teachers.outputs import SERVED
from embervlm.teachers.registry import load_teacher, loading_options
from embervlm.teachers.store import TeacherCache

WRONG = 1
"""Exit code when a check fails."""

TEMPERATURE = TrainSettings.distillation_temperature
OPTIONS = LossOptions(TrainSettings.distillation_alpha, 1 - TrainSettings.distillation_alpha, TEMPERATURE)

FEWEST_TARGETS = 0.7  # share of positions; byte alignment reaches 0.9 and more with every pair that we tried
FEWEST = 16  # records of a source by which the teacher is judged on it alone
MOST_PERPLEXITY = 200.0  # 2 to 5 on answers in the teacher's own style, tens on bare words, thousands when all is wrong
LEAST_COSINE = 0.9  # caches of sure teachers reach .99
MOST_START_EXCESS = 2.0  # nats above ln V that a new student's cross-entropy may start with


@dataclass(frozen=True)
class Facts:
    student: str
    vocabulary: int
    student_fingerprint: str
    trained: bool
    teaching: Teaching
    teacher: TeacherFacts
    surprises: Mapping[str, Surprise]  # of each source with enough records
    targets: TargetFacts
    start: Divergence
    step: StepFacts
    gradient: GradientFacts | None  # None: the teacher is not at hand


@dataclass(frozen=True)
class Check:
    name: str
    right: bool
    found: str
    advice: str  # what to do when it is not right


def judge(facts: Facts) -> list[Check]:
    """The verdict, check by check."""
    shares, targets, step = facts.targets.shares, facts.targets, facts.step
    share = (shares.anchored + shares.interior) / max(shares.positions, 1)
    least = min(step.gradients.values(), default=0.0)
    finite = math.isfinite(step.loss) and all(map(math.isfinite, step.gradients.values()))
    checks = [
        Check(
            "the teacher speaks about the student's positions",
            share >= FEWEST_TARGETS,
            f"{share:.1%} of them",
            "Its tokenizer changes the text, or its template the answer; look at the example above.",
        ),
        Check(
            "targets are distributions",
            targets.worst_sum < 1e-4,
            f"sums off by {targets.worst_sum:.1e} at most",
            "The cache is damaged; make it again.",
        ),
        _likely(facts),
        Check(
            "loss and gradients are numbers, in every trained part",
            finite and least > 0,
            f"loss {step.loss:.3f}, " + ", ".join(f"{name} {norm:.2g}" for name, norm in step.gradients.items()),
            "A part without a gradient does not learn: pictures do not reach the text.",
        ),
    ]
    if facts.gradient is not None:
        checks.append(
            Check(
                "what is kept of the teacher pulls where all of it would",
                facts.gradient.cosine >= LEAST_COSINE,
                f"cosine {facts.gradient.cosine:.4f}",
                "Too little is kept: build the cache with a smaller --min_share or a larger --top_k.",
            )
        )
    if not facts.trained:
        excess = facts.start.ce_per_token - math.log(facts.vocabulary)
        checks.append(
            Check(
                "a new student starts near chance",
                excess < MOST_START_EXCESS,
                f"cross-entropy {facts.start.ce_per_token:.2f}, ln V {math.log(facts.vocabulary):.2f}",
                "Labels are shifted or the head is badly initialised.",
            )
        )
    return checks


def _likely(facts: Facts) -> Check:
    """By all tokens, and source by source: the words of long texts follow from one another, and would hide a source of
    short answers."""
    worse = {name: surprise for name, surprise in facts.surprises.items() if surprise.worse}
    each = ", ".join(f"{name} {math.exp(surprise.teacher):.2f}" for name, surprise in facts.surprises.items())
    found = f"perplexity {facts.teacher.perplexity:.2f}" + (f" ({each})" if each else "")
    if worse:
        found += "; less likely than counting words does: " + ", ".join(
            f"{name}, {surprise.teacher:.2f} nats a token against {surprise.counted:.2f}"
            for name, surprise in worse.items()
        )
    return Check(
        "the teacher finds the answers likely",
        facts.teacher.perplexity < MOST_PERPLEXITY and not worse,
        found,
        f"{ADVICE} Or the teacher does not know this data.",
    )


def _drawn(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many records of each source, in turns."""
    each = draw_by_source(records, most).values()
    return [record for turn in zip_longest(*each) for record in turn if record is not None]


def run_verify(settings: VerifySettings) -> int:
    """Prints the screen. Returns 0, or 1 when a check fails."""
    prepared = open_prepared(settings.dataset_path or TrainSettings.data_dir / f"stage{settings.stage}")
    records = _drawn(prepared.records("train"), settings.samples)
    model, student = open_student(settings.preset, settings.checkpoint)
    assert model.processor is not None
    model.to(pick_device("auto"))  # type: ignore[arg-type]
    data = RecordDataset(records, prepared.image_root, model.processor, positions(model, TrainSettings.max_length))
    teaching, teacher = _teaching(settings, prepared, model)
    whole = None
    if teacher is not None:
        everything = live_teaching(
            teacher, prepared.image_root, model.processor.tokenizer, len(teaching.token_bytes)
        ).targets
        whole = measure_gradient(model, data, teaching.targets, everything, TEMPERATURE)
    knows, surprises = measure_teacher(data, teaching, TEMPERATURE, FEWEST)
    facts = Facts(
        student=student,
        vocabulary=len(model.processor.tokenizer),
        student_fingerprint=tokens.fingerprint(model.processor.tokenizer),
        trained=settings.checkpoint is not None,
        teaching=teaching,
        teacher=knows,
        surprises=surprises,
        targets=measure_targets(data, teaching, TEMPERATURE),
        start=measure_student(model, data.records, data, teaching, TEMPERATURE),
        step=measure_step(model, data, teaching, OPTIONS, samples=8),
        gradient=whole,
    )
    checks = judge(facts)
    _show(facts, checks, data, prepared)
    return 0 if all(check.right for check in checks) else WRONG


def _teaching(settings: VerifySettings, prepared: PreparedSet, model: Any) -> tuple[Teaching, Any]:
    """Also the teacher itself, if it is at hand and can tell all that it knows."""
    tokenizer = model.processor.tokenizer
    if settings.use_cached_teacher_outputs is not None:
        cache = TeacherCache(settings.use_cached_teacher_outputs)
        cache.require(data={"train": prepared.fingerprint("train")})
        if not settings.compare_teacher:
            return cached_teaching(cache, tokenizer), None
        if cache.info["teacher"]["template"] == SERVED:
            raise UserError(
                f"{settings.use_cached_teacher_outputs} is of a served teacher, which never tells its full "
                "distribution: there is nothing to compare with, drop --compare_teacher"
            )
        teacher = load_teacher(cache.info["teacher"]["name"], pick_device("auto"), **loading_options(settings))
        cache.require(teacher.fingerprint())
        return cached_teaching(cache, tokenizer), teacher
    teacher = load_teacher(settings.teacher_model, pick_device("auto"), **loading_options(settings))
    teaching = live_teaching(teacher, prepared.image_root, tokenizer, TrainSettings.teacher_top_k)
    return teaching, teacher if teacher.model is not None else None


def _show(facts: Facts, checks: Sequence[Check], data: RecordDataset, prepared: PreparedSet) -> None:
    teaching, targets, start = facts.teaching, facts.targets, facts.start
    same = teaching.tokenizer_fingerprint == facts.student_fingerprint
    table = Table.grid(padding=(0, 2, 0, 0))
    rows = [
        ("student", f"{facts.student}; {facts.vocabulary:,} tokens, tokenizer {facts.student_fingerprint}"),
        (
            "teacher",
            f"{teaching.name}{'' if teaching.live else ' (cached)'}; {len(teaching.token_bytes):,} tokens, tokenizer "
            f"{teaching.tokenizer_fingerprint}{' (the same)' if same else ''}"
            f"{f'; sees no picture, is told by {teaching.told}' if teaching.told else ''}",
        ),
        ("data", f"{prepared.folder}, {_sources(data.records)} of train"),
        ("targets", str(targets.shares)),
        (
            f"at T = {TEMPERATURE:g}",
            f"{targets.events:.1f} events, {targets.rest:.1%} of the mass in the tail, the label has "
            f"{targets.label_mass:.1%}; the teacher's entropy is {facts.teacher.entropy:.2f} nats a token of its own",
        ),
        (
            "teacher says",
            f"perplexity {facts.teacher.perplexity:.2f} on {facts.teacher.tokens:,} of its tokens; "
            f"ends its turn where the answer ends with {facts.teacher.end_of_turn:.1%}",
        ),
        (
            "student at start" if not facts.trained else "student",
            f"cross-entropy {start.ce_per_token:.3f} nats, KL(student || teacher) {start.student_teacher:.3f}, "
            f"KL(teacher || student) at T {start.teacher_student_at_t:.3f}",
        ),
    ]
    if teaching.tail:
        rows.append(("tail", f"{teaching.tail}; {TAIL_EFFECT}"))
    if facts.gradient is not None:
        compared = f"{facts.gradient.positions} positions of {facts.gradient.samples} samples"
        rows.append(
            ("gradient", f"cosine {facts.gradient.cosine:.4f} with that of the teacher's full distribution, {compared}")
        )
    for name, said in rows:
        table.add_row(Text(name, style="bold"), Text(said))
    console.print(table)
    console.print(_example(data, teaching))
    for check in checks:
        mark = "[green]ok   [/]" if check.right else "[red]WRONG[/]"
        console.print(f"{mark} {check.name}: {check.found}", soft_wrap=True)
        if not check.right:
            console.print(f"      {check.advice}", soft_wrap=True)
    wrong = sum(not check.right for check in checks)
    console.print(
        "[bold green]Ready to train.[/]" if not wrong else f"[bold red]{wrong} of {len(checks)} checks fail.[/]"
    )


def _sources(records: Sequence[Record]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(record.source for record in records).items()))


def _example(data: RecordDataset, teaching: Teaching) -> Panel:
    at = max(range(len(data)), key=lambda index: shows_much(data[index].encoded))
    sample = data[at]
    (targets,) = teaching.targets([sample.record], [sample.encoded])
    (outputs,) = teaching.outputs([sample.record])
    view = view_example(sample.encoded, data.processor.tokenizer, outputs, targets)
    return Panel(render_example(view), title=Text(f"record {view.record_id}"), title_align="left")
