"""The cache on disk: whole or not at all, resumable, and never the wrong one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.cli import main
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record, write_records
from embervlm.errors import UserError
from embervlm.teachers.cache import TeacherCache, build_cache
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.registry import load_teacher
from embervlm.tokens import token_bytes
from tests.tiny_teacher import make_tiny_teacher

TURNS = (("What color is it?", "red"), ("Is it a star?", "No."))


def make_prepared(folder: Path, extra: str = "") -> PreparedSet:
    folder.mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    vqa = [
        Record(f"vqa-{n}", f"{n % 2}.png", f"How many {n}?", str(n) + extra, metadata={"source": "vqa_v2"})
        for n in range(7)
    ]
    llava = [Record("llava-0", "0.png", *TURNS[0], conversations=TURNS, metadata={"source": "llava_instruct"})]
    other = [Record("mine-0", None, "Hello?", "Yes, 東京.", metadata={"source": "my own/set"})]
    write_records(folder / "train.jsonl", [*vqa, *llava, *other])
    write_records(folder / "val.jsonl", [Record("vqa-90", "1.png", "Is it?", "yes", metadata={"source": "vqa_v2"})])
    return PreparedSet(folder, folder, {})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> HFTeacher:
    loaded = load_teacher(str(make_tiny_teacher(tmp_path_factory.mktemp("teacher"))))
    assert isinstance(loaded, HFTeacher)
    return loaded


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedSet:
    return make_prepared(tmp_path_factory.mktemp("data") / "stage2")


def build(teacher, prepared: PreparedSet, folder: Path, splits=("train", "val"), **options):
    options = {"top_k": 6, "batch_size": 3, "progress": False, "shard_records": 3, **options}
    return build_cache(teacher, prepared, splits, folder, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_record_of_every_split_comes_back(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    summary = build(teacher, prepared, tmp_path / "cache")
    cache = TeacherCache(tmp_path / "cache")
    records = prepared.records("train") + prepared.records("val")
    assert len(cache) == summary.records == len(records) and summary.reused == 0
    assert cache.get("absent") is None and "vqa-90" in cache
    scored = teacher.score(records, prepared.image_root, 6)
    for record, turns in zip(records, scored, strict=True):
        kept = cache.get(record.id)
        assert kept is not None and [o.turn for o in kept] == [o.turn for o in turns]
        for a, b in zip(kept, turns, strict=True):
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            np.testing.assert_array_equal(a.ends, b.ends)
            np.testing.assert_allclose(a.top_logprobs, b.top_logprobs, atol=0.2)
    tokens = sum(len(output) for turns in scored for output in turns)
    assert summary.tokens == tokens and summary.bytes_per_token == summary.bytes / tokens
    assert cache.info["totals"]["bytes_per_token"] == round(summary.bytes_per_token, 2)
    names = [entry["name"] for entry in cache.info["shards"]]
    assert names == [f"vqa_batch_{n}.safetensors" for n in range(3)] + [
        "llava_batch_0.safetensors",
        "my_own_set_batch_0.safetensors",
        "vqa_batch_3.safetensors",
    ]


def test_the_teachers_vocabulary_travels_with_the_cache(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    """Training from a cache must not need the teacher, which may be on another machine."""
    build(teacher, prepared, tmp_path / "cache", splits=["val"])
    cache = TeacherCache(tmp_path / "cache")
    words, kept = token_bytes(teacher.tokenizer), cache.token_bytes()
    said = [turn for record in prepared.records("val") for turn in cache.get(record.id) or []]
    occur = {int(token) for turn in said for token in (*turn.top_ids.ravel(), *turn.token_ids)}
    assert len(kept) == len(words) and len(occur) > 10
    assert all(kept[token] == words[token] for token in occur if token < len(words))
    assert cache.end_of_turn_id == teacher.end_of_turn_id
    assert cache.tokenizer_fingerprint == teacher.fingerprint()["tokenizer"]


class Killed(Exception):
    pass


class Mortal:
    """A teacher that dies after some batches."""

    def __init__(self, teacher: HFTeacher, batches: int) -> None:
        self.teacher, self.batches = teacher, batches

    def __getattr__(self, name: str):
        return getattr(self.teacher, name)

    def score(self, records, image_root, top_k):
        if self.batches == 0:
            raise Killed
        self.batches -= 1
        return self.teacher.score(records, image_root, top_k)


@pytest.mark.parametrize("batches", [0, 1, 3, 5])
def test_a_killed_build_continues_and_ends_with_the_same_files(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, batches: int
):
    build(teacher, prepared, tmp_path / "whole")
    with pytest.raises(Killed):
        build(Mortal(teacher, batches), prepared, tmp_path / "killed")
    with pytest.raises(UserError, match="not built to its end"):
        TeacherCache(tmp_path / "killed").require()
    (tmp_path / "killed" / "vqa_batch_9.safetensors.1.tmp").write_bytes(b"torn")
    summary = build(teacher, prepared, tmp_path / "killed")
    assert summary.reused == {0: 0, 1: 3, 3: 7, 5: 9}[batches]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    TeacherCache(tmp_path / "killed").require()


def test_a_second_build_asks_nobody(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    build(teacher, prepared, tmp_path / "cache")
    before = files(tmp_path / "cache")
    summary = build(Mortal(teacher, 0), prepared, tmp_path / "cache")
    assert summary.reused == summary.records
    assert files(tmp_path / "cache") == before


def test_another_split_is_added_to_what_is_there(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    build(teacher, prepared, tmp_path / "cache", splits=["train"])
    assert build(teacher, prepared, tmp_path / "cache").reused == 9
    cache = TeacherCache(tmp_path / "cache")
    cache.require(data={split: prepared.fingerprint(split) for split in ("train", "val")})


def in_full(folder: Path, prepared: PreparedSet) -> None:
    """Every record of both splits is there, under its own split, and no file holds one twice."""
    cache = TeacherCache(folder)
    cache.require(data={split: prepared.fingerprint(split) for split in ("train", "val")})
    wanted = {split: [record.id for record in prepared.records(split)] for split in ("train", "val")}
    assert sorted(cache.records()) == sorted(wanted["train"] + wanted["val"])
    for split, records in wanted.items():
        assert sum(e["records"] for e in cache.info["shards"] if e["split"] == split) == len(records)


def test_split_by_split_is_the_cache_that_is_built_at_once(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    """Names of shards began at 0 in each build: those of train passed for val's, and val was listed but not there."""
    build(teacher, prepared, tmp_path / "whole")
    build(teacher, prepared, tmp_path / "cache", splits=["train"])
    assert build(teacher, prepared, tmp_path / "cache", splits=["val"]).reused == 0
    assert files(tmp_path / "cache") == files(tmp_path / "whole")
    for splits in (["val"], ["train"], ["val", "train"]):  # and a part of it, asked for again, changes nothing
        asked = build(Mortal(teacher, 0), prepared, tmp_path / "cache", splits=splits)
        assert asked.reused == asked.records
    in_full(tmp_path / "cache", prepared)


