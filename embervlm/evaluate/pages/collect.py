"""From the folders of a run to the inputs of its report."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from embervlm.batch.dataset import RecordDataset
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.evaluate.baselines import majority_per_question, majority_per_template
from embervlm.evaluate.pages.examples import aligned_example, next_token_example, picture_examples
from embervlm.evaluate.pages.phases import demo_phases, measured_phases
from embervlm.evaluate.pages.report_inputs import CacheFacts, Kind, ReportInputs, SystemRow
from embervlm.evaluate.pages.training import UNDISTILLED, from_elsewhere, settings_of, taught, trained, training_runs
from embervlm.evaluate.questions import find_data, read_answered
from embervlm.evaluate.resampling import pictures_by_id
from embervlm.evaluate.results import EvalResult, is_result, load_result, predictions_path, read_json
from embervlm.evaluate.runner import evaluate
from embervlm.evaluate.sight import UNSEEING, Sight, sight_of
from embervlm.evaluate.teacher_view import view_cache
from embervlm.model.modeling import EmberVLM
from embervlm.teachers.facts import teacher_facts

SYSTEMS: dict[str, tuple[Kind, str]] = {
    "teacher": ("teacher", "Teacher"),
    "student": ("student", "Student, distilled"),
    "undistilled": ("undistilled", "Student, no teacher"),
    "majority_per_question": ("baseline", "Majority per question"),
    "majority_per_template": ("baseline", "Majority per template"),
    "blind": ("blind", "Student, no picture"),
    "mean_picture": ("blind", "Student, mean picture"),
    "shuffled_pictures": ("blind", "Student, other pictures"),
}
"""`EvalResult.system` -> its place in the story and its name in the table. The order is the table's."""

ALONE = "A student learns without a teacher"
"""Title where no teacher took part in the training."""

SHOWN = ("teacher", "student", "undistilled")
"""Systems whose answers stand beside the pictures."""


HEARD = 1024
"""Records whose answers the teacher is judged by in a report."""


def collect_run(run_dir: str | Path, evaluations: Sequence[Path] | None = None) -> ReportInputs:
    """Read what a run left: metrics.json of its stages, evaluations, and the data they were made on.

    Args:
        run_dir: holds stage1/ and stage2/ (or outputs/ with these), and perhaps undistilled/stage2/.
        evaluations: files of `embervlm evaluate`; None: every result in run_dir/results.

    Baselines, pictures and the aligned text are added where data set, checkpoint and cache are still there.
    """
    run_dir = Path(run_dir)
    notes = []
    if not run_dir.is_dir():
        if not evaluations:
            raise UserError(
                f"{run_dir} does not exist, so there is nothing to report; name the folder of a run with --output_dir, "
                "or results of embervlm evaluate with --evaluations."
            )
        notes.append(f"{run_dir} does not exist: no curves and times of a training are shown.")
    outputs = run_dir / "outputs" if (run_dir / "outputs").is_dir() else run_dir
    if evaluations is None:
        evaluations = [path for path in sorted((run_dir / "results").glob("*.json")) if is_result(path)]
    evaluations = with_their_baselines(evaluations)
    results = [load_result(path) for path in evaluations]
    runs = training_runs(outputs)
    if not results and not runs:
        raise UserError(
            f"{run_dir} holds nothing to report: no stage1/metrics.json, no stage2/metrics.json, no evaluation. "
            "Run embervlm train and embervlm evaluate first."
        )
    if runs and (told := from_elsewhere(run_dir, evaluations, results)):
        notes.append(told)
    demo = run_dir / "demo.json"
    inputs = ReportInputs(
        title=ReportInputs.title if any(run.kind == "student" for run in runs) or not runs else ALONE,
        notes=tuple(notes),
        systems=system_rows(results),
        runs=runs,
        phases=demo_phases(demo) if demo.is_file() else measured_phases(runs, results),
    )
    row = inputs.told
    if row is None:
        return inputs
    inputs = dataclasses.replace(
        inputs, environment=row.result.environment, settings=settings_of(row.result), subtitle=_subtitle(row.result)
    )
    if (has_teacher := taught(row.result)) is not None:
        inputs = dataclasses.replace(inputs, title=ReportInputs.title if has_teacher else ALONE)
    prepared = find_data(row.result, run_dir)
    inputs = dataclasses.replace(inputs, sights=_sights(row.result, evaluations, results, prepared))
    if prepared is None:
        return inputs
    inputs = dataclasses.replace(inputs, subtitle=f"{inputs.subtitle}{_who_answered(prepared)}")
    said: dict[str, dict[str, str]] = {}
    for path, result in zip(evaluations, results, strict=True):
        said.setdefault(result.system, _predictions(path))
    return with_looks(with_baselines(inputs, prepared), prepared, said)


