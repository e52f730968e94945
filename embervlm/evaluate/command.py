"""`embervlm evaluate`: a checkpoint, and what its scores must be compared with, asked the same questions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embervlm.console import console
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.device import pick_device
from embervlm.errors import UserError
from embervlm.evaluate.answerers import (
    Answerer,
    FromFile,
    MeanImage,
    ShuffledImages,
    StudentAnswerer,
    TeacherAnswerer,
    WithoutImage,
)
from embervlm.evaluate.asking import Unfinished
from embervlm.evaluate.baselines import majority_per_question, majority_per_template
from embervlm.evaluate.benchmarks import BENCHMARKS, select
from embervlm.evaluate.judge import open_judge
from embervlm.evaluate.pages.evaluation import write_page
from embervlm.evaluate.printing import print_judge, print_result, print_systems
from embervlm.evaluate.questions import answered
from embervlm.evaluate.resampling import pictures_by_id
from embervlm.evaluate.results import EvalResult, read_json, save_result
from embervlm.evaluate.runner import DivergenceOptions, evaluate
from embervlm.evaluate.sight import UNSEEING, sight_of
from embervlm.evaluate.submission import read_answers
from embervlm.evaluate.teacher_view import view_cache
from embervlm.model.modeling import EmberVLM
from embervlm.model.processing import EmberVLMProcessor
from embervlm.options import as_dict
from embervlm.processes import Processes, own_device, start_processes
from embervlm.teachers.outputs import batch_of
from embervlm.teachers.registry import load_teacher, loading_options

if TYPE_CHECKING:
    from embervlm.data.record import Record
    from embervlm.settings import EvaluateSettings

SHORT = ("vqa", "okvqa")
"""Benchmarks that the student without its picture is asked: what it misses in long answers is not plain."""

MODEL_FILES = ("*.safetensors", "config.json", "tokenizer.json", "processor_config.json")


@dataclass(frozen=True)
class System:
    """One row of the table: who is asked, how it was made, and what of."""

    name: str
    benchmarks: Sequence[str]
    build: Callable[[], Answerer]  # called when its turn comes
    model: Mapping[str, Any]


def run_evaluate(settings: EvaluateSettings) -> None:
    """Print the scores of a checkpoint and its baselines, and write them with the answers."""
    prepared = open_prepared(settings.dataset_path)
    asked = select(
        prepared.records(settings.split), settings.benchmarks, settings.split, settings.max_samples, settings.seed
    )
    short = [name for name in settings.benchmarks if name in SHORT]
    if settings.closed_answers and short and settings.predictions is None:
        select(prepared.records("train"), short, "train")  # what is missing there shows before all has been answered
    with start_processes() as processes:
        run = _Run(settings, prepared, asked, processes)
        first, *others = run.systems()
        result = run.measure(first)
        if processes.rank == 0:
            print_result(result)
        rivals = {other.name: run.measure(other) for other in others}
        if processes.rank == 0:
            run.write(result, rivals)


class _Run:
    def __init__(
        self,
        settings: EvaluateSettings,
        prepared: PreparedSet,
        asked: Mapping[str, Sequence[Record]],
        processes: Processes,
    ) -> None:
        self.settings, self.prepared, self.asked, self.processes = settings, prepared, asked, processes
        self.device = pick_device(own_device(settings.device))
        self.decoding: dict[str, Any] = {"do_sample": settings.do_sample, "num_beams": settings.num_beams}
        if settings.do_sample:
            self.decoding |= {"temperature": settings.temperature, "top_p": settings.top_p}
        self.judge = None
        if settings.judge is not None:
            self.judge = open_judge(
                settings.judge, settings.judge_model, settings.judge_concurrency, settings.benchmarks
            )
        self.student: EmberVLM | None = None
        self.unfinished = settings.output_file.with_name(f"{settings.output_file.stem}.unfinished")

    def systems(self) -> list[System]:
        """Who is asked: the checkpoint or the file of answers, then its baselines, then the teacher."""
        settings = self.settings
        if settings.predictions is not None:
            answers = read_answers(settings.predictions, self.asked)
            files = {"predictions": [path.as_posix() for path in settings.predictions]}
            found = [System(settings.predictions[0].stem, settings.benchmarks, lambda: FromFile(answers), files)]
            rivals = [name for name in settings.baselines or () if name in GUESSES]
        else:
            self.student = EmberVLM.from_pretrained(settings.checkpoint).to(self.device)
            trained = _training_args(settings.checkpoint)
            if trained.get("stage", settings.stage) != settings.stage and self.processes.rank == 0:
                stages = f"a checkpoint of Stage {trained['stage']}, and --stage says {settings.stage}"
                console.print(f"[yellow]{settings.checkpoint} is {stages}[/yellow]", soft_wrap=True)
            without = trained.get("stage") == 2 and trained.get("teacher", "unknown") is None
            name = "undistilled" if without else "student"
            found = [System(name, settings.benchmarks, self._student, model_facts(settings.checkpoint, self.student))]
            rivals = list(settings.baselines or ())
        for name in rivals:
            if not self._has_sense(name):
                continue
            build = {**GUESSES, **SIGHTLESS}[name]
            benchmarks = settings.benchmarks if name in GUESSES else [b for b in settings.benchmarks if b in SHORT]
            if benchmarks:
                model = {} if name in GUESSES else found[0].model
                found.append(System(name, benchmarks, partial(build, self), model))
        if settings.teacher_model is not None:
            found.append(System("teacher", settings.benchmarks, self._teacher, {"teacher": settings.teacher_model}))
        return found

    def _has_sense(self, baseline: str) -> bool:
        if baseline in SIGHTLESS:
            return any(record.image is not None for records in self.asked.values() for record in records)
        there = self._train_is_labelled
        if not there and self.processes.rank == 0:
            console.print(f"[dim]no {baseline}: {self.prepared.folder} has no labelled train split to learn from[/dim]")
        return there

    @cached_property
    def _train_is_labelled(self) -> bool:
        prepared = self.prepared
        return prepared.path("train").is_file() and any(r.labelled for r in prepared.records("train", unlabelled=True))

    def measure(self, system: System) -> EvalResult:
        settings = self.settings
        answerer = system.build()
        is_student = isinstance(answerer, StudentAnswerer)
        own = self.student is not None and system.name != "teacher" and system.name not in GUESSES
        decoding = self.decoding if own else {}
        size = settings.batch_size
        if isinstance(answerer, TeacherAnswerer):
            size = batch_of(answerer.teacher, size)
        about = {
            "data": self.prepared.fingerprint(settings.split),
            "model": dict(system.model),
            "decoding": decoding,
            # Chance depends on both.
            **({"seed": settings.seed, "batch_size": settings.batch_size} if settings.do_sample else {}),
        }
        result = evaluate(
            answerer,
            self.prepared,
            system.benchmarks,
            settings.split,
            name=system.name,
            batch_size=size,
            max_samples=settings.max_samples,
            max_new_tokens=settings.max_new_tokens,
            divergence=self._divergence() if is_student else None,
            closed_answers=settings.closed_answers if is_student else 0,
            seed=settings.seed,
            settings=as_dict(settings),
            unfinished=Unfinished(self.unfinished, about, self.processes),
            processes=self.processes,
            sampling_seed=settings.seed if settings.do_sample else None,
        )
        limits = {b: settings.max_new_tokens or BENCHMARKS[b].max_new_tokens for b in system.benchmarks}
        return dataclasses.replace(
            result,
            model=dict(system.model),
            prompts=self._prompts(system) if own else {},
            decoding={**decoding, "max_new_tokens": limits},
        )

    def write(self, result: EvalResult, rivals: Mapping[str, EvalResult]) -> None:
        """The result and, beside it, those of its baselines; then nothing is unfinished any more."""
        path = self.settings.output_file
        beside = {name: path.with_name(f"{path.stem}_{name}{path.suffix}") for name in rivals}
        result = dataclasses.replace(result, baselines=[place.name for place in beside.values()])
        records = self.prepared.records(self.settings.split)
        ids = {record.id: record.metadata["question_id"] for record in records if "question_id" in record.metadata}
        if self.judge is not None:
            for place, one in zip((path, *beside.values()), (result, *rivals.values()), strict=True):
                save_result(one, place, ids)  # kept, whatever becomes of the judge
            result, *others = (self._judged(one) for one in (result, *rivals.values()))
            rivals = dict(zip(rivals, others, strict=True))
            if result.judge is not None:
                print_judge(result.judge)
        if rivals:
            print_systems([result, *rivals.values()])
            unseeing = [rival for rival in rivals.values() if rival.system in UNSEEING]
            mine = _scores(records, result) if unseeing else {}
            pictures = pictures_by_id(records)
            for rival in unseeing:
                if sight := sight_of(result, rival, mine, _scores(records, rival), pictures):
                    console.print(sight.sentence(), soft_wrap=True)
        written: list[Path] = []
        for name, rival in rivals.items():
            written += save_result(rival, beside[name], ids)
        for place in save_result(result, path, ids):
            console.print(f"wrote {place}", markup=False, soft_wrap=True)
        if self.settings.page:
            page = path.with_suffix(".html")
            write_page(
                result, records, self.prepared.image_root, page, self.settings.page_questions, self.settings.seed
            )
            console.print(f"wrote {page}", markup=False, soft_wrap=True)
        if written:
            names = ", ".join(rivals)
            console.print(f"wrote {len(written)} files of {names} beside it", markup=False, soft_wrap=True)
        Unfinished(self.unfinished, {}).remove()

    def _judged(self, result: EvalResult) -> EvalResult:
        answers = result.predictions.get("instruct")
        if self.judge is None or answers is None:
            return result
        path = self.settings.output_file
        kept, title = path.with_name(f"{path.stem}_verdicts.jsonl"), f"Judge ({result.system})"
        return dataclasses.replace(result, judge=self.judge.score(self.asked["instruct"], answers, kept, title))

    def _student(self) -> StudentAnswerer:
        assert self.student is not None
        return StudentAnswerer(self.student, self.decoding)

    def _teacher(self) -> TeacherAnswerer:
        self.student = None  # its memory is free for the teacher
        name = self.settings.teacher_model
        assert name is not None
        return TeacherAnswerer(load_teacher(name, self.device, **loading_options(self.settings)))

    def _divergence(self) -> DivergenceOptions | None:
        if self.settings.teacher_outputs is None or self.student is None:
            return None
        view = view_cache(
            self.settings.teacher_outputs, self.prepared, self.settings.split, self._processor().tokenizer
        )
        room = getattr(self.student.config.text_config, "max_position_embeddings", None) or 512
        return DivergenceOptions(view.targets, max_length=min(512, room))

    def _processor(self) -> EmberVLMProcessor:
        processor = None if self.student is None else self.student.processor
        if processor is None:
            raise UserError(f"{self.settings.checkpoint} has no processor: its processor_config.json is missing.")
        return processor

    def _prompts(self, system: System) -> dict[str, str]:
        """The student's chat template, and the first question of each benchmark as it reads it."""
        processor = self._processor()
        prompts = {"template": str(processor.chat_template)}
        for name in system.benchmarks:
            record = self.asked[name][0]
            ids = processor.encode_prompt(record.instruction, record.image is not None and system.name != "blind")
            shown = processor.tokenizer.decode(ids)
            image = processor.tokenizer.decode([processor.image_token_id])
            count = shown.count(image)
            prompts[name] = shown.replace(image * count, f"{image} x {count}") if count else shown
        return prompts


