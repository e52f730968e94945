"""Ask a system the questions of the benchmarks, score its answers, and say the result to a person."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from embervlm.console import console
from embervlm.console import errors as error_console
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.device import pick_device
from embervlm.evaluate.answerers import Answerer, StudentAnswerer
from embervlm.evaluate.benchmarks import BENCHMARKS, select
from embervlm.evaluate.closed import ClosedAnswerer, build_trie, common_answers
from embervlm.evaluate.divergence import Divergence, measure_divergence
from embervlm.evaluate.environment import environment
from embervlm.evaluate.instruct import score_instruct
from embervlm.evaluate.page import write_page
from embervlm.evaluate.printing import print_result
from embervlm.evaluate.results import EvalResult, read_json, save_result
from embervlm.evaluate.teacher_view import view_cache
from embervlm.evaluate.vqa import VqaScores, score_vqa
from embervlm.model.modeling import EmberVLM
from embervlm.options import as_dict
from embervlm.settings import EvaluateSettings

if TYPE_CHECKING:
    from embervlm.batch.targets import TeacherTargets
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
    closed_answers: int = 0,
    seed: int = 0,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> EvalResult:
    """Scores of one system on a prepared set.

    Args:
        system: an EmberVLM, or any `Answerer` (a teacher, a baseline).
        benchmarks: names in `BENCHMARKS`. A conversation is judged by its first turn: later ones would need the
            student's own earlier answers, or the teacher-forced ones, which give the answer away.
        max_samples: at most so many records of each benchmark, chosen by `seed`.
        max_new_tokens: of every benchmark; None: each benchmark's own.
        closed_answers: also answer VQA out of so many of train's most frequent answers (only an EmberVLM does).
        divergence: also measure KL to the teacher (only for an EmberVLM), on the same records.
        settings: more to write into the result, such as the checkpoint's path.

    Raises UserError for an unknown benchmark, a missing split, or a benchmark without records.
    """
    chosen = select(prepared.records(split), benchmarks, split, max_samples, seed)
    answerer = system if hasattr(system, "answers") else StudentAnswerer(system)
    vqa: dict[str, VqaScores] = {}
    closed: dict[str, VqaScores] = {}
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
        if closed_answers and benchmark != "instruct":
            began = time.monotonic()
            set_of = _closed(answerer, prepared, benchmark, closed_answers, name)
            title = f"{BENCHMARKS[benchmark].title}, closed set ({name})"
            answers = ask(set_of, records, prepared.image_root, limit, batch_size, title if progress else None)
            predictions[f"{benchmark}_closed"] = {r.id: answer for r, answer in zip(records, answers, strict=True)}
            closed[benchmark] = score_vqa(records, answers, seed)
            seconds[f"{benchmark}_closed"] = time.monotonic() - began
    measured = None
    if divergence is not None:
        began = time.monotonic()
        if not isinstance(answerer, StudentAnswerer):
            raise ValueError(f"{name}: KL to the teacher is measured for an EmberVLM only")
        measured = _divergence(answerer.model, chosen, prepared.image_root, divergence, batch_size, progress)
        seconds["divergence"] = time.monotonic() - began
    return EvalResult(
        system=name,
        split=split,
        data=prepared.fingerprint(split),
        vqa=vqa,
        closed=closed,
        instruct=instruct,
        divergence=measured,
        predictions=predictions,
        settings={
            "benchmarks": list(benchmarks),
            "batch_size": batch_size,
            "max_samples": max_samples,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            **(settings or {}),
        },
        seconds={phase: round(value, 2) for phase, value in seconds.items()},
        environment=environment(),
    )


def _closed(answerer: Answerer, prepared: PreparedSet, benchmark: str, most: int, name: str) -> ClosedAnswerer:
    if not isinstance(answerer, StudentAnswerer):
        raise ValueError(f"{name}: out of a closed set only an EmberVLM answers")
    (known,) = select(prepared.records("train"), (benchmark,), "train").values()
    trie = build_trie(answerer.model.processor.tokenizer, common_answers(known, most))
    return ClosedAnswerer(answerer.model, trie)


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


def run_evaluate(settings: EvaluateSettings) -> None:
    """`embervlm evaluate`: print the scores of a checkpoint and write them with its answers."""
    prepared = open_prepared(settings.dataset_path)
    select(prepared.records(settings.split), settings.benchmarks, settings.split)
    device = pick_device(settings.device)
    model = EmberVLM.from_pretrained(settings.checkpoint).to(device)
    options: dict[str, Any] = {"num_beams": settings.num_beams}
    if settings.do_sample:
        torch.manual_seed(settings.seed)
        options |= {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
    divergence = None
    if settings.teacher_outputs is not None:
        view = view_cache(settings.teacher_outputs, prepared, settings.split, model.processor.tokenizer)
        room = getattr(model.config.text_config, "max_position_embeddings", None) or 512
        divergence = DivergenceOptions(view.targets, max_length=min(512, room))
    result = evaluate(
        StudentAnswerer(model, options),
        prepared,
        settings.benchmarks,
        settings.split,
        name="undistilled" if _without_teacher(settings.checkpoint) else "student",
        batch_size=settings.batch_size,
        max_samples=settings.max_samples,
        max_new_tokens=settings.max_new_tokens,
        divergence=divergence,
        closed_answers=settings.closed_answers,
        seed=settings.seed,
        settings=as_dict(settings),
    )
    print_result(result)
    records = prepared.records(settings.split)
    ids = {record.id: record.metadata["question_id"] for record in records if "question_id" in record.metadata}
    for path in save_result(result, settings.output_file, ids):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
    if settings.page:
        page = settings.output_file.with_suffix(".html")
        path = write_page(result, records, prepared.image_root, page, settings.page_questions, settings.seed)
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _without_teacher(checkpoint: Path) -> bool:
    """What a Stage 2 checkpoint of ours says about how it was trained."""
    path = checkpoint / "training_args.json"
    data = read_json(path) if path.is_file() else {}
    return isinstance(data, dict) and data.get("stage") == 2 and data.get("teacher", "unknown") is None


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