def with_their_baselines(evaluations: Sequence[Path]) -> list[Path]:
    """Each result, then those of the baselines that were asked along with it and still lie beside it."""
    paths = list(dict.fromkeys(evaluations))
    for path in list(paths):
        beside = [path.with_name(name) for name in load_result(path).baselines]
        paths += [other for other in beside if other.is_file() and other not in paths]
    return paths


def system_rows(results: Sequence[EvalResult]) -> tuple[SystemRow, ...]:
    """Rows in the table's order. Without a "student" the first result of an unknown name stands for it; of two results
    of one name the first counts, the others are shown under a number."""
    names = [_system(result) for result in results]
    known = [name for name in names if name in SYSTEMS]
    unknown = [name for name in names if name not in SYSTEMS]
    student = "student" if "student" in known or not unknown else unknown[0]
    order = list(SYSTEMS)
    rows: list[tuple[int, SystemRow]] = []
    seen: Counter[str] = Counter()
    for system, result in zip(names, results, strict=True):
        kind, title = SYSTEMS.get(system, ("other", system))
        name = "student" if system == student else system
        place = order.index(name) if name in order else order.index("undistilled")
        seen[name] += 1
        if seen[name] > 1:
            kind, title = "other", f"{title} ({seen[name]})"
        elif name == "student":
            kind = "student"
        rows.append((place, SystemRow(title, kind, result)))
    return tuple(row for _, row in sorted(rows, key=lambda entry: entry[0]))


def _system(result: EvalResult) -> str:
    return UNDISTILLED if result.system == "student" and taught(result) is False else result.system


def with_baselines(inputs: ReportInputs, prepared: PreparedSet) -> ReportInputs:
    """Add the majority baselines, fitted on train, on the very questions that the student was asked."""
    results = [row.result for row in inputs.systems]
    student = inputs.told
    assert student is not None
    asked = student.result.settings
    train = prepared.records("train")
    for name, fit in (
        ("majority_per_question", majority_per_question),
        ("majority_per_template", majority_per_template),
    ):
        if all(result.system != name for result in results):
            results.append(
                evaluate(
                    fit(train),
                    prepared,
                    asked["benchmarks"],
                    student.result.split,
                    name=name,
                    max_samples=asked.get("max_samples"),
                    seed=asked.get("seed", 0),
                    progress=False,
                )
            )
    return dataclasses.replace(inputs, systems=system_rows(results))