GUESSES: dict[str, Callable[[_Run], Answerer]] = {
    "majority_per_template": lambda run: majority_per_template(run.prepared.records("train")),
    "majority_per_question": lambda run: majority_per_question(run.prepared.records("train")),
}
SIGHTLESS: dict[str, Callable[[_Run], Answerer]] = {
    "blind": lambda run: WithoutImage(run._student()),
    "mean_picture": lambda run: MeanImage(
        run._student(), run.prepared.records(run.settings.split), run.prepared.image_root
    ),
    "shuffled_pictures": lambda run: ShuffledImages(run._student(), run.prepared.records(run.settings.split)),
}
"""The choices of `--baselines`: guesses that need no model, and the student without its picture."""


def model_facts(checkpoint: Path, model: Any) -> dict[str, Any]:
    """Which model it was: {"checkpoint", "sha256" of its weights and configuration, "parameters"}."""
    digest = hashlib.sha256()
    for pattern in MODEL_FILES:
        for path in sorted(checkpoint.glob(pattern)):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"checkpoint": checkpoint.as_posix(), "sha256": digest.hexdigest(), "parameters": parameters}


def _scores(records: Sequence[Record], result: EvalResult) -> dict[str, dict[str, float]]:
    """Benchmark -> record -> score."""
    return {
        name: {one.record.id: one.score for one in answered(name, records, result.predictions[name])}
        for name in result.vqa
    }


def _training_args(checkpoint: Path) -> dict[str, Any]:
    """How a checkpoint of ours was trained; {} where it does not say."""
    path = checkpoint / "training_args.json"
    data = read_json(path) if path.is_file() else {}
    return data if isinstance(data, dict) else {}
