"""A manifest, or a file of a cache, that is damaged or made up is named; nothing of it ends in a traceback."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embervlm.errors import UserError
from embervlm.teachers.manifest import MANIFEST, ORDER, VOCABULARY, read_manifest
from embervlm.teachers.shards import write_arrays
from embervlm.teachers.store import CacheWriter, TeacherCache
from tests.teachers.test_codec import make_outputs

SHARD = "vqa_batch_0.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = [b"w%d" % n for n in range(2000)]
    writer = CacheWriter(tmp_path, {"name": "t", "tokenizer": "a"}, {"train": "b"}, {"top_k": 16}, 1, words)
    writer.add(SHARD, "train", "vqa_v2", [(f"r-{n}", [make_outputs(f"r-{n}", 0, 3 + n)]) for n in range(4)])
    writer.finish([])
    assert read_all(tmp_path) == 4
    return tmp_path


def read_all(folder: Path) -> int:
    cache = TeacherCache(folder)
    cache.token_bytes()
    return sum(cache.get(name) is not None for name in cache.records())


def test_a_manifest_nested_too_deeply_is_a_sentence(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(UserError, match="manifest.json cannot be read"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: info.update(teacher=[]), "teacher is list, expected dict"),
        (lambda info: info.update(complete="yes"), "complete is str"),
        (lambda info: info["teacher"].pop("tokenizer"), "the teacher has no tokenizer"),
        (lambda info: info["teacher"].update(name=5), "the teacher has no name"),
        (lambda info: info.update(vocabulary=10**12), "a vocabulary of 1000000000000 tokens"),
        (lambda info: info.update(vocabulary=0), "a vocabulary of 0 tokens"),
        (lambda info: info["files"].append(5), "a file is described as 5"),
        (lambda info: info["shards"][0].update(name={}), "a file is described as"),
        (lambda info: info["shards"][0].update(name="../x.safetensors"), "a file is described as"),
        (lambda info: info["shards"][0].update(name="x" * 5000), "a file is described as"),
        (lambda info: info["shards"][0].pop("bytes"), "a file is described as"),
        (lambda info: info["shards"][0].update(order=5), "has no name of its order"),
    ],
)
def test_a_manifest_of_other_kinds_is_damaged(folder: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    info = json.loads((folder / MANIFEST).read_text())
    change(info)
    (folder / MANIFEST).write_text(json.dumps(info))
    with pytest.raises(UserError, match=f"manifest.json is damaged: .*{said}"):
        TeacherCache(folder)


def _signed(folder: Path, name: str, content: bytes) -> None:
    """The manifest says that this is what was written."""
    (folder / name).write_bytes(content)
    info = json.loads((folder / MANIFEST).read_text())
    for entry in (*info["files"], *info["shards"]):
        if entry["name"] == name:
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(info))


@pytest.mark.parametrize("name", [SHARD, ORDER, VOCABULARY])
@pytest.mark.parametrize(
    "header",
    [b"[" * 100_000, b"{}", b"[]", b'{"seen": 5, "names": 5, "bytes": 5}', b'{"names": {"data_offsets": [{}, 1]}}'],
)
def test_a_file_that_was_made_wrong_is_a_sentence(folder: Path, name: str, header: bytes) -> None:
    """Its checksum is right: another program wrote it."""
    _signed(folder, name, len(header).to_bytes(8, "little") + header + b"x" * 100)
    with pytest.raises(UserError, match=f"{name} is (no part of a teacher cache|not a whole safetensors)"):
        read_all(folder)


def test_streams_that_cannot_be_decoded_are_a_sentence(folder: Path) -> None:
    import numpy as np

    from embervlm.teachers.shards import map_arrays

    columns = {name: np.array(column) for name, column in map_arrays(folder / SHARD).items()}
    for name, value in (
        ("names", b"no zlib"),
        ("blocks", bytes(len(columns["blocks"]))),
        ("names", zlib.compress(b"\xff")),
    ):
        write_arrays(folder / "x.safetensors", columns | {name: np.frombuffer(value, dtype=np.uint8)})
        content = (folder / "x.safetensors").read_bytes()
        (folder / "x.safetensors").unlink()
        _signed(folder, SHARD, content)
        with pytest.raises(UserError, match=f"{SHARD} is no part of a teacher cache"):
            read_all(folder)
