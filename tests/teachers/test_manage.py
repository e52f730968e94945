"""The commands around a cache: what they say, what they find, what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from embervlm.cli import main
from embervlm.errors import UserError
from embervlm.teachers.store import CacheWriter, TeacherCache
from tests.teachers.test_codec import make_outputs

TEACHER = {"name": "t", "weights": "w", "tokenizer": "k", "template": "m"}
WORDS = [f"w{number}".encode() for number in range(2000)]


def make_cache(folder: Path, split: str, numbers: range, data: str | None = None, **teacher: str) -> TeacherCache:
    writer = CacheWriter(folder, {**TEACHER, **teacher}, {split: data or split}, {"top_k": 16}, 2, WORDS)
    records = [(f"{split}-{n}", [make_outputs(f"{split}-{n}", 0, 3 + n % 5, seed=n)]) for n in numbers]
    writer.add("vqa_batch_0.safetensors", split, "vqa", records)
    writer.finish(["vqa_batch_0.safetensors"])
    return TeacherCache(folder)


def test_info_says_what_a_cache_belongs_to(tmp_path, capsys):
    make_cache(tmp_path / "a", "train", range(7))
    assert main(["cache", "info", "--cache", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("teacher weights", "7 records", "bytes a token", "vqa", "yes"))


def test_verify_finds_a_flipped_bit_and_passes_a_whole_cache(tmp_path, capsys):
    make_cache(tmp_path / "a", "train", range(7))
    command = ["cache", "verify", "--cache", str(tmp_path / "a")]
    assert main(command) == 0
    assert "7 records" in capsys.readouterr().out
    shard = tmp_path / "a/vqa_batch_0.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(bytes(data))
    assert main(command) == 1
    assert "vqa_batch_0.safetensors is damaged" in capsys.readouterr().out


def test_verify_finds_numbers_that_no_teacher_says(tmp_path, capsys):
    writer = CacheWriter(tmp_path / "a", TEACHER, {"train": "d"}, {"top_k": 16}, 2, WORDS)
    said = make_outputs("r", 0, 3)
    writer.add("x.safetensors", "train", "vqa", [("r", [dataclasses.replace(said, ends=said.starts - 1)])])
    writer.finish([])
    assert main(["cache", "verify", "--cache", str(tmp_path / "a")]) == 1
    assert "record r: tokens out of order" in capsys.readouterr().out


def test_merged_caches_say_what_they_said_apart(tmp_path):
    """Each with its own order of ids: shards are copied as they are, nothing is rounded twice."""
    parts = [make_cache(tmp_path / "a", "train", range(40)), make_cache(tmp_path / "b", "val", range(100, 108))]
    out = tmp_path / "c"
    assert main(["cache", "merge", "--caches", f"{tmp_path / 'a'},{tmp_path / 'b'}", "--output_dir", str(out)]) == 0
    merged = TeacherCache(out)
    merged.require(data={"train": "train", "val": "val"})
    assert len(merged) == 48
    for part in parts:
        for name in part.records():
            (before,), (after,) = part.get(name), merged.get(name)
            for field in dataclasses.fields(before):
                np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))
        words = part.token_bytes()
        assert all(merged.token_bytes()[number] == word for number, word in enumerate(words) if word is not None)
    assert main(["cache", "verify", "--cache", str(out)]) == 0


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ({"split": "val", "weights": "other"}, "teacher weights is other, asked for w"),
        ({"split": "train", "data": "other half"}, "pass --dataset_path"),
        ({"split": "train", "numbers": range(3)}, "are in more than one"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(tmp_path, capsys, second, sentence):
    make_cache(tmp_path / "a", "train", range(3))
    make_cache(tmp_path / "b", **{"numbers": range(10, 13), **second})
    words = ["cache", "merge", "--caches", f"{tmp_path / 'a'},{tmp_path / 'b'}", "--output_dir", str(tmp_path / "c")]
    assert main(words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "c").exists()


def test_the_word_after_cache_is_asked_for(capsys):
    assert main(["cache", "--top_k", "4"]) == 2
    assert "cache build, cache info, cache verify, cache merge" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError):
        TeacherCache("nowhere")
