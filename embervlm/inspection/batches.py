"""`embervlm inspect`: the first batches of an epoch as the student reads them, in the terminal or as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.panel import Panel
from rich.text import Text

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset, Sample
from embervlm.batch.encode import IGNORE
from embervlm.batch.sampler import ImageMajorSampler
from embervlm.batch.teaching import Teaching, cached_teaching
from embervlm.console import console
from embervlm.data.images import load_image, resolve_image
from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.inspection.page import Shown, as_picture, teacher_words, write_page
from embervlm.inspection.rows import ROWS_LEGEND, render_row, rows_html, view_rows
from embervlm.inspection.student import open_student, positions
from embervlm.inspection.view import LEGEND, render_example, view_example
from embervlm.settings import InspectSettings, TrainSettings
from embervlm.teachers.store import TeacherCache


def run_inspect(settings: InspectSettings) -> None:
    """Shows `num_batches` batches: those that a training with the default seed sees first."""
    folder = settings.dataset_path or Path("data") / f"stage{settings.stage}"
    prepared = open_prepared(folder)
    records = prepared.records(settings.split)
    model, _ = open_student(settings.preset, settings.checkpoint)
    length = positions(model, settings.max_length)
    data = RecordDataset(records, prepared.image_root, model.processor, length)
    teaching = None
    if settings.use_cached_teacher_outputs is not None:
        cache = TeacherCache(settings.use_cached_teacher_outputs)
        cache.require(data={settings.split: prepared.fingerprint(settings.split)})
        teaching = cached_teaching(cache, data.processor.tokenizer)
    if data.without_labels:
        first = ", ".join(data.without_labels[:5])
        note = f"{len(data.without_labels)} records keep no label within {length} tokens: {first}"
        console.print(note, style="yellow", markup=False)

    order = list(ImageMajorSampler(data.records, TrainSettings.seed))
    pages = []
    for number in range(settings.num_batches):
        chosen = order[number * settings.batch_size : (number + 1) * settings.batch_size]
        if not chosen:
            console.print(f"{settings.split} has no more than {number} batches.")
            break
        samples = [data[at] for at in chosen]
        heading = f"Batch {number + 1}: {describe(samples, data, length)}"
        shown = [show(sample, data, teaching) for sample in samples]
        rows = view_rows(samples, data.processor, length)
        pages.append((heading, rows_html(rows), shown))
        console.rule(heading)
        for row_number, row in enumerate(rows, 1):
            console.print(render_row(row, row_number))
        for item in shown:
            title = f"{item.view.record_id}  {item.facts}"
            console.print(Panel(render_example(item.view, legend=False), title=Text(title), title_align="left"))
    console.print(f"{LEGEND}. {ROWS_LEGEND}", style="dim italic")
    if settings.html is not None:
        write(settings.html, write_page(f"{folder}, {settings.split}", pages))
        console.print(f"Page: {settings.html}", markup=False)


def describe(samples: Sequence[Sample], data: RecordDataset, length: int) -> str:
    """Sizes of one batch, packed and not."""
    plain, packed = (Collator(data.processor, pack_length=pack)(samples) for pack in (None, length))
    labels = int((plain["shift_labels"] != IGNORE).sum())
    pictures = 0 if plain["pixel_values"] is None else len(plain["pixel_values"])
    shapes = [f"{b['input_ids'].shape[0]} x {b['input_ids'].shape[1]}" for b in (plain, packed)]
    cut = sum(sample.encoded.truncated for sample in samples)
    return (
        f"{len(samples)} samples, {pictures} pictures, {labels} labels, rows {shapes[0]}, packed {shapes[1]}"
        f"{f', {cut} cut' if cut else ''}"
    )


def show(sample: Sample, data: RecordDataset, teaching: Teaching | None) -> Shown:
    """One sample with its picture as it was before and after preprocessing, and the teacher's words."""
    encoded, record = sample.encoded, sample.record
    outputs = targets = None
    told: tuple[str, ...] = ()
    if teaching is not None:
        (targets,) = teaching.targets([record], [encoded])
        (outputs,) = teaching.outputs([record])
        told = tuple(words for answer in targets for words in teacher_words(answer, data.processor.tokenizer))
    picture, size = None, "no picture"
    if sample.pixels is not None and record.image is not None:
        processor = data.processor.image_processor
        picture = as_picture(sample.pixels, processor.image_mean, processor.image_std)
        before = load_image(resolve_image(data.image_root, record.image)).size
        size = f"{record.image} {before[0]} x {before[1]} -> {picture.width} x {picture.height}"
    labels = int((encoded.shift_labels != IGNORE).sum())
    facts = f"{size}; {len(encoded.input_ids)} tokens, {labels} labels; {record.metadata.get('source', 'no source')}"
    return Shown(view_example(encoded, data.processor.tokenizer, outputs, targets), picture, facts, told)


def write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"The page {path} could not be written ({error.strerror}).") from None
