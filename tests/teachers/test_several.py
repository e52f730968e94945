"""Several teachers by name: whose number is whose, and where each cache lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embervlm import cli
from embervlm.errors import UserError
from embervlm.options import parse
from embervlm.settings import CacheSettings, TrainSettings
from embervlm.teachers.several import cache_home, caches_in, find_cache, folder_name, parse_teachers, same_teacher
from embervlm.teachers.store import VERSION, TeacherCache
from tests.teachers.test_instructblip import save_instructblip
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import make_world


@pytest.mark.parametrize(
    ("given", "weights", "found"),
    [
        ("toy-llava", None, [("toy-llava", 1.0)]),
        (["a:0.6", "b:0.4"], None, [("a", 0.6), ("b", 0.4)]),
        (["a:3", "b:1"], None, [("a", 0.75), ("b", 0.25)]),
        (["a", "b"], None, [("a", 0.5), ("b", 0.5)]),
        (["a", "b"], (0.6, 0.4), [("a", 0.6), ("b", 0.4)]),
        (["a:1e-1", "b:.9"], None, [("a", 0.1), ("b", 0.9)]),
        ([r"C:\teachers\one:0.5", "D:/two:1.5"], None, [(r"C:\teachers\one", 0.25), ("D:/two", 0.75)]),
        (["http://gpu:8000/v1:3", "b:1"], None, [("http://gpu:8000/v1", 0.75), ("b", 0.25)]),
        (["http://gpu:8000"], None, [("http://gpu:8000", 1.0)]),
        (["http://gpu:8000:3", "b:1"], None, [("http://gpu:8000", 0.75), ("b", 0.25)]),
        (["llava:7b", "b"], None, [("llava:7b", 0.5), ("b", 0.5)]),
    ],
)
def test_only_a_number_at_the_end_is_a_weight(given, weights, found) -> None:
    parsed = parse_teachers(given, weights)
    assert [name for name, _ in parsed] == [name for name, _ in found]
    assert [share for _, share in parsed] == pytest.approx([share for _, share in found])


def test_a_folder_that_ends_like_a_weight_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "run:2").mkdir()
    assert parse_teachers([f"{tmp_path}/run:2"]) == [(f"{tmp_path}/run:2", 1.0)]


@pytest.mark.parametrize(
    ("given", "weights", "said"),
    [
        (["a:0.5", "a:0.5"], None, "names a twice"),
        (["llava-1.5-7b", "llava-hf/llava-1.5-7b-hf"], None, r"twice \(as llava-1.5-7b, too\)"),
        (["llava-1.5-7b", "liuhaotian/llava-v1.5-7b"], None, "twice"),
        (["a:0", "b:1"], None, "weight of a is 0; .* above 0"),
        (["a:-1", "b:1"], None, "weight of a is -1"),
        (["a:nan", "b:1"], None, "weight of a is nan"),
        (["a:inf", "b:1"], None, "weight of a is inf"),
        (["a:0.6", "b"], None, "gives b no weight"),
        (["a:0.6", "b:0.4"], (1.0, 2.0), "in one of the two"),
        (["a", "b"], (1.0,), "1 numbers for 2 teachers"),
        (["a", "b"], (1.0, -2.0), "weight of b is -2"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(given, weights, said) -> None:
    with pytest.raises(UserError, match=said):
        parse_teachers(given, weights)


@pytest.mark.parametrize(
    "block",
    [
        "teacher_model: ['qwen-vl-chat:0.6', 'llava-1.5-7b:0.4']",
        "teacher_model: [qwen-vl-chat, llava-1.5-7b]\n    teacher_weights: [0.6, 0.4]",
        "teacher_model:\n      - qwen-vl-chat: 0.6\n      - llava-1.5-7b: 0.4",
        "teacher_model: {qwen-vl-chat: 0.6, llava-1.5-7b: 0.4}",
        "teacher_model: qwen-vl-chat:0.6,llava-1.5-7b:0.4",
    ],
)
def test_the_guides_two_teachers_in_yaml(block: str, tmp_path: Path) -> None:
    """However a person writes the list, each weight stays with its teacher."""
    file = tmp_path / "settings.yaml"
    file.write_text(f"stage2:\n  distillation:\n    {block}\n")
    read = parse(TrainSettings, ["--config", str(file)]).for_stage(2)
    assert parse_teachers(read.teacher_model, read.teacher_weights) == [("qwen-vl-chat", 0.6), ("llava-1.5-7b", 0.4)]
    over = parse(TrainSettings, ["--config", str(file), "--teacher_model", "toy-llava"]).for_stage(2)
    assert (over.teacher_model, over.teacher_weights) == (("toy-llava",), None), "the file's weights are of others"


def test_names_with_commas_or_blanks_between() -> None:
    for words in (["a:0.6", "b:0.4"], ["a:0.6,b:0.4"]):
        assert parse(CacheSettings, ["--teacher_model", *words]).teacher_model == ("a:0.6", "b:0.4")


def manifest(folder: Path, teacher: str) -> Path:
    """As much of a cache as is read to find it."""
    folder.mkdir(parents=True, exist_ok=True)
    info = {"version": VERSION, "teacher": {"name": teacher, "tokenizer": "0"}, "data": {}, "settings": {}}
    info |= {"vocabulary": 1, "files": [], "shards": [], "complete": True, "end_of_turn_id": 0}
    (folder / "manifest.json").write_text(json.dumps(info))
    return folder


def test_where_caches_lie(tmp_path: Path) -> None:
    """One cache lies where it always did; of several each has its folder, and is found by its teacher's name."""
    assert cache_home(tmp_path, "a", several=False) == tmp_path
    assert cache_home(tmp_path, "own/er", several=True) == tmp_path / "own--er"
    assert find_cache(tmp_path, "a") is None and caches_in(tmp_path) == [tmp_path]
    manifest(tmp_path / "x", "llava-1.5-7b")
    assert find_cache(tmp_path, "llava-hf/llava-1.5-7b-hf") == tmp_path / "x", "by teacher, not by folder"
    assert cache_home(tmp_path, "llava-1.5-7b", several=False) == tmp_path / "x", "it goes on there"
    assert cache_home(tmp_path, "b", several=False) == tmp_path / "b", "beside the other"
    manifest(tmp_path / "b", "b")
    assert caches_in(tmp_path) == [tmp_path / "b", tmp_path / "x"]
    manifest(tmp_path, "a")
    assert caches_in(tmp_path) == [tmp_path], "the folder of one cache means that cache"
    assert [find_cache(tmp_path, name) for name in "ab"] == [tmp_path, tmp_path / "b"]
    assert cache_home(tmp_path, "a", several=True) == tmp_path, "what is there is not built again"
    assert cache_home(tmp_path, "c", several=False) == tmp_path, "the writer says that it is another's"