def with_looks(
    inputs: ReportInputs, prepared: PreparedSet, predictions: Mapping[str, Mapping[str, str]], count: int = 12
) -> ReportInputs:
    """Add pictures with answers and, where checkpoint and cache are there, the aligned text and the next word.

    predictions: system -> question id or record id, as text -> answer.
    """
    student = inputs.told
    assert student is not None
    records = prepared.records(student.result.split)
    systems = []
    for row in inputs.systems:
        if row.kind in SHOWN and (said := predictions.get(row.result.system)):
            answers = {record.id: said[key] for record in records for key in _keys(record) if key in said}
            name = "No teacher" if row.kind == "undistilled" else row.name.partition(",")[0]
            systems.append((name, row.kind, answers))
    pictures = picture_examples(records, prepared.image_root, systems, count) if systems else ()
    inputs = dataclasses.replace(inputs, pictures=pictures)
    settings = student.result.settings
    checkpoint, cache = settings.get("checkpoint"), settings.get("teacher_outputs")
    if not checkpoint or not cache or not Path(checkpoint).is_dir() or not Path(cache).is_dir():
        return inputs
    model = EmberVLM.from_pretrained(checkpoint)
    view = view_cache(Path(cache), prepared, student.result.split, model.processor.tokenizer)
    limit = getattr(model.config.text_config, "max_position_embeddings", 512)
    dataset = RecordDataset(records, prepared.image_root, model.processor, min(limit, 512))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    temperature = trained(student.result).get("settings", {}).get("distillation_temperature", 2.0)
    heard = (said for record in records[:HEARD] for said in view.outputs([record])[0])
    kept = CacheFacts(
        view.bytes_per_token, 2.0 * len(view.token_bytes), teacher=teacher_facts(heard, float(temperature))
    )
    learns = "without a teacher" if taught(student.result) is False else f"from {view.name}"
    return dataclasses.replace(
        inputs,
        title=f"A student of {millions:.{0 if millions >= 10 else 1}f}M parameters learns {learns}",
        aligned=aligned_example(dataset, view),
        next_token=next_token_example(model, dataset, view),
        cache=kept,
    )


def _sights(
    student: EvalResult, paths: Sequence[Path], results: Sequence[EvalResult], prepared: PreparedSet | None
) -> tuple[Sight, ...]:
    """The student beside each evaluation with its picture taken away, question by question where all is at hand."""

    records: list[Record] = []
    with suppress(UserError):  # a report shows what there is
        records = prepared.records(student.split) if prepared is not None else []

    def scores(result: EvalResult) -> dict[str, dict[str, float]]:
        path = next(path for path, other in zip(paths, results, strict=True) if other is result)
        if not records or result.data != student.data:
            return {}
        try:
            return {
                name: {one.record.id: one.score for one in read_answered(path, result, name, records)}
                for name in result.vqa
            }
        except UserError:
            return {}

    pictures = pictures_by_id(records)
    found = [
        sight_of(student, result, scores(student), scores(result), pictures)
        for result in results
        if result.system in UNSEEING and result.split == student.split
    ]
    return tuple(sight for sight in found if sight is not None)


def _subtitle(result: EvalResult) -> str:
    teacher = trained(result).get("teacher")
    folder = Path(result.settings.get("dataset_path") or "").parts[-2:]
    source = f" of {'/'.join(folder)}" if folder else ""
    about = f"Split {result.split}{source}, pictures that no training has shown."
    return f"{about} The teacher is {teacher}, which reads and writes with another tokenizer." if teacher else about


def _who_answered(prepared: PreparedSet) -> str:
    """Whose answers train holds, where `embervlm answer` made it."""
    answered = prepared.info.get("answered", {})
    made = answered.get("splits", {}).get("train")
    if not made:
        return ""
    people = f"{made['references']:,} records with the answers of people and " if made["references"] else ""
    return f" Train has {people}{made['kept']:,} with those of {answered['teacher']['name']}."


def _predictions(path: Path) -> dict[str, str]:
    """All answers beside a result, by question id (or record id) as text."""
    said: dict[str, str] = {}
    for benchmark in ("vqa", "okvqa", "instruct"):
        beside = predictions_path(path, benchmark)
        if beside.is_file():
            said |= {f"{benchmark}:{row['question_id']}": row["answer"] for row in read_json(beside)}
    return said


def _keys(record: Any) -> tuple[str, ...]:
    benchmark = {"vqa_v2": "vqa", "ok_vqa": "okvqa"}.get(record.source, "instruct")
    return f"{benchmark}:{record.metadata.get('question_id')}", f"{benchmark}:{record.id}"
