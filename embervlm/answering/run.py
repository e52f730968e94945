"""`embervlm answer`: a prepared set in, the same set with the teacher's answers out."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from embervlm.answering.ask import Asking, ask_all, jobs_of, plan
from embervlm.answering.borrow import borrow
from embervlm.answering.choose import Choice, Example, Tally, check_confidences, check_ids, choose
from embervlm.answering.said import Key, Said, SaidFile
from embervlm.console import console
from embervlm.data.check_images import JOURNAL
from embervlm.data.images import resolve_image
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.data.writing import check_target, write_prepared
from embervlm.device import pick_device
from embervlm.errors import UserError
from embervlm.options import as_dict
from embervlm.teachers.cache import asking_bar
from embervlm.teachers.outputs import Teacher, batch_of, check_records
from embervlm.teachers.registry import load_teacher, loading_options

if TYPE_CHECKING:
    from embervlm.settings import AnswerSettings

SPLITS = ("train", "val")
_REASONS = {
    "kept": "kept",
    "unsure": "the teacher is unsure of",
    "filtered": "agree too little",
    "duplicates": "said before of the same record",
    "empty": "empty",
    "cut": "cut off by the length limit",
}
_COUNTS = {"asked": "asked", **_REASONS, "references": "reference records kept", "records": "records of the new set"}
SHOWN = 3
"""Examples in the summary, of the answers kept and of those filtered."""


def run_answer(settings: AnswerSettings) -> None:
    """Check everything that can be checked without the teacher, then load it, ask it, and write the set."""
    prepared = open_prepared(settings.dataset_path)
    folder = settings.output_dir / prepared.folder.resolve().name
    _check(settings, prepared, folder)
    limits = settings.min_agreement, settings.min_confidence
    choice = Choice(settings.teacher_model, settings.samples, *limits, settings.references, settings.ask)
    read = {split: prepared.records(split, unlabelled=True) for split in settings.splits}
    if settings.pictures is not None:
        read["train"] = [*read["train"], *_borrowed(settings, prepared)]
    # A split without gaps is carried over like one that is not named.
    read = {split: records for split, records in read.items() if any(map(choice.asks, records))}
    if not read:
        raise UserError(
            f"every record of {' and '.join(settings.splits)} in {prepared.folder} has an answer, so --ask unlabelled "
            "asks nothing; leave --ask out, and all are asked"
        )
    asked = {split: list(filter(choice.asks, records)) for split, records in read.items()}
    for records in read.values():
        check_ids(records, choice)
    for records in asked.values():
        check_pictures(records, prepared.image_root)
    for split in SPLITS:
        prepared.records(split, unlabelled=split in asked)
    teacher = load_teacher(settings.teacher_model, pick_device(settings.device), **loading_options(settings))
    for records in asked.values():
        check_records(teacher, records)
    teacher.batch_size = settings.batch_size
    size = batch_of(teacher, settings.batch_size)
    answer_set(teacher, prepared, folder, read, _asking(settings), choice, size, as_dict(settings))


def answer_set(
    teacher: Teacher,
    prepared: PreparedSet,
    folder: Path,
    read: Mapping[str, Sequence[Record]],
    asking: Asking,
    choice: Choice,
    batch_size: int = 32,
    settings: Mapping[str, object] | None = None,
) -> PreparedSet:
    """Ask for what is missing, choose, write `folder`. All that was said is in `<folder>.answers.jsonl` beside it.

    Args:
        read: split -> its records, of which those that `choice` asks about are asked; the other splits of `SPLITS` are
            carried over as they are.
        settings: to be written into dataset.json.

    Raises:
        UserError: the answers that are there are of another teacher, data or asking; the teacher tells no probability
            and `choice` needs it; no answer is good enough.
    """
    about = {
        "teacher": teacher.fingerprint(),
        # Of every split: a run about one goes on with the other.
        "data": {split: prepared.fingerprint(split) for split in SPLITS if prepared.path(split).is_file()},
        # With more samples a run goes on: each answer has its number.
        "settings": {name: value for name, value in asdict(asking).items() if name != "samples"},
    }
    said = SaidFile(folder.with_name(f"{folder.name}.answers.jsonl"), about)
    asked = {split: list(filter(choice.asks, records)) for split, records in read.items()}
    jobs = jobs_of(asked, asking.samples)
    check_confidences({key: said.answers[key] for key, _ in jobs if key in said.answers}, choice)
    batches = plan([job for job in jobs if job[0] not in said.answers], batch_size)
    there, begin = len(said.answers), time.perf_counter()
    total = sum(map(len, batches))

    def add(answers: Mapping[Key, Said]) -> None:
        check_confidences(answers, choice)  # before the next batch, not after hours of them
        said.add(answers)

    with asking_bar(teacher.name, total, bool(batches)) as tell:
        ask_all(teacher, batches, prepared.image_root, asking, add, tell)
    seconds = time.perf_counter() - begin
    splits, tallies = {}, {}
    for split in dict.fromkeys((*SPLITS, *read)):
        if split in read:
            splits[split], tallies[split] = choose(split, read[split], said.answers, choice)
        else:
            splits[split] = prepared.records(split)
    options = {name: value for name, value in (settings or {}).items() if name not in ("output_dir", "device")}
    answered = about | {"options": options, "splits": {s: t.to_json() for s, t in tallies.items()}}
    more = {"settings": prepared.info.get("settings", {}), "answered": answered}
    made = write_prepared(folder, prepared.image_root, splits, more)
    _summarise(made, tallies, choice)
    rate = f"{total / seconds:.1f} samples/s" if total else "nothing was asked"
    console.print(f"{said.path}: {len(said.answers):,} answers ({there:,} were there), {rate}", soft_wrap=True)
    return made


def _borrowed(settings: AnswerSettings, prepared: PreparedSet) -> list[Record]:
    assert settings.pictures is not None
    journal = settings.output_dir / JOURNAL
    made = borrow(prepared, settings.pictures, settings.questions_per_picture, settings.seed, journal)
    if not settings.min_confidence:
        console.print(
            "[yellow]note[/] a borrowed question may not fit its picture; --min_confidence 0.75 leaves out what the "
            "teacher is not sure of",
            soft_wrap=True,
        )
    return made


def check_pictures(records: Sequence[Record], image_root: Path) -> None:
    """UserError, with their number, where pictures are missing: before hours of asking."""
    missing = []
    for name in sorted({record.image for record in records if record.image is not None}):
        try:
            resolve_image(image_root, name)
        except UserError as problem:
            missing.append(str(problem))
    if missing:
        raise UserError(f"{len(missing):,} pictures cannot be shown to the teacher. The first: {missing[0]}")


def _check(settings: AnswerSettings, prepared: PreparedSet, folder: Path) -> None:
    if folder.resolve() == prepared.folder.resolve():
        raise UserError(
            f"--output_dir {settings.output_dir} would replace {prepared.folder} by its answers; choose another one"
        )
    check_target(folder)
    if settings.pictures is not None and "train" not in settings.splits:
        raise UserError(f"--pictures {settings.pictures} become records of train; leave --splits val out")
    if settings.samples > 1 and not settings.do_sample:
        raise UserError(f"--samples {settings.samples} greedy answers would all be the same; add --do_sample")


def _asking(settings: AnswerSettings) -> Asking:
    """Without sampling, its options change nothing: two such runs are the same."""
    if not settings.do_sample:
        return Asking(settings.max_new_tokens)
    sampled = (settings.samples, True, settings.temperature, settings.top_p, settings.seed)
    return Asking(settings.max_new_tokens, *sampled)


def _summarise(made: PreparedSet, tallies: Mapping[str, Tally], choice: Choice) -> None:
    table = Table(f"answers of {escape(choice.teacher)}", *tallies)
    for name, title in _COUNTS.items():
        counts = [(getattr(tally, name), tally.asked) for tally in tallies.values()]
        shares = (f" ({count / asked:.1%})" if name in _REASONS else "" for count, asked in counts)
        table.add_row(title, *(f"{count:,}{share}" for (count, _), share in zip(counts, shares, strict=True)))
    console.print(table)
    for split, tally in tallies.items():
        means = ", ".join(
            f"{escape(source)} {sum(values) / len(values):.3f} of {len(values):,}"
            for source, values in sorted(tally.agreements.items())
        )
        if means:
            console.print(f"{split}: mean agreement {means}; kept from {choice.min_agreement:g} on", soft_wrap=True)
        if tally.sure:
            console.print(_confidences(split, tally))
        for what, examples in tally.examples.items():
            drawn = random.Random(0).sample(examples, min(SHOWN, len(examples)))
            console.print(_examples(f"{split}: some {what}", drawn))
    if made.folder.name in ("stage1", "stage2"):
        console.print(f"wrote {made.folder}; train on it with --data_dir {made.folder.parent}", soft_wrap=True)
    else:
        console.print(f"wrote {made.folder}", soft_wrap=True)


def _confidences(split: str, tally: Tally) -> Table:
    """What helps to choose --min_confidence."""
    table = Table("confidence", "of all answers", "agreement", title=f"{split}: how sure", title_justify="left")
    for limit, told in tally.by_confidence().items():
        agreed = f"{told['agreement']:.3f}" if "agreement" in told else ""
        table.add_row(f">= {limit}", f"{told['share']:.1%}", agreed)
    return table


def _examples(title: str, examples: Sequence[Example]) -> Table:
    heads = ("question", "reference", "the teacher", "agreement", "confidence")
    table = Table(*heads, title=title, title_justify="left")
    for example in examples:
        numbers = ("" if one is None else f"{one:.2f}" for one in (example.agreement, example.confidence))
        texts = (_short(text) for text in (example.question, example.reference, example.said))
        table.add_row(*texts, *numbers)
    return table


def _short(text: str) -> str:
    words = " ".join(text.split())
    return escape(words if len(words) <= 120 else words[:117] + "...")
