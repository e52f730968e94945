"""Running the frozen part of the vision tower over pictures, decoded in the background, into a `FeatureStore`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from embervlm.batch.features import FeatureStore, Stamp, content_key, stamp_of
from embervlm.data.images import Place, load_image
from embervlm.errors import UserError

BATCH = 16
File = tuple[str, str, Place]
"""A picture's name, a record that shows it, and where it is."""


def fill(
    store: FeatureStore,
    frozen: nn.Module,
    image_processor: Any,
    workers: int,
    device: torch.device,
    console: Console,
    files: Sequence[File],
    rank: int = 0,
) -> None:
    """Run the frozen part over the files and write what it makes, decoding in the background.

    What was made is kept when this is stopped.
    """
    from timm.utils.model import reparameterize_model  # convolutions with their BatchNorm folded in: a copy

    encoder = reparameterize_model(frozen).eval().to(device)
    loader: Any = torch.utils.data.DataLoader(
        _Files(files, image_processor, store.keys()),  # type: ignore[arg-type]
        batch_size=BATCH,
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=_leave_ctrl_c,
    )
    writer = _Writer(store, rank)
    with _bar(console, len(files)) as advance, torch.inference_mode():
        try:
            for items in loader:
                new = {key: pixels for _, key, pixels in items if pixels is not None and key not in writer.made}
                maps = encoder(torch.stack(list(new.values())).to(device)).half() if new else None
                writer.add([(stamp, key) for stamp, key, _ in items], list(new), maps)
                advance(len(items))
        finally:
            writer.flush()


class _Writer:
    """Collects features until they fill a part."""

    def __init__(self, store: FeatureStore, rank: int) -> None:
        self.store = store
        self.rank = rank
        self.made: set[bytes] = set()
        self._keys: list[bytes] = []
        self._maps: list[np.ndarray] = []
        self._stamps: list[tuple[Stamp, bytes]] = []

    def add(self, stamps: list[tuple[Stamp, bytes]], keys: list[bytes], maps: Tensor | None) -> None:
        self._stamps += stamps
        if maps is not None:
            if not torch.isfinite(maps).all():
                raise UserError(
                    f"The encoder makes numbers beyond fp16 of {stamps[0][0][0]} or of one of the {len(stamps) - 1} "
                    "pictures after it: its weights may be damaged. --frozen_features off trains on pixels."
                )
            self.made.update(keys)
            self._keys += keys
            self._maps.append(maps.cpu().numpy())
        if len(self._keys) >= self.store.rows_of_a_part:
            self.flush()

    def flush(self) -> None:
        try:
            if self._keys:
                self.store.write(self._keys, np.concatenate(self._maps))
            if self._stamps:
                self.store.note(self._stamps, self.rank)
        except OSError as error:
            raise UserError(f"The frozen features in {self.store.folder} could not be written ({error}).") from error
        self._keys, self._maps, self._stamps = [], [], []


class _Files(torch.utils.data.Dataset[Any]):
    """(stamp, key, pixels [3, H, W]) of each file; no pixels where the store has that content already."""

    def __init__(self, files: Sequence[File], image_processor: Any, there: frozenset[bytes]) -> None:
        self.files = files
        self.image_processor = image_processor
        self.there = there

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Stamp, bytes, Tensor | None]:
        _, record, path = self.files[index]
        stamp, key = stamp_of(path), content_key(path)
        if key in self.there:
            return stamp, key, None
        try:
            picture = load_image(path)
        except UserError as error:
            raise UserError(f"Record {record}: {error}") from error
        return stamp, key, self.image_processor(picture, return_tensors="pt")["pixel_values"][0]


def _leave_ctrl_c(worker: int) -> None:
    """Ctrl-C is the main process's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the rate of this process; call what it gives with the number of pictures done."""
    columns = (
        TextColumn("frozen features"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    begin, done = time.monotonic(), 0
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance(pictures: int) -> None:
            nonlocal done
            done += pictures
            bar.update(task, advance=pictures, rate=f"{done / max(time.monotonic() - begin, 1e-9):,.1f} pictures/s")

        yield advance
