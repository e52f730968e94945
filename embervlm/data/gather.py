"""The records of one source, checked, measured and laid down as lines in a file: memory holds what choosing needs.

Rows are parsed, checked and measured in processes; pictures and ids are checked here, in the order of the rows.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from embervlm.data.check_images import Decoder
from embervlm.data.choose import picture_of
from embervlm.data.images import Place, plain_name
from embervlm.data.listing import Listing
from embervlm.data.measure import Numbers, join, measure
from embervlm.data.official import Piece, Reject, Source
from embervlm.data.record import Record
from embervlm.data.workers import Workers
from embervlm.errors import UserError

_LOOKED_AT = 10_000
"""Pictures after which a source without a single one of them stops: the image root is wrong."""


@dataclass(frozen=True)
class Made:
    """What became of a piece: lines of the good rows, and the bad ones."""

    piece_file: str
    unit: str
    rows: list[int]
    lines: list[bytes]  # JSON of the unified format with its newline
    ids: list[str]
    images: list[str | None]
    kinds: list[str | None]  # answer types
    sources: list[str]
    numbers: Numbers
    rejects: list[Reject]


def make(piece: Piece, image_tokens: int, root: Path) -> Made:
    """One piece, in whatever process. Here every picture gets its one name below the image root."""
    rows, records, lines, rejects = [], [], [], []
    for number, made in piece.records():
        if isinstance(made, Record):
            if made.image is not None and (name := plain_name(made.image, root)) != made.image:
                made = replace(made, image=name)
            try:
                line = (json.dumps(made.to_json(), ensure_ascii=False) + "\n").encode("utf-8")
            except UnicodeEncodeError:  # half a surrogate pair, as "\ud83d" in JSON
                made = Reject(piece.file, number, "a text is not valid Unicode", piece.unit)
            except RecursionError:
                made = Reject(piece.file, number, "nested too deeply", piece.unit)
            else:
                rows.append(number)
                records.append(made)
                lines.append(line)
        if isinstance(made, Reject):
            rejects.append(made)
    return Made(
        piece.file,
        piece.unit,
        rows,
        lines,
        [record.id for record in records],
        [record.image for record in records],
        [record.answer_type for record in records],
        [record.source for record in records],
        measure(records, image_tokens),
        rejects,
    )


@dataclass
class Gathered:
    """The good records of one source in the order of their files. Lists and arrays are parallel."""

    name: str
    spool: Path
    ends: list[int] = field(default_factory=list)  # of each line in the spool, in bytes
    pictures: list[str] = field(default_factory=list)  # see choose.picture_of
    kinds: list[str | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    images: set[str] = field(default_factory=set)  # names as the records have them
    rejects: list[Reject] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)  # pictures that cannot be used
    parts: list[Numbers] = field(default_factory=list)
    rows: int = 0

    def __len__(self) -> int:
        return len(self.ends)

    def numbers(self) -> Numbers:
        """Of all records."""
        if len(self.parts) != 1:
            self.parts = [join(self.parts)]
        return self.parts[0]

    def lines(self, chosen: Iterable[int]) -> Iterator[bytes]:
        """The lines of some records, by index."""
        if not self.ends:
            return
        with self.spool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as spool:
            for i in chosen:
                yield spool[self.ends[i - 1] if i else 0 : self.ends[i]]


class Checks:
    """What is looked at across rows: ids, and the pictures of the image root."""

    def __init__(self, root: Path, look: bool, decoder: Decoder | None = None) -> None:
        self.root = root
        self._listing = Listing(root) if look else None
        self._decoder = decoder
        self._reasons: dict[str, str | None] = {}
        self._ids: set[str] = set()

    def new_stage(self) -> None:
        """Ids must differ within a stage."""
        self._ids.clear()

    def look(self, images: Iterable[str]) -> None:
        """Looks for pictures that nobody has asked about yet, and decodes them where that is wanted."""
        if self._listing is None:
            return
        there: dict[str, Place] = {}
        for image in images:
            if image not in self._reasons:
                self._reasons[image] = None
                try:
                    there[image] = self._listing.resolve(image)
                except UserError as problem:
                    self._reasons[image] = str(problem)
        if self._decoder:
            self._reasons |= self._decoder.reasons(there)

    def reason(self, image: str) -> str | None:
        """Why a picture that was looked for cannot be used."""
        return self._reasons.get(image)

    def is_new(self, record_id: str) -> bool:
        """Whether the id was not taken; it is now."""
        if record_id in self._ids:
            return False
        self._ids.add(record_id)
        return True


@dataclass(frozen=True)
class Gatherer:
    """How sources are gathered."""

    checks: Checks
    image_tokens: int
    workers: Workers
    strict: bool

    def gather(self, into: Gathered, source: Source, advance: Callable[[int], None]) -> None:
        """All rows of a source. `advance(rows)` is called as they are done.

        Raises:
            UserError: the first bad row, where `strict`; not one of the first pictures is there.
        """
        work = partial(make, image_tokens=self.image_tokens, root=self.checks.root)
        with into.spool.open("ab") as spool:
            place = spool.tell()
            for made in self.workers.in_order(work, source.pieces()):
                self.checks.look(image for image in made.images if image is not None)
                kept, rejects = self._check(made, into)
                for i in kept:
                    place += len(made.lines[i])
                    into.ends.append(place)
                    into.pictures.append(picture_of(made.ids[i], made.images[i]))
                    into.kinds.append(made.kinds[i])
                    into.sources.append(made.sources[i])
                spool.write(b"".join([made.lines[i] for i in kept]))
                into.parts.append(
                    made.numbers if len(kept) == len(made.lines) else made.numbers.take(np.array(kept, dtype=np.int64))
                )
                into.rejects += sorted(rejects, key=lambda reject: reject.row)
                into.rows += len(made.lines) + len(made.rejects)
                if self.strict and into.rejects:
                    raise UserError(
                        f"a row cannot be used: {into.rejects[0]}; mend it or leave out --strict, which stops at the "
                        "first"
                    )
                if len(into.missing) >= _LOOKED_AT and not into.images:
                    self.none_there(into)
                advance(len(made.lines) + len(made.rejects))
        if into.missing and not into.images:
            self.none_there(into)

    def _check(self, made: Made, into: Gathered) -> tuple[list[int], list[Reject]]:
        kept, rejects = [], list(made.rejects)
        for i, (record_id, image) in enumerate(zip(made.ids, made.images, strict=True)):
            reason = None if image is None else self.checks.reason(image)
            if image is not None:
                (into.missing if reason else into.images).add(image)
            if reason is None and not self.checks.is_new(record_id):
                reason = f"the id {record_id!r} came before"
            if reason is None:
                kept.append(i)
            else:
                rejects.append(Reject(made.piece_file, made.rows[i], reason, made.unit))
        return kept, rejects

    def none_there(self, into: Gathered) -> None:
        """The image root is wrong."""
        first = self.checks.reason(min(into.missing))
        raise UserError(f"none of the {len(into.missing):,} pictures of {into.name} can be used: {first}")