def test_names_of_folders_stay_apart() -> None:
    names = ["own/er", "/a/teacher", "/b/teacher", r"C:\x", "http://gpu:8000/v1", "x" * 300, "y" + "x" * 300]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names) and all(0 < len(name) < 140 and "/" not in name for name in folders)


def test_same_teacher_knows_the_registry() -> None:
    assert same_teacher("qwen-vl-chat", "Qwen/Qwen-VL-Chat") and not same_teacher("qwen-vl-chat", "qwen-vl-base")


def test_one_command_builds_the_caches_side_by_side(tmp_path: Path) -> None:
    """The names may be those of `train`, weights and all; run again, nothing is scored twice."""
    data = make_world(tmp_path / "data", train=6, val=2) / "stage2"
    teachers = [make_tiny_teacher(tmp_path / name, seed) for seed, name in enumerate("ab")]
    target = tmp_path / "teacher_outputs"
    words = ["cache", "build", "--teacher_model", f"{teachers[0]}:0.6", f"{teachers[1]}:0.4", "--force"]
    words += ["--dataset_path", str(data), "--output_dir", str(target), "--device", "cpu"]
    assert cli.main(words) == 0
    caches = [TeacherCache(folder) for folder in caches_in(target)]
    assert [cache.info["teacher"]["name"] for cache in caches] == [str(teacher) for teacher in teachers]
    assert [len(cache) for cache in caches] == [8, 8]
    written = [path.stat().st_mtime_ns for path in target.glob("*/*_batch_*.safetensors")]
    assert cli.main(words) == 0
    assert [path.stat().st_mtime_ns for path in target.glob("*/*_batch_*.safetensors")] == written


def test_an_unknown_name_stops_before_the_first_teacher_is_asked(tmp_path: Path) -> None:
    data = make_world(tmp_path / "data", train=3, val=2) / "stage2"
    words = ["cache", "build", "--teacher_model", "toy-llava", "qwen-vl-chta", "--dataset_path", str(data)]
    assert cli.main([*words, "--output_dir", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_reads_no_text_alone_leaves_it_out(tmp_path: Path) -> None:
    """InstructBLIP beside a teacher that knows the rest. Going on without the flag would leave the holes unseen."""
    data = make_world(tmp_path / "data", train=6, val=3) / "stage2"
    words = ["cache", "build", "--teacher_model", str(save_instructblip(tmp_path / "teacher")), "--force"]
    words += ["--dataset_path", str(data), "--output_dir", str(tmp_path / "cache"), "--device", "cpu"]
    assert cli.main(words) == 2, "it stops at a record without a picture"
    shutil.rmtree(tmp_path / "cache")
    assert cli.main([*words, "--pictures_only"]) == 0
    cache = TeacherCache(tmp_path / "cache")
    assert cache.records() == ["train-0", "train-3", "train-1", "train-4", "val-0", "val-1"]
    assert cli.main(words) == 2, "the rest is not silently taken as there"
