"""The commands around a cache: what they say, what they find, what they refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from embervlm.cli import main
from embervlm.errors import UserError
from embervlm.teachers.join import join_caches
from embervlm.teachers.manage import strange
from embervlm.teachers.shards import map_arrays, write_arrays
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
    assert "cache build, cache info, cache verify, cache import, cache merge" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.raises(UserError):
        TeacherCache("nowhere")


def test_a_joined_cache_is_not_continued(tmp_path):
    """Its shards have orders of their own: a writer that did not know would begin from nothing."""
    parts = [make_cache(tmp_path / name, name, range(at, at + 3)) for at, name in ((0, "train"), (9, "val"))]
    join_caches(parts, tmp_path / "c")
    with pytest.raises(UserError, match="joined from several caches"):
        CacheWriter(tmp_path / "c", TEACHER, {"train": "train"}, {"top_k": 16}, 2, WORDS)
    assert len(TeacherCache(tmp_path / "c")) == 6


def test_verify_says_which_numbers_cannot_be():
    said = make_outputs("r", 0, 4)
    assert strange(said) == []
    for changes, words in (
        ({"realised_logprobs": said.realised_logprobs + 30}, "above 1"),
        ({"log_normalisers": said.log_normalisers + 0.3}, "sum to 1"),
        ({"log_normalisers": said.log_normalisers * [1, 1, 1, 1, 1, -1]}, "rise"),
        ({"starts": said.starts[::-1], "ends": said.ends[::-1]}, "order"),
        ({"token_ids": said.token_ids - 5000}, "no token"),
    ):
        assert any(words in found for found in strange(dataclasses.replace(said, **changes))), words


def test_verify_decodes_what_its_checksum_lets_pass(tmp_path, capsys):
    make_cache(tmp_path / "a", "train", range(7))
    shard = tmp_path / "a/vqa_batch_0.safetensors"
    columns = dict(map_arrays(shard))
    size, digest = write_arrays(shard, {**columns, "blocks": np.where(columns["blocks"] > 200, 0, columns["blocks"])})
    info = json.loads((tmp_path / "a/manifest.json").read_text())
    info["shards"][0] |= {"bytes": size, "sha256": digest}
    (tmp_path / "a/manifest.json").write_text(json.dumps(info))
    assert main(["cache", "verify", "--cache", str(tmp_path / "a")]) == 1
    assert "train-0" in capsys.readouterr().out


def test_an_entry_of_a_padded_vocabulary_comes_back_and_has_no_spelling(tmp_path):
    """Heads are padded beyond the tokenizer (151,936 rows against 151,669): such a row is no token of the text."""
    said = make_outputs("r", 0, 5)
    beyond = len(WORDS) + 90
    padded = dataclasses.replace(said, top_ids=np.where(np.arange(said.top_ids.shape[1]) == 1, beyond, said.top_ids))
    writer = CacheWriter(tmp_path / "a", TEACHER, {"train": "d"}, {"top_k": 16}, 2, WORDS)
    writer.add("vqa_batch_0.safetensors", "train", "vqa", [("r", [padded])])
    writer.finish([])
    assert main(["cache", "verify", "--cache", str(tmp_path / "a")]) == 0
    cache = TeacherCache(tmp_path / "a")
    (kept,) = cache.get("r") or []
    assert ((kept.top_ids == beyond).sum(1) == 1).all()
    assert len(cache.token_bytes()) == len(WORDS)