@pytest.mark.parametrize("first", ["train", "val"])
def test_splits_come_in_any_order(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, first: str):
    build(teacher, prepared, tmp_path / "cache", splits=[first])
    count = len(prepared.records(first))
    assert build(teacher, prepared, tmp_path / "cache", splits=["val", "train"]).reused == count
    in_full(tmp_path / "cache", prepared)


def test_a_cache_that_lists_a_split_and_lacks_it_is_noticed_and_filled(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, capsys
):
    """As earlier versions left them."""
    build(teacher, prepared, tmp_path / "cache", splits=["train"])
    manifest = tmp_path / "cache" / "manifest.json"
    info = json.loads(manifest.read_text())
    info["data"]["val"] = prepared.fingerprint("val")
    manifest.write_text(json.dumps(info))
    assert main(["cache", "verify", "--cache", str(tmp_path / "cache")]) == 1
    assert "it lists the split val, but holds no record of it" in capsys.readouterr().out
    cache = TeacherCache(tmp_path / "cache")
    cache.require(data={"train": prepared.fingerprint("train")})
    with pytest.raises(UserError, match="lists the split val, but holds no record of it; run .* again"):
        cache.require(data=info["data"])
    build(teacher, prepared, tmp_path / "cache", splits=["val"])
    in_full(tmp_path / "cache", prepared)


def test_verify_counts_the_records_of_the_data_that_are_missing(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, capsys
):
    """Under the right fingerprint, too."""
    build(teacher, prepared, tmp_path / "cache")
    (prepared.folder / "dataset.json").write_text('{"image_root": "."}')
    words = ["cache", "verify", "--cache", str(tmp_path / "cache"), "--dataset_path", str(prepared.folder)]
    assert main(words) == 0
    manifest = tmp_path / "cache" / "manifest.json"
    info = json.loads(manifest.read_text())
    gone = info["shards"].pop(1)
    info["totals"]["records"] -= gone["records"]
    manifest.write_text(json.dumps(info))
    assert main(words) == 1
    assert f"{gone['records']} records of train in" in " ".join(capsys.readouterr().out.split())


def test_a_shard_that_only_repeats_others_goes(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    """As earlier versions wrote them, whose splits came in another order the second time."""
    build(teacher, prepared, tmp_path / "cache")
    before = files(tmp_path / "cache")
    info = json.loads(before["manifest.json"])
    entry = info["shards"][2]
    info["shards"].append({**entry, "name": "vqa_batch_4.safetensors"})
    (tmp_path / "cache" / "vqa_batch_4.safetensors").write_bytes(before[entry["name"]])
    (tmp_path / "cache" / "manifest.json").write_text(json.dumps(info))
    build(Mortal(teacher, 0), prepared, tmp_path / "cache")
    assert (tmp_path / "cache" / "manifest.json").read_bytes() == before["manifest.json"]
    in_full(tmp_path / "cache", prepared)


def test_a_cache_is_complete_when_every_split_that_was_begun_is(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, capsys
):
    """A build of train that was killed, then one of val: the cache said that it was complete."""
    with pytest.raises(Killed):
        build(Mortal(teacher, 3), prepared, tmp_path / "cache", splits=["train"])
    build(teacher, prepared, tmp_path / "cache", splits=["val"], progress=True)
    assert "an earlier build of train was not finished" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="not built to its end"):
        TeacherCache(tmp_path / "cache").require()
    build(teacher, prepared, tmp_path / "cache", splits=["train"])
    in_full(tmp_path / "cache", prepared)


