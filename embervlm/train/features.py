"""Whether a run reads frozen features in place of pictures, and making those that are not there yet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from embervlm.batch.features import FeatureStore, FrozenFeatures, fingerprint, stamp_of
from embervlm.data.images import resolve_image
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.train.encode_pictures import File, fill

WORTHWHILE = 1.5
"""Looks at a picture from which on its features are kept. They pay from the second one on (docs/features.md)."""
SPARE = 1 << 30
"""Bytes that stay free on the disk, for checkpoints."""


@dataclass(frozen=True)
class Pictures:
    """Which pictures a run looks at: name -> a record that shows it, and how often it looks at one of them."""

    root: Path
    shown_by: Mapping[str, str]
    looks: float

    @classmethod
    def of(cls, root: Path, records: Iterable[Record], looks: float) -> Pictures:
        return cls(root, {record.image: record.id for record in records if record.image is not None}, looks)


@dataclass
class Missing:
    """What a store knows of some pictures."""

    keys: dict[str, bytes] = field(default_factory=dict)  # of those that are there
    files: list[File] = field(default_factory=list)  # the others


def use_frozen_features(
    settings: TrainSettings,
    model: Any,
    pictures: Pictures,
    device: torch.device,
    console: Console,
    rank: int = 0,
    ranks: int = 1,
) -> tuple[FrozenFeatures | None, list[str]]:
    """The features of all pictures, made where they are missing, and a note; None where pixels are the better choice.

    Raises:
        UserError: they are asked for and cannot be: nothing is frozen, the disk is too small, numbers beyond fp16; or
            a picture cannot be read.
    """
    if settings.frozen_features == "off" or not pictures.shown_by:
        return None, []
    asked = settings.frozen_features == "on"
    frozen = model.vision.frozen_part()
    if not len(frozen):
        if asked:
            raise UserError(
                "--frozen_features on: every block of the vision encoder is trained, so no features stay the same. "
                "Pass --unfreeze_vision 0 (or the few last blocks to train), or leave --frozen_features out."
            )
        return None, []
    store, about = open_store(settings.features_dir or settings.output_dir / "features", model)
    missing = find_missing(store, pictures)
    against = _against(store, missing, pictures, model.config.image_size, asked)
    told = _from_all((against is None, len(missing.files)), ranks)
    if not all(wanted for wanted, _ in told):
        return None, [against] if against else []
    seconds = 0.0
    made = max(count for _, count in told)
    if made:
        began = time.monotonic()
        store.describe(about)
        make = partial(
            fill, store, frozen, model.processor.image_processor, settings.dataloader_workers, device, console
        )
        make(missing.files[rank::ranks], rank)
        _from_all(None, ranks)
        store.refresh()
        if left := find_missing(store, pictures).files:  # another process's share, on the disk of another machine
            make(left, rank)
            store.refresh()
        missing = find_missing(store, pictures)
        seconds = time.monotonic() - began
    new = f", {made:,} of them new ({made / seconds:,.0f} a second)" if made else ""
    note = (
        f"Frozen features: {len(missing.keys):,} pictures{new}, {store.picture_bytes:,} bytes each, in {store.folder}. "
        f"The first {len(frozen)} blocks of the encoder are not run while training."
    )
    return store.features_of(missing.keys), [note]


def _from_all(said: Any, ranks: int) -> list[Any]:
    """What each process says, once all have said something."""
    if ranks == 1:
        return [said]
    box: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(box, said)
    return box


def _against(store: FeatureStore, missing: Missing, pictures: Pictures, side: int, asked: bool) -> str | None:
    """None where features are the better choice, else a sentence, empty where nobody wants to read one.

    Raises:
        UserError: they are asked for, and the disk is too small.
    """
    if not asked and store.picture_bytes >= 3 * side * side:
        return (
            "Frozen features are off: what the encoder's frozen blocks make of a picture is not "
            f"smaller ({store.picture_bytes:,} bytes) than its pixels. --frozen_features on keeps them all the same."
        )
    if not asked and pictures.looks * len(pictures.shown_by) < WORTHWHILE * len(missing.files):
        return ""
    problem = too_large(store, len(missing.files))
    if problem and asked:
        raise UserError(f"{problem} Pass --features_dir on a larger disk, or --frozen_features off.")
    return f"Frozen features are off: {problem}" if problem else None


def open_store(folder: Path, model: Any) -> tuple[FeatureStore, dict[str, Any]]:
    """The store of this model's frozen part below `folder`, and what it is about."""
    frozen, side = model.vision.frozen_part(), model.config.image_size
    with torch.inference_mode():
        shape = frozen(next(frozen.parameters()).new_zeros(1, 3, side, side)).shape[1:]
    about = {
        "vision": model.config.vision,
        "frozen_blocks": len(frozen),
        "pictures": model.processor.image_processor.to_dict(),
        "shape": list(shape),
    }
    return FeatureStore(folder / fingerprint(frozen, about), shape), about


def find_missing(store: FeatureStore, pictures: Pictures) -> Missing:
    """Files that have not changed since they were read are known without reading them."""
    found = Missing()
    for name, record in pictures.shown_by.items():
        try:
            path = resolve_image(pictures.root, name)
        except UserError as error:
            raise UserError(f"Record {record}: {error}") from error
        key = store.known(stamp_of(path))
        if key is not None and key in store:
            found.keys[name] = key
        else:
            found.files.append((name, record, path))
    return found


def too_large(store: FeatureStore, pictures: int) -> str | None:
    """A sentence when the disk cannot take the features of so many more pictures."""
    place = store.folder
    while not place.exists():
        place = place.parent
    need, free = pictures * store.picture_bytes, shutil.disk_usage(place).free
    if need + SPARE <= free:
        return None
    return (
        f"The features of {pictures:,} pictures take {need / 1e9:,.1f} GB ({store.picture_bytes:,} bytes each), and "
        f"{place} has {free / 1e9:,.1f} GB left, of which {SPARE / 1e9:,.1f} are kept free."
    )
