"""The teacher's outputs on disk: a manifest that says what they belong to, and shards of records by source.

manifest.json                  fingerprints of teacher and data, settings, one entry a file with its sha256
order.safetensors              the teacher's ids by how often they occur in the first shard
vocabulary.safetensors         the bytes of each teacher token that occurs: training needs no teacher, not even its
                               tokenizer; written when the cache is complete
llava_batch_0.safetensors ...  `codec` columns of some records of one source
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers import codec
from embervlm.teachers.manifest import (
    AGAIN,
    MANIFEST,
    ORDER,
    VERSION,
    VOCABULARY,
    file_problem,
    read_manifest,
    refuse_other,
    splits_without_shards,
    totals_of,
)
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.teachers.shards import map_arrays, write_arrays, write_whole
from embervlm.teachers.streams import joined, planes

OPEN_BLOCKS = 512
"""Blocks that a reader keeps open, about 0.15 MB each at 16 entries: a small cache is opened once."""


class TeacherCache:
    """A cache opened for reading. Cheap to send to another process: files are mapped where they are used."""

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        """Open and check every shard against its checksum (`verify`); UserError names the file that is not whole."""
        self.folder = Path(folder)
        self.info = read_manifest(self.folder)
        for entry in self.info["files"]:
            problem = file_problem(self.folder, entry, verify)
            if problem:
                raise UserError(f"teacher cache {self.folder}: {entry['name']} {problem}; {AGAIN}")
        for entry in self.info["shards"]:
            problem = file_problem(self.folder, entry, verify)
            if problem:
                raise UserError(
                    f"teacher cache {self.folder}: shard {entry['name']} {problem}; "
                    "run cache_teacher_outputs.py again, which makes this shard anew and keeps the others"
                )
        self._mapped: dict[int, codec.Columns] = {}
        self._orders: dict[str, np.ndarray] = {}
        self._blocks: OrderedDict[tuple[int, int], codec.Block] = OrderedDict()

    def get(self, record_id: str) -> list[TeacherOutputs] | None:
        """What the teacher said about each turn of a record; None where the record is not in the cache."""
        place = self._index.get(record_id)
        if place is None:
            return None
        with _decoding(self.folder / self.info["shards"][place[0]]["name"]):
            block, position = codec.place(self._shard(place[0]), place[1])
            return codec.decode(self._block(place[0], block), position, record_id, self._order_of(place[0]))

    def records(self) -> list[str]:
        """The ids of all records, in the order of the shards."""
        return list(self._index)

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.info["teacher"]["tokenizer"]

    @property
    def end_of_turn_id(self) -> int:
        return self.info["end_of_turn_id"]

    def token_bytes(self) -> list[bytes | None]:
        """What `build_token_map` asks for: the bytes of each teacher token, None = special, or not in this cache."""
        words: list[bytes | None] = [None] * self.info["vocabulary"]
        with _decoding(self.folder / VOCABULARY):
            columns = map_arrays(self.folder / VOCABULARY)
            text, sizes, special = (
                zlib.decompress(columns[name].tobytes()) for name in ("bytes", "lengths", "special")
            )
            ends = np.cumsum(np.frombuffer(sizes, dtype="<u2")).tolist()
            ids = vocabulary_ids(self.folder / VOCABULARY).tolist()
            for number, start, end, hidden in zip(ids, [0, *ends], ends, special, strict=False):
                words[number] = None if hidden else text[start:end]
        return words

    def require(
        self, teacher: Mapping[str, str] | None = None, data: Mapping[str, str] | None = None, top_k: int | None = None
    ) -> None:
        """UserError, saying what differs, unless the cache is complete and belongs to this teacher and data.

        Args:
            teacher: `Teacher.fingerprint()`, or some of its entries.
            data: split -> `PreparedSet.fingerprint(split)`, the splits that will be read.
        """
        if not self.info["complete"]:
            raise UserError(
                f"teacher cache {self.folder} was not built to its end ({len(self.info['shards'])} shards); "
                "run cache_teacher_outputs.py again: it continues where it stopped"
            )
        settings = {} if top_k is None else {"top_k": top_k}
        refuse_other(self.folder, self.info, teacher or {}, data or {}, settings, missing_splits=True)
        if empty := [split for split in data or {} if split in splits_without_shards(self.info)]:
            raise UserError(
                f"teacher cache {self.folder} lists the split {empty[0]}, but holds no record of it; "
                "run cache_teacher_outputs.py again: it adds them"
            )

    @cached_property
    def _index(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for shard, entry in enumerate(self.info["shards"]):
            with _decoding(self.folder / entry["name"]):
                found |= {name: (shard, row) for row, name in enumerate(codec.record_names(self._shard(shard)))}
        return found

    def _order_of(self, shard: int) -> np.ndarray:
        """The order of the ids that a shard was written with; each joined cache brought its own."""
        name = self.info["shards"][shard].get("order", ORDER)
        if name not in self._orders:
            with _decoding(self.folder / name):
                self._orders[name] = read_order(self.folder / name, self.info["vocabulary"])
        return self._orders[name]

    def _shard(self, number: int) -> codec.Columns:
        if number not in self._mapped:
            self._mapped[number] = map_arrays(self.folder / self.info["shards"][number]["name"])
        return self._mapped[number]

    def _block(self, shard: int, number: int) -> codec.Block:
        """The block, opened now or lately: records of one picture lie side by side and are asked for together."""
        key = (shard, number)
        if key not in self._blocks:
            self._blocks[key] = codec.open_block(self._shard(shard), number)
            if len(self._blocks) > OPEN_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_orders": {}, "_blocks": OrderedDict()}


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """A file can be whole by its checksum and yet hold what no cache has: then it was not made by this program."""
    try:
        yield
    except UserError:
        raise
    except (zlib.error, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        said = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is no part of a teacher cache ({said}); delete the folder and build it again"
        ) from error


class CacheWriter:
    """Adds shards to a folder. Whatever is written is whole: first the shard, then the manifest that names it."""

    def __init__(
        self,
        folder: str | Path,
        teacher: Mapping[str, str],
        data: Mapping[str, str],
        settings: Mapping[str, Any],
        end_of_turn_id: int,
        token_bytes: Sequence[bytes | None],
        rank: int = 0,
    ) -> None:
        """Begin a cache, or continue one of the same teacher, data and settings; UserError for any other.

        Several processes may add shards at once: each but the first one lists its own in `manifest.RANK.json`, begins
        when the first one has begun and there is an order of ids, and the first one takes these lists over.
        """
        self.folder = Path(folder)
        self._path = self.folder / (f"manifest.{rank}.json" if rank else MANIFEST)
        settings = {**settings, "temperatures": list(TEMPERATURE_GRID)}
        self.manifest: dict[str, Any] = {
            "version": VERSION,
            "teacher": dict(teacher),
            "end_of_turn_id": end_of_turn_id,
            "data": dict(data),
            "settings": settings,
            "vocabulary": len(token_bytes),
            "complete": False,
            "files": [],
            "shards": [],
        }
        begun = set(data)
        if rank:
            found = read_manifest(self.folder)
            self.manifest["data"], self.manifest["files"] = found["data"], found["files"]
        elif (self.folder / MANIFEST).exists():
            found = read_manifest(self.folder)
            refuse_other(self.folder, found, teacher, data, settings)
            if any("order" in entry for entry in found["shards"]):
                raise UserError(f"{self.folder} was joined from several caches and cannot be continued; {AGAIN}")
            order = [entry for entry in found["files"] if entry["name"] == ORDER]
            if order and not file_problem(self.folder, order[0], verify=True):  # without it no shard can be read
                kept = [entry for entry in found["shards"] if not file_problem(self.folder, entry, verify=True)]
                self.manifest["shards"], self.manifest["files"] = kept, order
            self.manifest["data"] = {**found["data"], **data}
            begun |= set(found.get("unfinished", () if found["complete"] else found["data"]))
        elif self.folder.is_dir() and any(self.folder.glob("*.safetensors")):
            raise UserError(f"{self.folder} holds files but no {MANIFEST}: it is no teacher cache; {AGAIN}")
        self.manifest["unfinished"], self._splits = sorted(begun), set(data)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._words = token_bytes
        if not rank:
            for left_over in self.folder.glob("*.tmp"):
                left_over.unlink()
            self._take_over()
        self._save()

    @property
    def has_order(self) -> bool:
        """Whether there is an order of ids; the first shard makes it."""
        return any(entry["name"] == ORDER for entry in self.manifest["files"])

    def has(self, name: str) -> bool:
        """Whether a shard of this name is listed, of whatever split."""
        return any(entry["name"] == name for entry in self.manifest["shards"])

    def placed(self) -> dict[tuple[str, str], str]:
        """(split, record) -> name of the shard that holds it. Shards that only repeat others are taken off the list."""
        found: dict[tuple[str, str], str] = {}
        kept = []
        for entry in self.manifest["shards"]:
            with _decoding(self.folder / entry["name"]):
                records = [
                    (entry["split"], name) for name in codec.record_names(map_arrays(self.folder / entry["name"]))
                ]
                if any(record not in found for record in records):
                    kept.append(entry)
                for record in records:
                    found.setdefault(record, entry["name"])
        self.manifest["shards"] = kept
        return found

    def add(self, name: str, split: str, source: str, records: Sequence[tuple[str, list[TeacherOutputs]]]) -> None:
        """Write one shard: its records' ids and outputs."""
        if not self.has_order:
            self._keep(ORDER, order_of(records))
        size, digest = write_arrays(self.folder / name, codec.encode(records, self._order))
        counted = sum(len(output) for _, turns in records for output in turns)
        entry = {"name": name, "split": split, "source": source, "records": len(records), "tokens": counted}
        self.manifest["shards"].append({**entry, "bytes": size, "sha256": digest})
        self._save()

    def finish(self, order: Sequence[str]) -> None:
        """Mark the cache complete, unless the build of another split was begun before and not brought to its end.

        Shards, also those of the other processes, are listed in this order; those of other splits keep their places.
        """
        self._take_over()
        place = {name: number for number, name in enumerate(order)}
        named = iter(sorted((e for e in self.manifest["shards"] if e["name"] in place), key=lambda e: place[e["name"]]))
        self.manifest["shards"] = [next(named) if e["name"] in place else e for e in self.manifest["shards"]]
        if self.manifest["shards"]:
            shards = (map_arrays(self.folder / entry["name"]) for entry in self.manifest["shards"])
            ranks = np.unique(np.concatenate([codec.ranks_in(columns) for columns in shards]))
            self._keep(VOCABULARY, vocabulary_of(np.sort(self._order[ranks]), self._words))
        left = [split for split in self.manifest.pop("unfinished") if split not in self._splits]
        self.manifest |= {"complete": False, "unfinished": left} if left else {"complete": True}
        self._save()

    def _take_over(self) -> None:
        """List the whole shards that other processes have added, in this run or in one that was killed."""
        parts = sorted(self.folder.glob("manifest.*.json"))
        for path in parts:
            found = json.loads(path.read_text(encoding="utf-8"))
            if any(found[key] != self.manifest[key] for key in ("version", "teacher", "settings")):
                continue
            if [e for e in found["files"] if e["name"] == ORDER] != [
                e for e in self.manifest["files"] if e["name"] == ORDER
            ]:
                continue
            whole = (entry for entry in found["shards"] if not file_problem(self.folder, entry, verify=True))
            self.manifest["shards"] += [entry for entry in whole if not self.has(entry["name"])]
        if parts:
            self._save()  # before the lists go: killed in between, they are taken over once more
        for path in parts:
            path.unlink()

    @cached_property
    def _order(self) -> np.ndarray:
        return read_order(self.folder / ORDER, self.manifest["vocabulary"])

    def _keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one of the files that all shards share."""
        size, digest = write_arrays(self.folder / name, arrays)
        others = [entry for entry in self.manifest["files"] if entry["name"] != name]
        entries = [*others, {"name": name, "bytes": size, "sha256": digest}]
        self.manifest["files"] = sorted(entries, key=lambda entry: entry["name"])

    def _save(self) -> None:
        self.manifest["totals"] = totals_of(self.manifest)
        write_whole(self._path, (json.dumps(self.manifest, indent=2) + "\n").encode())


def vocabulary_ids(path: Path) -> np.ndarray:
    """int64: the teacher's ids that a vocabulary file speaks about, rising."""
    steps = np.frombuffer(zlib.decompress(map_arrays(path)["steps"].tobytes()), dtype="<u4")
    return np.cumsum(steps, dtype=np.int64)