def test_a_flipped_bit_is_found_and_only_that_shard_is_made_again(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path
):
    build(teacher, prepared, tmp_path / "cache")
    before = files(tmp_path / "cache")
    shard = tmp_path / "cache" / "vqa_batch_1.safetensors"
    data = bytearray(shard.read_bytes())
    data[-20] ^= 4
    shard.write_bytes(data)
    with pytest.raises(UserError, match="vqa_batch_1.safetensors is damaged"):
        TeacherCache(tmp_path / "cache")
    shard.write_bytes(data[:-3])
    with pytest.raises(UserError, match="vqa_batch_1.safetensors has .* bytes, not"):
        TeacherCache(tmp_path / "cache", verify=False)
    shard.unlink()
    with pytest.raises(UserError, match="vqa_batch_1.safetensors is missing"):
        TeacherCache(tmp_path / "cache")
    assert build(teacher, prepared, tmp_path / "cache").reused == 7
    assert files(tmp_path / "cache") == before


def test_a_cache_of_another_teacher_is_refused(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, tmp_path_factory
):
    build(teacher, prepared, tmp_path / "cache")
    other = load_teacher(str(make_tiny_teacher(tmp_path_factory.mktemp("other"), seed=1)))
    with pytest.raises(UserError, match="does not belong here: teacher weights is .*, asked for"):
        build(other, prepared, tmp_path / "cache")
    with pytest.raises(UserError, match="teacher weights"):
        TeacherCache(tmp_path / "cache").require(teacher=other.fingerprint())
    TeacherCache(tmp_path / "cache").require(teacher={**teacher.fingerprint(), "name": "the same in another folder"})


@pytest.mark.parametrize("part", ["tokenizer", "template"])
def test_a_cache_of_another_tokenizer_or_template_is_refused(
    teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, part: str
):
    build(teacher, prepared, tmp_path / "cache", splits=["val"])
    with pytest.raises(UserError, match=f"teacher {part} is .*, asked for 0123"):
        TeacherCache(tmp_path / "cache").require(teacher={**teacher.fingerprint(), part: "0123"})


def test_a_cache_of_other_data_is_refused(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    build(teacher, prepared, tmp_path / "cache", splits=["train"])
    changed = make_prepared(tmp_path / "changed", extra="!")
    with pytest.raises(UserError, match="data of split train is"):
        build(teacher, changed, tmp_path / "cache")
    cache = TeacherCache(tmp_path / "cache")
    with pytest.raises(UserError, match="data of split train is"):
        cache.require(data={"train": changed.fingerprint("train")})
    with pytest.raises(UserError, match="data of split val is None"):
        cache.require(data={"val": prepared.fingerprint("val")})


def test_a_cache_with_other_settings_is_refused(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    build(teacher, prepared, tmp_path / "cache")
    with pytest.raises(UserError, match="top_k is 6, asked for 9"):
        build(teacher, prepared, tmp_path / "cache", top_k=9)
    with pytest.raises(UserError, match="top_k is 6, asked for 9"):
        TeacherCache(tmp_path / "cache").require(top_k=9)


def test_a_folder_that_is_no_cache_is_a_sentence(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        TeacherCache(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no manifest.json"):
        TeacherCache(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        TeacherCache(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(UserError, match="version 0"):
        TeacherCache(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"somebody's weights")
    with pytest.raises(UserError, match="it is no teacher cache"):
        build(teacher, prepared, tmp_path)


def test_a_cache_can_be_sent_to_a_loader_process(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path):
    build(teacher, prepared, tmp_path / "cache", splits=["val"])
    cache = TeacherCache(tmp_path / "cache")
    assert cache.get("vqa-90") is not None
    sent = pickle.dumps(cache)
    assert len(sent) < 5_000, "the shards themselves must not be sent"
    (ours,), (theirs,) = cache.get("vqa-90"), pickle.loads(sent).get("vqa-90")
    np.testing.assert_array_equal(ours.top_ids, theirs.top_ids)


def test_progress_tells_the_rate_and_the_cost(teacher: HFTeacher, prepared: PreparedSet, tmp_path: Path, capsys):
    build(teacher, prepared, tmp_path / "cache", progress=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "bytes a token" in said and "samples/s" in said and "10 records" in said
