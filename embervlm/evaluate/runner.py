"""Ask a system the questions of the benchmarks and score its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embervlm.data.prepared import PreparedSet
from embervlm.evaluate.answerers import Answerer, StudentAnswerer, unread
from embervlm.evaluate.asking import Unfinished, ask, progress_bar
from embervlm.evaluate.benchmarks import BENCHMARKS, select
from embervlm.evaluate.closed import ClosedAnswerer, build_trie, common_answers
from embervlm.evaluate.divergence import Divergence, measure_divergence
from embervlm.evaluate.environment import environment
from embervlm.evaluate.instruct import score_instruct
from embervlm.evaluate.results import EvalResult
from embervlm.evaluate.vqa import VqaScores, score_vqa
from embervlm.processes import ALONE, Processes

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
    unfinished: Unfinished | None = None,
    processes: Processes = ALONE,
    sampling_seed: int | None = None,
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
        unfinished: where answers are kept while this goes on, so that it can be stopped.
        processes: each asks its share; all return the same result.
        sampling_seed: of an answerer that samples; None: the random numbers are left alone.

    Raises UserError for an unknown benchmark, a missing split, or a benchmark without records.
    """
    chosen = select(prepared.records(split), benchmarks, split, max_samples, seed)
    answerer = system if hasattr(system, "answers") else StudentAnswerer(system)
    vqa: dict[str, VqaScores] = {}
    closed: dict[str, VqaScores] = {}
    instruct = None
    predictions: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    missed = {benchmark: len(unread(answerer, records)) for benchmark, records in chosen.items()}

    def put(system: Answerer, records: Sequence[Record], limit: int, title: str, part: str) -> list[str]:
        return ask(
            system,
            records,
            prepared.image_root,
            limit,
            batch_size,
            f"{title} ({name})" if progress else None,
            kept=None if unfinished is None else unfinished.part(f"{name}-{part}", records, limit),
            processes=processes,
            seed=sampling_seed,
        )

    for benchmark, records in chosen.items():
        began = time.monotonic()
        limit, title = max_new_tokens or BENCHMARKS[benchmark].max_new_tokens, BENCHMARKS[benchmark].title
        answers = put(answerer, records, limit, title, benchmark)
        predictions[benchmark] = {r.id: answer for r, answer in zip(records, answers, strict=True)}
        if benchmark == "instruct":
            instruct = score_instruct(records, answers, seed)
        else:
            vqa[benchmark] = score_vqa(records, answers, seed)
        seconds[benchmark] = time.monotonic() - began
        if closed_answers and benchmark != "instruct":
            began = time.monotonic()
            set_of = _closed(answerer, prepared, benchmark, closed_answers, name)
            answers = put(set_of, records, limit, f"{title}, closed set", f"{benchmark}_closed")
            predictions[f"{benchmark}_closed"] = {r.id: answer for r, answer in zip(records, answers, strict=True)}
            closed[benchmark] = score_vqa(records, answers, seed)
            seconds[f"{benchmark}_closed"] = time.monotonic() - began
    measured = None
    if divergence is not None:
        began = time.monotonic()
        if not isinstance(answerer, StudentAnswerer):
            raise ValueError(f"{name}: KL to the teacher is measured for an EmberVLM only")
        measured = _divergence(answerer.model, chosen, prepared.image_root, divergence, batch_size, progress, processes)
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
        unread={benchmark: count for benchmark, count in missed.items() if count},
    )


def _closed(answerer: Answerer, prepared: PreparedSet, benchmark: str, most: int, name: str) -> ClosedAnswerer:
    if not isinstance(answerer, StudentAnswerer):
        raise ValueError(f"{name}: out of a closed set only an EmberVLM answers")
    (known,) = select(prepared.records("train"), (benchmark,), "train").values()
    trie = build_trie(answerer.model.processor.tokenizer, common_answers(known, most))
    return ClosedAnswerer(answerer.model, trie)


def choose_subset(
    model: Any, prepared: PreparedSet, split: str = "val", max_samples: int = 200, seed: int = 0
) -> tuple[dict[str, list[Record]], list[str]]:
    """For a quick look: the records of each benchmark, drawn by `seed`, and the ids of those that are left out of them
    because their question is longer than the model reads.

    Benchmarks without records are left out, and OK-VQA where there is VQA-v2.
    """
    records = prepared.records(split)
    sources = {record.source for record in records}
    present = [name for name, benchmark in BENCHMARKS.items() if benchmark.source in sources]
    if "vqa" in present:
        present = [name for name in present if name != "okvqa"]
    chosen = select(records, present, split, max_samples, seed) if present else {}
    missed = StudentAnswerer(model).unread([record for some in chosen.values() for record in some])
    left_out = set(missed)
    read = {name: [record for record in some if record.id not in left_out] for name, some in chosen.items()}
    return {name: some for name, some in read.items() if some}, missed


def evaluate_subset(
    model: Any,
    prepared: PreparedSet,
    chosen: Mapping[str, Sequence[Record]],
    batch_size: int = 64,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """A quick look during training at the records of `choose_subset`: vqa_accuracy, and instruct_score and coherence.

    Args:
        options: of transformers' generate; None: greedy. Where they sample, `seed` gives the same answers each time.
    """
    answerer = StudentAnswerer(model, options or {})
    found: dict[str, float] = {}
    for name, some in chosen.items():
        limit = BENCHMARKS[name].max_new_tokens
        drawn = seed if answerer.options.get("do_sample") else None
        answers = ask(answerer, some, prepared.image_root, limit, batch_size, None, seed=drawn)
        if name == "instruct":
            scores = score_instruct(some, answers, seed)
            found |= {"instruct_score": scores.score, "coherence": scores.coherence}
        else:
            found["vqa_accuracy"] = score_vqa(some, answers, seed).overall.accuracy
    return found


def _divergence(
    model: Any,
    chosen: Mapping[str, Sequence[Record]],
    image_root: Path,
    options: DivergenceOptions,
    batch_size: int,
    progress: bool,
    processes: Processes,
) -> Divergence:
    records = [record for some in chosen.values() for record in some]
    if options.max_records is not None and options.max_records < len(records):
        some = np.random.default_rng(0).choice(len(records), options.max_records, replace=False)
        records = [records[at] for at in sorted(some)]
    with progress_bar("KL to the teacher" if progress and processes.rank == 0 else None, len(records)) as advance:
        return measure_divergence(
            model,
            records,
            image_root,
            options.teacher,
            temperature=options.temperature,
            batch_size=batch_size,
            max_length=options.max_length,
            advance=advance,
            processes=processes,
        )