def vocabulary_of(ids: np.ndarray, token_bytes: Sequence[bytes | None]) -> dict[str, np.ndarray]:
    """The bytes of these ids, rising; ids beyond the tokenizer, which models have for padding, are left out."""
    ids = ids[ids < len(token_bytes)]
    words = [token_bytes[number] for number in ids.tolist()]
    return {
        "steps": _packed(np.diff(ids, prepend=0).astype("<u4").tobytes()),
        "bytes": _packed(b"".join(word or b"" for word in words)),
        "lengths": _packed(np.array([len(word or b"") for word in words], dtype="<u2").tobytes()),
        "special": _packed(bytes(word is None for word in words)),
    }


def order_of(records: codec.Records) -> dict[str, np.ndarray]:
    """The ids that occur in these records, the most frequent first: text of one kind says the same words again."""
    said = [output for _, turns in records for output in turns]
    found = np.concatenate([np.append(output.top_ids.ravel(), output.token_ids) for output in said])
    ids, counts = np.unique(found[found >= 0], return_counts=True)
    seen = ids[np.argsort(-counts, kind="stable")]
    return {"seen": _packed(np.concatenate(planes(seen, 3)).tobytes())}


def read_order(path: Path, vocabulary: int) -> np.ndarray:
    """int64: every id below the vocabulary's size, rounded up, as models pad it; those of `order_of` come first."""
    seen = joined(list(np.frombuffer(zlib.decompress(map_arrays(path)["seen"].tobytes()), np.uint8).reshape(3, -1)))
    size = 1 << max(vocabulary, int(seen.max(initial=0)) + 1).bit_length()
    return np.concatenate([seen, np.setdiff1d(np.arange(size), seen, assume_unique=True)])


def _packed(data: bytes) -> np.ndarray:
    return np.frombuffer(zlib.compress(data, 9), dtype=np.uint8)
