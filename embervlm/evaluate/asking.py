"""Put questions to a system: in batches of similar length, over several processes, and without losing an answer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from embervlm.console import errors as error_console
from embervlm.evaluate.answerers import Answerer
from embervlm.journal import Journal, read_journal
from embervlm.processes import ALONE, Processes

if TYPE_CHECKING:
    from embervlm.data.record import Record


class Unfinished:
    """The answers of an evaluation that is under way, in one folder beside its result; `remove` it in the end.

    Each process writes files of its own, and an evaluation that was stopped goes on with all of them, whatever the
    number of processes now.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], processes: Processes = ALONE) -> None:
        """`about`: what an answer depends on, as JSON can hold it; answers about something else are not used."""
        self.folder, self.about, self.processes = folder, json.loads(json.dumps(about)), processes

    def part(self, name: str, records: Sequence[Record], max_new_tokens: int) -> Kept:
        """The answers of one system to one benchmark; every process calls this with the same arguments."""
        about = {"part": name, "asked": _digest(records), "max_new_tokens": max_new_tokens, **self.about}
        known: dict[str, str] = {}
        if self.processes.rank == 0:
            for path in sorted(self.folder.glob(f"{name}.*.jsonl")):
                there, rows = read_journal(path)
                if there == about:
                    known.update((row["id"], row["answer"]) for row in rows)
        # All must agree on what is left before anyone writes.
        known = self.processes.share(known)
        return Kept(Journal(self.folder / f"{name}.{self.processes.rank}.jsonl", about, restart=True), known)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Kept:
    """`answers` by record id: those of all processes when it was opened, then this process's too."""

    def __init__(self, journal: Journal, answers: dict[str, str]) -> None:
        self._journal, self.answers = journal, answers

    def add(self, answers: Mapping[str, str]) -> None:
        self._journal.add({"id": record, "answer": text} for record, text in answers.items())
        self.answers.update(answers)


def ask(
    answerer: Answerer,
    records: Sequence[Record],
    image_root: Path,
    max_new_tokens: int,
    batch_size: int = 32,
    title: str | None = None,
    *,
    kept: Kept | None = None,
    processes: Processes = ALONE,
    seed: int | None = None,
) -> list[str]:
    """One answer per record, asked in batches of similar length; the same on every process.

    Args:
        title: show a progress bar under this name.
        kept: answers that are there already, and where new ones are kept.
        processes: each asks its share of the batches.
        seed: of each batch, for a system that samples: the answers are then the same after a stop and on any number
            of processes. None: the random numbers are left alone.
    """
    order = sorted(range(len(records)), key=lambda at: (records[at].image is None, len(records[at].instruction)))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    known = {} if kept is None else dict(kept.answers)
    left = [(number, batch) for number, batch in enumerate(batches) if any(records[at].id not in known for at in batch)]
    mine: dict[int, str] = {}
    with progress_bar(title if processes.rank == 0 else None, len(records)) as advance:
        advance(len(records) - sum(len(batch) for _, batch in left))
        for number, batch in left[processes.rank :: processes.count]:
            if seed is not None:
                torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:7], "big"))
            said = answerer.answers([records[at] for at in batch], image_root, max_new_tokens)
            mine.update(zip(batch, said, strict=True))
            if kept is not None:
                kept.add({records[at].id: text for at, text in zip(batch, said, strict=True)})
            advance(len(batch) * processes.count)
    answers = {at: known[record.id] for at, record in enumerate(records) if record.id in known}
    for part in processes.gather(mine):
        answers.update(part)
    return [answers[at] for at in range(len(records))]


def _digest(records: Sequence[Record]) -> str:
    asked = "\n".join(f"{record.id}\t{record.image}\t{record.instruction}" for record in records)
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@contextmanager
def progress_bar(title: str | None, total: int) -> Iterator[Any]:
    """Yields a function that is told how many more are done; no title, no bar."""
    if title is None:
        yield lambda count: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=error_console, transient=True
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
