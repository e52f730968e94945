"""`embervlm prepare --check_images`: every picture decoded once, in processes.

What was found is kept beside the sets: a run that was stopped goes on, another subset decodes only what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from embervlm.data.archives import Member
from embervlm.data.images import Place, load_image
from embervlm.data.workers import Workers
from embervlm.errors import UserError

JOURNAL = "checked_images.jsonl"
_CHUNK = 32


def unreadable(places: Sequence[Place]) -> list[str | None]:
    """Why each picture cannot be decoded; None where it can."""
    found: list[str | None] = []
    for place in places:
        try:
            load_image(place)
            found.append(None)
        except UserError as problem:
            found.append(str(problem))
    return found


class Decoder:
    """Decodes pictures that the journal does not know as they are now, and writes each result down at once."""

    def __init__(self, journal: Path, workers: Workers) -> None:
        self._workers = workers
        self._known = dict(_read(journal))
        self._journal = journal.open("a", encoding="utf-8")
        self.decoded = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def reasons(self, places: dict[str, Place]) -> dict[str, str]:
        """Of pictures by name, those that cannot be decoded, with the reason."""
        stamps = {name: _stamp(place) for name, place in places.items()}
        new = [name for name, stamp in stamps.items() if stamp not in self._known]
        chunks = [new[i : i + _CHUNK] for i in range(0, len(new), _CHUNK)]
        work = [[places[name] for name in chunk] for chunk in chunks]
        for chunk, found in zip(chunks, self._workers.in_order(unreadable, work), strict=True):
            for name, reason in zip(chunk, found, strict=True):
                self._known[stamps[name]] = reason
                self._journal.write(json.dumps({"picture": stamps[name], "reason": reason}) + "\n")
            self._journal.flush()
            self.decoded += len(chunk)
        return {name: reason for name, stamp in stamps.items() if (reason := self._known[stamp])}


def _stamp(place: Place) -> str:
    """The file and what changes when it does."""
    status = os.stat(place.archive if isinstance(place, Member) else place)
    return f"{place}|{status.st_size}|{status.st_mtime_ns}"


def _read(journal: Path) -> Iterator[tuple[str, str | None]]:
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row: Any = json.loads(line)
            if row["reason"] is None or isinstance(row["reason"], str):
                yield str(row["picture"]), row["reason"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a run that was killed
