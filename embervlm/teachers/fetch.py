"""Files of a repository into the hub's cache, each under its checksum. What was fetched of a file is kept and goes on.

The hub's own client (2.4) begins a file anew when it is started again, and checks no checksum: of a shard of 5 GB
nothing would be left after Ctrl-C. So bytes come by its `http_get` into `blobs/DIGEST.partial`, which becomes
`blobs/DIGEST` once the digest is right; its `snapshot_download` then only links.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
)
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from embervlm.console import console
from embervlm.errors import UserError
from embervlm.teachers.hub import Entry, digest_of, storage

AT_ONCE = 4
"""Files that come at the same time."""
PATIENCE = 2.0
"""Seconds that transfers have to end once all is to stop."""


class _Stopped(Exception):
    """Another file failed, or the person pressed Ctrl-C."""


class _Counted:
    """A file that tells how much was written, and refuses more once everything is to stop."""

    def __init__(self, file: Any, tell: Callable[[int], None], stop: threading.Event) -> None:
        self._file, self._tell, self._stop = file, tell, stop

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise _Stopped
        self._tell(len(data))
        return self._file.write(data)

    def seek(self, place: int) -> int:
        self._tell(place - self._file.tell())  # the server begins anew: what was there does not count
        return self._file.seek(place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def blob(source: str, entry: Entry) -> Path:
    """Where the cache keeps a file's bytes."""
    return storage(source) / "blobs" / entry.digest


def partial(source: str, entry: Entry) -> Path:
    """Where a file lies until it is whole."""
    return blob(source, entry).with_name(f"{entry.digest}.partial")


def missing_bytes(source: str, files: Mapping[str, Entry]) -> int:
    """What is still to be fetched of these files."""

    def there(entry: Entry) -> int:
        if not entry.digest:
            return 0
        return max((path.stat().st_size for path in (blob(source, entry), partial(source, entry)) if path.is_file()),
                   default=0)  # fmt: skip

    return sum(max(entry.size - there(entry), 0) for entry in files.values())


def check_files(source: str, revision: str, files: Mapping[str, Entry]) -> tuple[dict[str, Path], dict[str, str]]:
    """Of the files in the cache, where each lies, and what is wrong with some, as the end of a sentence."""
    found = {}
    for name in files:
        path = huggingface_hub.try_to_load_from_cache(source, name, revision=revision)
        if isinstance(path, str):
            found[name] = Path(path)
    wrong = {}
    with _bar("checking", sum(path.stat().st_size for path in found.values())) as tell:
        for name, path in found.items():
            entry, size = files[name], path.stat().st_size
            if size != entry.size:
                wrong[name] = f"has {size:,} bytes, not {entry.size:,}"
            elif entry.digest and (digest := digest_of(path, entry.digest, tell)) != entry.digest:
                wrong[name] = f"has checksum {digest[:12]}..., not {entry.digest[:12]}..."
    return found, wrong


def discard(path: Path) -> None:
    """Delete a file of the cache, the link and what it leads to."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def fetch_files(source: str, revision: str, files: Mapping[str, Entry]) -> None:
    """Fetch these files, several at a time. After Ctrl-C or an error whole files and parts of files stay.

    Raises:
        UserError: a file arrives damaged twice.
        Exception: what the hub's client raises.
    """
    told = {entry.digest: (name, entry) for name, entry in files.items() if entry.digest}  # two names of one content
    begun = [partial(source, entry) for _, entry in told.values()]
    had = sum(path.stat().st_size for path in begun if path.is_file())
    stop = threading.Event()
    with _bar("fetching", sum(entry.size for _, entry in told.values()), had) as tell:
        waiting, ended = iter(told.values()), queue.SimpleQueue[BaseException | None]()
        taking = threading.Lock()

        def work() -> None:
            while not stop.is_set():
                with taking:
                    job = next(waiting, None)
                if job is None:
                    return
                try:
                    _fetch(source, revision, *job, tell, stop)
                    ended.put(None)
                except BaseException as error:
                    ended.put(error)

        # Daemons: one that waits for a silent server must not keep a person waiting who has pressed Ctrl-C.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
        try:
            for thread in threads:
                thread.start()
            for _ in told:
                if (error := ended.get()) is not None:
                    raise error
        except BaseException:
            stop.set()
            until = time.monotonic() + PATIENCE
            for thread in threads:
                if thread.ident is not None:  # it was begun
                    thread.join(max(0.0, until - time.monotonic()))
            raise


def _fetch(
    source: str, revision: str, name: str, entry: Entry, tell: Callable[[int], None], stop: threading.Event
) -> None:
    target, part = blob(source, entry), partial(source, entry)
    if target.is_file() and target.stat().st_size == entry.size and digest_of(target, entry.digest) == entry.digest:
        tell(entry.size)
        return
    target.unlink(missing_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    for attempt in (1, 2):
        if stop.is_set():
            raise _Stopped
        if part.is_file() and part.stat().st_size > entry.size:
            tell(-part.stat().st_size)
            part.unlink()
        with part.open("ab") as file:
            http_get(
                huggingface_hub.hf_hub_url(source, name, revision=revision),
                _Counted(file, tell, stop),  # type: ignore[arg-type]
                resume_size=file.tell(),
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},  # ranges of the file, not of its zip
                expected_size=entry.size,
                displayed_filename=name,
            )
        digest = digest_of(part, entry.digest)
        if digest == entry.digest:
            part.replace(target)
            return
        part.unlink()
        tell(-entry.size)
        if attempt == 1:
            console.print(f"[yellow]note[/] {name} arrived damaged and is fetched again", soft_wrap=True)
    raise UserError(
        f"{name} of {source} arrived damaged twice: its checksum is {digest[:12]}..., the hub says "
        f"{entry.digest[:12]}...; it was deleted. Is there a proxy in between? Run this again: the others are kept."
    )


@contextmanager
def _bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """One bar with rate and remaining time over all files, instead of the client's one for each."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda count: bar.update(task, advance=count)
    finally:
        if not silent:
            enable_progress_bars()
