"""`embervlm inspect`: batches of a training as the student reads them, in the terminal or as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embervlm.batch.dataset import RecordDataset
from embervlm.batch.pack import lay_out, pack
from embervlm.batch.sampler import ImageMajorSampler, parse_weights
from embervlm.console import console
from embervlm.data.images import load_image, resolve_image
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.device import pick_device
from embervlm.errors import UserError
from embervlm.inspection.expected import positions_of
from embervlm.inspection.gather import Batch, Seen, Teachers, gather
from embervlm.inspection.marks import Names, legible
from embervlm.inspection.notices import Setting, look
from embervlm.inspection.page import About, Part, Shown, as_picture, render_page, write_page
from embervlm.inspection.rows import ROWS_LEGEND, render_row, view_rows
from embervlm.inspection.student import open_student, positions
from embervlm.inspection.terminal import LEGEND, render_notices, render_sample
from embervlm.inspection.view import view_example
from embervlm.lesson import Lesson, open_lesson, told_without
from embervlm.settings import InspectSettings
from embervlm.teachers.several import caches_in
from embervlm.teachers.store import MANIFEST, TeacherCache


def run_inspect(settings: InspectSettings) -> None:
    """Shows `num_batches` batches, those that a training with the same seed reads."""
    folder = settings.dataset_path or settings.data_dir / f"stage{settings.stage}"
    prepared = open_prepared(folder)
    if settings.image_root is not None:
        prepared = replace(prepared, image_root=settings.image_root)
    records = prepared.records(settings.split)
    model, student = open_student(settings.preset, settings.checkpoint)
    length = positions(model, settings.max_length)
    data = RecordDataset(records, prepared.image_root, model.processor, length)
    lesson, notes = find_lesson(settings, prepared, model.processor)
    teachers = Teachers.of(lesson)
    for note in notes:
        console.print(legible(note), markup=False)
    setting = Setting(
        length, positions(model, 1 << 40), settings.pack, settings.batch_size, len(teachers.names),
        tuple(data.without_labels), len(records),
    )  # fmt: skip
    per_batch = replace(setting, without_labels=())
    order = ImageMajorSampler(
        data.records, settings.seed, settings.pack, parse_weights(settings.source_weights, data.records)
    )

    parts: list[Part] = []
    show = Shower(data, teachers, settings)
    batches = gather(
        data, order, teachers, first=settings.first_batch, count=settings.num_batches,
        batch_size=settings.batch_size, row_length=settings.max_length if settings.pack else None,
    )  # fmt: skip
    for batch in batches:
        heading = describe(batch, data, settings.max_length, settings.pack)
        part = Part(batch, heading, [show(seen) for seen in batch.seen], view_rows(batch), look([batch], per_batch))
        parts.append(part)
        print_batch(part, teachers.names)
    if len(parts) < settings.num_batches:
        console.print(f"An epoch of {settings.split} has no more than {-(-len(order) // settings.batch_size)} batches.")
    console.print(f"{LEGEND}. {ROWS_LEGEND}.", style="dim italic")
    everything = look([part.batch for part in parts], setting)
    if everything and (len(parts) > 1 or setting.without_labels):
        console.rule("All batches together")
        console.print(render_notices(everything))
    if settings.html is not None:
        about = About(
            title=legible(f"{folder}, {settings.split}"),
            lead=f"Stage {settings.stage}, batches of {settings.batch_size}, seed {settings.seed}, student {student}, "
            f"max_length {settings.max_length}, {'packed' if settings.pack else 'a row for each sample'}.",
            figures=figures([part.batch for part in parts], teachers),
            teachers=list(zip(teachers.names, teachers.shares, strict=True)),
            notes=notes,
            temperature=settings.distillation_temperature,
            trained=teachers.trained,
            notices=everything,
        )
        write_page(settings.html, render_page(about, parts))
        console.print(f"Page: {settings.html}", markup=False, soft_wrap=True)


def find_lesson(settings: InspectSettings, prepared: PreparedSet, processor: Any) -> tuple[Lesson | None, list[str]]:
    """The teachers that the settings name; none named, those whose caches lie in `output_dir` and are about this data.
    Also what people are told about them."""
    if settings.disable_distillation:
        return None, [told_without(settings.stage)]
    beside = settings.output_dir / f"stage{settings.stage}/teacher_outputs"
    notes: list[str] = []
    named = (settings.teacher_model, settings.use_cached_teacher_outputs, settings.teacher_weights)
    if not any(named):
        found, notes = _caches_beside(beside, prepared, settings.split)
        if not found:
            how = "Name one with --teacher_model or --use_cached_teacher_outputs to see its targets."
            return None, [*notes, f"No teacher: there is no cache in {beside} about this data. {how}"]
        settings = replace(settings, use_cached_teacher_outputs=found)
    lesson = open_lesson(settings, beside, prepared, processor, pick_device("auto"), (settings.split,))
    return lesson, [*notes, *lesson.note.split("\n")]


def _caches_beside(folder: Path, prepared: PreparedSet, split: str) -> tuple[tuple[Path, ...], list[str]]:
    """The caches in a folder that are about this data, and why the others are not used."""
    found, notes = [], []
    for place in caches_in(folder):
        if not (place / MANIFEST).is_file():
            continue
        try:
            TeacherCache(place).require(data={split: prepared.fingerprint(split)})
            found.append(place)
        except UserError as problem:
            notes.append(f"Not used: {problem}")
    return tuple(found), notes


class Shower:
    """Makes what people see of a sample."""

    def __init__(self, data: RecordDataset, teachers: Teachers, settings: InspectSettings) -> None:
        self._data = data
        self._teachers = teachers
        self._temperature = settings.distillation_temperature
        self._names = Names(data.processor.tokenizer)

    def __call__(self, seen: Seen) -> Shown:
        encoded, record = seen.sample.encoded, seen.sample.record
        first = seen.said[0] if seen.said else None
        view = view_example(encoded, self._data.processor.tokenizer, seen.outputs, first, seen.whole)
        answers = positions_of(seen, self._names, self._temperature, self._teachers.trained)
        picture, size = None, "no picture" if record.image is None else "picture cannot be read"
        if seen.sample.pixels is not None and record.image is not None:
            processor = self._data.processor.image_processor
            picture = as_picture(seen.sample.pixels, processor.image_mean, processor.image_std)
            before = load_image(resolve_image(self._data.image_root, record.image)).size
            size = f"{before[0]} x {before[1]} -> {picture.width} x {picture.height}"
        facts = f"{size} · {len(encoded.input_ids)} tokens, {seen.labels} labels"
        return Shown(view, answers, facts, seen.source, seen.problem, picture, record.image, seen.picture)


def print_batch(part: Part, teachers: Sequence[str]) -> None:
    console.rule(f"Batch {part.batch.number}: {part.heading}", style="bold")
    if part.notices:
        console.print(render_notices(part.notices))
    for number, row in enumerate(part.rows, 1):
        console.print(render_row(row, number))
    for shown in part.shown:
        console.print(render_sample(shown, teachers))


def describe(batch: Batch, data: RecordDataset, row_length: int, packed: bool) -> str:
    """Sizes of one batch, packed and not."""
    encoded = [seen.sample.encoded for seen in batch.seen]
    shared = 1 + data.processor.num_image_tokens
    other = lay_out(encoded, shared) if packed else pack(encoded, shared, row_length)
    longest = max(len(row.input_ids) for row in other)
    mine, others = f"{len(batch.rows)} x {batch.longest}", f"{len(other)} x {longest}"
    labels = sum(seen.labels for seen in batch.seen)
    cut = sum(seen.sample.encoded.truncated for seen in batch.seen)
    return (
        f"{len(batch.seen)} samples, {len(batch.shown)} pictures, {labels} labels, "
        f"rows {others if packed else mine}, packed {mine if packed else others}"
        f"{f', {cut} cut' if cut else ''}"
    )


def figures(batches: Sequence[Batch], teachers: Teachers) -> list[tuple[str, str]]:
    """The numbers at the top of the page."""
    every = [seen for batch in batches for seen in batch.seen]
    labels = sum(seen.labels for seen in every)
    slots, used = sum(batch.slots for batch in batches), sum(batch.used for batch in batches)
    found = [
        (f"{len(every):,}", "samples"),
        (f"{len({seen.picture for seen in every if seen.picture is not None}):,}", "pictures"),
        (f"{labels:,}", "labels"),
        (f"{used / max(slots, 1):.0%}", "of the slots filled"),
        (f"{sum(seen.sample.encoded.truncated for seen in every) / max(len(every), 1):.0%}", "of the samples cut"),
    ]
    if teachers.names:
        told = sum(seen.targets for seen in every) / max(labels, 1)
        found.append((f"{told:.0%}", "of the labels with a target"))
    return found
