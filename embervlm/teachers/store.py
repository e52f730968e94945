"""The teacher's outputs on disk: a manifest that says what they belong to, and shards of records by source.

manifest.json                  fingerprints of teacher and data, settings, one entry a shard with its sha256
vocabulary.safetensors         the bytes of each teacher token: training needs no teacher, not even its tokenizer
llava_batch_0.safetensors ...  `codec` columns of some records of one source
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers import codec
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.teachers.shards import map_arrays, sha256, write_arrays, write_whole

MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.safetensors"
VERSION = 1

_AGAIN = "run cache_teacher_outputs.py again with another --output_dir, or delete the folder first"


class TeacherCache:
    """A cache opened for reading. Cheap to send to another process: files are mapped where they are used."""

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        """Open and check every shard against its checksum (`verify`); UserError names the file that is not whole."""
        self.folder = Path(folder)
        self.info = read_manifest(self.folder)
        for entry in self.info["shards"]:
            problem = shard_problem(self.folder, entry, verify)
            if problem:
                raise UserError(
                    f"teacher cache {self.folder}: shard {entry['name']} {problem}; "
                    "run cache_teacher_outputs.py again, which makes this shard anew and keeps the others"
                )
        self._mapped: dict[int, codec.Columns] = {}

    def get(self, record_id: str) -> list[TeacherOutputs] | None:
        """What the teacher said about each turn of a record; None where the record is not in the cache."""
        place = self._index.get(record_id)
        return None if place is None else codec.decode(self._shard(place[0]), place[1], record_id)

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
        """The bytes of each teacher token, None = special; what `build_token_map` asks for."""
        columns = map_arrays(self.folder / VOCABULARY)
        text, ends = columns["bytes"].tobytes(), columns["ends"].tolist()
        words = (text[start:end] for start, end in zip([0, *ends], ends, strict=False))
        return [None if special else word for word, special in zip(words, columns["special"].tolist(), strict=True)]

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

    @cached_property
    def _index(self) -> dict[str, tuple[int, int]]:
        return {
            name: (shard, row)
            for shard in range(len(self.info["shards"]))
            for row, name in enumerate(codec.record_names(self._shard(shard)))
        }

    def _shard(self, number: int) -> codec.Columns:
        if number not in self._mapped:
            self._mapped[number] = map_arrays(self.folder / self.info["shards"][number]["name"])
        return self._mapped[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}


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
    ) -> None:
        """Begin a cache, or continue one of the same teacher, data and settings; UserError for any other."""
        self.folder = Path(folder)
        settings = {**settings, "temperatures": list(TEMPERATURE_GRID)}
        self.manifest: dict[str, Any] = {
            "version": VERSION,
            "teacher": dict(teacher),
            "end_of_turn_id": end_of_turn_id,
            "data": dict(data),
            "settings": settings,
            "complete": False,
            "shards": [],
        }
        if (self.folder / MANIFEST).exists():
            found = read_manifest(self.folder)
            refuse_other(self.folder, found, teacher, data, settings)
            kept = [entry for entry in found["shards"] if not shard_problem(self.folder, entry, verify=True)]
            self.manifest["shards"] = kept
            self.manifest["data"] = {**found["data"], **data}
        elif self.folder.is_dir() and any(self.folder.glob("*.safetensors")):
            raise UserError(f"{self.folder} holds files but no {MANIFEST}: it is no teacher cache; {_AGAIN}")
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob("*.tmp"):
            left_over.unlink()
        words = [word or b"" for word in token_bytes]
        vocabulary: dict[str, np.ndarray] = {
            "bytes": np.frombuffer(b"".join(words), dtype=np.uint8),
            "ends": np.cumsum([len(word) for word in words], dtype=np.uint32),
            "special": np.array([word is None for word in token_bytes], dtype=np.uint8),
        }
        write_arrays(self.folder / VOCABULARY, vocabulary)
        self._save()

    def has(self, name: str) -> bool:
        return any(entry["name"] == name for entry in self.manifest["shards"])

    def add(self, name: str, split: str, source: str, records: Sequence[tuple[str, list[TeacherOutputs]]]) -> None:
        """Write one shard: its records' ids and outputs."""
        size, digest = write_arrays(self.folder / name, codec.encode(records))
        counted = sum(len(output) for _, turns in records for output in turns)
        entry = {"name": name, "split": split, "source": source, "records": len(records), "tokens": counted}
        self.manifest["shards"].append({**entry, "bytes": size, "sha256": digest})
        self._save()

    def finish(self, order: Sequence[str]) -> None:
        """Mark the cache complete; shards are listed in this order."""
        place = {name: number for number, name in enumerate(order)}
        self.manifest["shards"].sort(key=lambda entry: place.get(entry["name"], len(place)))
        self.manifest["complete"] = True
        self._save()

    def _save(self) -> None:
        counted = {key: sum(entry[key] for entry in self.manifest["shards"]) for key in ("records", "tokens", "bytes")}
        per_token = round(counted["bytes"] / max(counted["tokens"], 1), 2)
        self.manifest["totals"] = {**counted, "bytes_per_token": per_token}
        write_whole(self.folder / MANIFEST, (json.dumps(self.manifest, indent=2) + "\n").encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a cache; UserError where there is none, or it is not one of this version."""
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise UserError(f"teacher cache {folder} {what}; make it with cache_teacher_outputs.py --output_dir {folder}")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info["version"]
        missing = {"teacher", "data", "settings", "shards", "complete", "end_of_turn_id"} - set(info)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_AGAIN}") from None
    if version != VERSION or missing:
        raise UserError(f"{path} is of version {version}, this program reads {VERSION}; {_AGAIN}")
    return info


def refuse_other(
    folder: Path,
    info: Mapping[str, Any],
    teacher: Mapping[str, Any],
    data: Mapping[str, str],
    settings: Mapping[str, Any],
    missing_splits: bool = False,
) -> None:
    """UserError naming every fingerprint or setting in which the cache differs from what is asked for.

    Paths of one and the same teacher may differ, so its name is told, but not compared.
    """
    pairs = [(f"teacher {key}", info["teacher"].get(key), value) for key, value in teacher.items() if key != "name"]
    pairs += [
        (f"data of split {split}", info["data"].get(split), value)
        for split, value in data.items()
        if missing_splits or split in info["data"]
    ]
    pairs += [(key, info["settings"].get(key), value) for key, value in settings.items()]
    differences = [f"{what} is {found}, asked for {wanted}" for what, found, wanted in pairs if found != wanted]
    if differences:
        name = info["teacher"].get("name")
        raise UserError(
            f"teacher cache {folder}, made with teacher {name}, does not belong here: {'; '.join(differences)}. "
            f"To make one that does, {_AGAIN}"
        )


def shard_problem(folder: Path, entry: Mapping[str, Any], verify: bool) -> str:
    """What is wrong with a shard, as the end of a sentence; empty: nothing."""
    path = folder / entry["name"]
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes, not the {entry['bytes']} that were written"
    if verify and sha256(path) != entry["sha256"]:
        return "is damaged: its checksum differs from the manifest's"
    return ""
