"""What the frozen part of the vision tower makes of each picture, on disk: computed once, fp16, memory-mapped.

encoder.json            what the features belong to, for people; the folder's name is its fingerprint
0a1b...safetensors      "keys" uint8 [n, 16] and "features" float16 [n, c, h, w]: one contiguous block a picture
files-0.jsonl           [path, bytes, modified, key] of each file that was read, so that it is not read again to know it

A key is a hash of the file's bytes: what a picture is called and where it lies does not matter. Parts appear whole or
not at all, and several processes may write theirs at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embervlm.data.archives import Member
from embervlm.data.images import Place
from embervlm.errors import UserError
from embervlm.teachers.shards import map_arrays, write_arrays, write_whole

VERSION = 1
"""Raised when the preprocessing of pictures or the layout of the files changes."""
KEY_BYTES = 16
PART_BYTES = 32 << 20
"""A file of features is closed at this size: what a killed run loses at most, and what a writer holds in memory."""

Stamp = tuple[str, int, int]
"""A file as it was when it was read: path, bytes, time of its last change in nanoseconds."""


def fingerprint(frozen: nn.Module, about: Mapping[str, Any]) -> str:
    """16 hex digits over the frozen weights and over how pictures are prepared for them."""
    digest = hashlib.blake2b(json.dumps([VERSION, about], sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted(frozen.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def stamp_of(place: Place) -> Stamp:
    found = (place.archive if isinstance(place, Member) else place).stat()
    return str(place), found.st_size, found.st_mtime_ns


def content_key(place: Place) -> bytes:
    """A hash of the picture's bytes."""
    data = place.read() if isinstance(place, Member) else place.read_bytes()
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


class FrozenFeatures:
    """Picture's name -> float16 [c, h, w]. Cheap to send to another process: files are mapped where they are used."""

    def __init__(self, parts: Sequence[Path], places: Mapping[str, tuple[int, int]]) -> None:
        self._parts = list(parts)
        self._places = dict(places)
        self._mapped: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Tensor:
        place = self._places.get(name)
        if place is None:
            raise UserError(f"No frozen features of the picture {name!r} were made; pass --frozen_features off.")
        part, row = place
        if part not in self._mapped:
            self._mapped[part] = map_arrays(self._parts[part])["features"]
        return torch.from_numpy(np.array(self._mapped[part][row]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}


class FeatureStore:
    """The folder of one encoder: which pictures are there, and a place for more.

    Args:
        folder: made when something is written; a part that is not whole is deleted, its pictures are missing then.
        shape: c, h, w of one picture's features.
    """

    def __init__(self, folder: Path, shape: Sequence[int]) -> None:
        self.folder = Path(folder)
        self.shape = tuple(shape)
        self.refresh()

    @property
    def picture_bytes(self) -> int:
        return 2 * int(np.prod(self.shape))

    @property
    def rows_of_a_part(self) -> int:
        return max(1, PART_BYTES // self.picture_bytes)

    def refresh(self) -> None:
        """Look again at what the folder holds."""
        self.parts: list[Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            keys = self._keys_of(path)
            if keys is None:
                path.unlink(missing_ok=True)
                continue
            for row, key in enumerate(keys):
                self._places.setdefault(key.tobytes(), (len(self.parts), row))
            self.parts.append(path)
        self._seen: dict[Stamp, bytes] = {}
        for path in self.folder.glob("files-*.jsonl"):
            for line in path.read_bytes().splitlines():
                with suppress(ValueError, TypeError, RecursionError):  # the last line of a killed run, or damaged
                    name, size, changed, key = json.loads(line)
                    self._seen[name, size, changed] = bytes.fromhex(key)

    def _keys_of(self, path: Path) -> np.ndarray | None:
        """None of a file that is cut off or of another shape."""
        try:
            arrays = map_arrays(path)
            keys, features = arrays["keys"], arrays["features"]
        except (UserError, KeyError):
            return None
        whole = features.shape == (len(keys), *self.shape) and keys.shape == (len(keys), KEY_BYTES)
        return keys if whole and features.dtype == np.float16 else None

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def known(self, stamp: Stamp) -> bytes | None:
        """The key of a file that was read before and has not changed since."""
        return self._seen.get(stamp)

    def keys(self) -> frozenset[bytes]:
        return frozenset(self._places)

    def describe(self, about: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "encoder.json", (json.dumps(about, indent=1) + "\n").encode())

    def write(self, keys: Sequence[bytes], features: np.ndarray) -> Path:
        """One part, under a name that follows from its keys."""
        table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
        path = self.folder / f"{hashlib.blake2b(table.tobytes(), digest_size=8).hexdigest()}.safetensors"
        write_arrays(path, {"keys": table, "features": features.astype(np.float16, copy=False)})
        return path

    def note(self, stamps: Sequence[tuple[Stamp, bytes]], rank: int = 0) -> None:
        """Remember which file has which key."""
        with (self.folder / f"files-{rank}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([*stamp, key.hex()]) + "\n" for stamp, key in stamps)
            file.flush()
            os.fsync(file.fileno())

    def features_of(self, keys: Mapping[str, bytes]) -> FrozenFeatures:
        """Picture's name -> key, for the loader."""
        return FrozenFeatures(self.parts, {name: self._places[key] for name, key in keys.items()})
