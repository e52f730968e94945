"""Pictures that nobody asked anything about: they borrow short questions of the set, which the teacher then answers.

A borrowed question may not fit its picture. That makes a teacher unsure, and `--min_confidence` leaves it out.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from embervlm.console import console
from embervlm.data.check_images import Decoder
from embervlm.data.images import FORMATS, resolve_image
from embervlm.data.official import image_key
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import BORROWED, Record
from embervlm.data.workers import Workers, processors
from embervlm.errors import UserError
from embervlm.evaluate.asking import progress_bar

_CHUNK = 256


def borrow(
    prepared: PreparedSet, folder: Path, questions: int, seed: int, journal: Path, processes: int | None = None
) -> list[Record]:
    """An unlabelled record for each question that a new picture borrows from train.

    Which questions a picture borrows depends on its name, the set and the seed alone: a folder that grows changes none,
    and of more questions the first are the same.

    Args:
        folder: pictures at any depth, below the image root. Those that train or val know are left out.
        questions: of each picture, fewer where train has fewer.
        journal: of the pictures that were decoded; one that cannot be is left out, and counted.

    Raises:
        UserError: the folder is not below the image root, or has no new picture; train has no short question.
    """
    known = {image_key(r.image) for split in ("train", "val") for r in prepared.records(split, True) if r.image}
    there = list(pictures_below(folder, prepared.image_root))
    keys = {image_key(name): name for name in reversed(there)}  # the same picture twice: the first
    new = [name for name in there if keys[image_key(name)] == name and image_key(name) not in known]
    whole = _whole(new, prepared.image_root, journal, processes or processors())
    if not whole:
        raise UserError(
            f"{folder} has no picture to ask about: {len(there):,} are there, {len(there) - len(new):,} of them are "
            f"known to {prepared.folder}, {len(new):,} cannot be read"
        )
    pool = questions_of(prepared.records("train", unlabelled=True))
    if not pool:
        raise UserError(f"train of {prepared.folder} has no VQA question with a picture, so there is none to borrow")
    console.print(
        f"{folder}: {len(there):,} pictures, {len(there) - len(new):,} of them known, {len(new) - len(whole):,} not "
        f"readable; the other {len(whole):,} borrow {questions} questions each",
        soft_wrap=True,
    )
    return [record for name in whole for record in borrowed(name, pool, questions, seed)]


def pictures_below(folder: Path, image_root: Path) -> Iterator[str]:
    """Files that Pillow opens by their ending, as names below the image root, in their order."""
    root, inside = os.path.realpath(image_root), os.path.realpath(folder)
    if not os.path.isdir(inside):
        raise UserError(f"--pictures {folder} is not a folder")
    if os.path.commonpath((root, inside)) != root:
        raise UserError(
            f"--pictures {folder} is not below the image root {image_root}, where records look for pictures; move it "
            "there, or prepare the set again with an --image_root that holds both"
        )
    Image.init()
    endings = tuple(ending for ending, kind in Image.EXTENSION.items() if kind in FORMATS)
    for place, folders, files in os.walk(inside):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(endings) and not name.startswith("._"):  # what macOS leaves beside each file
                yield Path(os.path.relpath(os.path.join(place, name), root)).as_posix()


def questions_of(records: Sequence[Record]) -> list[Record]:
    """Those that may be asked about any picture: single ones of VQA, whose answers are short."""
    return [
        record
        for record in records
        if record.image is not None
        and not record.conversations
        and record.short
        and record.source != BORROWED  # whose question is there already
    ]


def borrowed(picture: str, pool: Sequence[Record], questions: int, seed: int) -> Iterator[Record]:
    """Different questions, each as likely as it is often in the pool."""
    rng, seen = random.Random(f"{seed}-{picture}"), set()
    for _ in range(20 * questions):  # a pool of few texts gives fewer
        lender = pool[rng.randrange(len(pool))]
        if lender.instruction in seen:
            continue
        seen.add(lender.instruction)
        metadata = {"source": BORROWED, "borrowed_from": lender.id}
        # The id names the question, so that an answer on disk can belong to no other.
        yield Record(f"{picture}?{lender.id}", picture, lender.instruction, "", metadata=metadata)
        if len(seen) == questions:
            return


def _whole(names: Sequence[str], image_root: Path, journal: Path, processes: int) -> list[str]:
    journal.parent.mkdir(parents=True, exist_ok=True)
    bad: set[str] = set()
    with (
        Workers(processes if len(names) > _CHUNK else 1) as workers,
        Decoder(journal, workers) as decoder,
        progress_bar("looking at the pictures", len(names)) as advance,
    ):
        for start in range(0, len(names), _CHUNK):
            some, places = names[start : start + _CHUNK], {}
            for name in some:
                try:
                    places[name.encode().decode()] = resolve_image(image_root, name)
                except (UserError, UnicodeEncodeError):  # a link to the outside; a name that no record can have
                    bad.add(name)
            bad.update(decoder.reasons(places))
            advance(len(some))
    return [name for name in names if name not in bad]
