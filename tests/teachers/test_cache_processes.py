"""Several processes build one cache: the same files as one process, and whole after any of them is killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embervlm import cli
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record, write_records
from embervlm.processes import own_device
from embervlm.teachers import shards
from embervlm.teachers.cache import build_cache
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.store import CacheWriter, TeacherCache
from tests.teachers.test_cache import files
from tests.tiny_teacher import make_tiny_teacher

ROOT = Path(__file__).parents[2]
PROGRAM = """
import functools, sys, time
from embervlm import cli
from embervlm.teachers import cache
cache.build_cache = functools.partial(cache.build_cache, shard_records=3, progress=False)
if {slow}:
    add = cache._add
    cache._add = lambda *words: (time.sleep({slow}), add(*words))[1]
sys.exit(cli.main(["cache", "build", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Folders of the teacher, the data, and the cache that one process makes."""
    folder = tmp_path_factory.mktemp("world")
    teacher, data = make_tiny_teacher(folder / "teacher"), folder / "data"
    data.mkdir()
    for split, count in (("train", 20), ("val", 4)):
        rows = [Record(f"{split}-{n}", None, f"How many {n}?", f"{n} red circles.") for n in range(count)]
        write_records(data / f"{split}.jsonl", rows)
    (data / "dataset.json").write_text(json.dumps({"image_root": "."}))
    prepared = PreparedSet(data, data, {})
    build_cache(
        load_teacher(str(teacher)), prepared, ("train", "val"), folder / "one", top_k=48, min_share=0.0035,
        progress=False, shard_records=3,
    )  # fmt: skip
    return teacher, data, folder / "one"


def start(program: Path, world, target: Path, processes: int, slow: float = 0) -> subprocess.Popen:
    program.write_text(PROGRAM.format(slow=slow))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = ["--teacher_model", str(world[0]), "--dataset_path", str(world[1]), "--output_dir", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *launcher, str(program), *words, "--device", "cpu"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def same_cache(target: Path, one: Path) -> None:
    ours, theirs = files(target), files(one)
    manifests = [json.loads(found.pop("manifest.json")) for found in (ours, theirs)]
    assert ours == theirs
    assert [manifest.pop("teacher")["weights"] for manifest in manifests]
    assert manifests[0] == manifests[1]


def test_two_processes_make_the_files_of_one(world, tmp_path: Path):
    finish(start(tmp_path / "run.py", world, tmp_path / "cache", 2))
    same_cache(tmp_path / "cache", world[2])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_killed_with_sigkill_it_continues_with_any_number_of_processes(world, tmp_path: Path, before: int, after: int):
    target = tmp_path / "cache"
    process = start(tmp_path / "run.py", world, target, before, slow=1.5)  # seconds a shard: a busy machine looks late
    deadline = time.monotonic() + 120
    while len(list(target.glob("*_batch_*.safetensors"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    for pid in _children(target):
        with contextlib.suppress(ProcessLookupError):  # it has gone by itself in between
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in target.glob("*_batch_*.safetensors")}
    assert 4 <= len(kept) < 9
    listed = {e["name"] for path in target.glob("manifest*.json") for e in json.loads(path.read_text())["shards"]}
    assert len(listed) >= 3
    finish(start(tmp_path / "run.py", world, target, after))
    same_cache(target, world[2])
    again = {path.name: path.stat().st_mtime_ns for path in target.glob("*_batch_*.safetensors")}
    assert all(again[name] == kept[name] for name in listed), "a whole shard was made again"


def _children(target: Path) -> list[int]:
    """Workers of torchrun, which begin sessions of their own: those that name our own folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(target) in words and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


def test_an_error_in_one_process_ends_all(world, tmp_path: Path):
    target = tmp_path / "cache"
    program = PROGRAM.replace(
        "sys.exit(",
        "import os\n"
        "from embervlm.errors import UserError\n"
        "def fail(*words): raise UserError('the picture is torn')\n"
        "if os.environ['RANK'] == '1': cache._add = fail\n"
        "sys.exit(",
    )
    (tmp_path / "run.py").write_text("")
    process_file = tmp_path / "fails.py"
    process_file.write_text(program.format(slow=0))
    words = ["--teacher_model", str(world[0]), "--dataset_path", str(world[1]), "--output_dir", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, str(process_file), *words, "--device", "cpu"],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode != 0 and "the picture is torn" in done.stdout + done.stderr
    assert not json.loads((target / "manifest.json").read_text())["complete"]


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch):
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == "cuda:1" and own_device("cuda:0") == "cuda:0" and own_device("cpu") == "cpu"


def test_a_full_disk_is_a_sentence_and_the_next_run_continues(world, tmp_path: Path, monkeypatch, capsys):
    real, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(shards.os, "fsync", full)
    target = tmp_path / "cache"
    words = ["--teacher_model", str(world[0]), "--dataset_path", str(world[1]), "--output_dir", str(target)]
    build = build_cache
    monkeypatch.setattr("embervlm.teachers.cache.build_cache", lambda *a, **k: build(*a, **k, shard_records=3))
    assert cli.main(["cache", "build", *words, "--device", "cpu"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(shards.os, "fsync", real)
    assert json.loads((target / "manifest.json").read_text())["shards"], "what was whole is kept"
    assert cli.main(["cache", "build", *words, "--device", "cpu"]) == 0
    same_cache(target, world[2])


def test_a_list_of_another_teacher_is_not_taken_over(world, tmp_path: Path):
    """A folder that was copied together from two builds must not mix them."""
    target = shutil.copytree(world[2], tmp_path / "cache")
    info = json.loads((target / "manifest.json").read_text())
    entry = info["shards"].pop()
    (target / "manifest.json").write_text(json.dumps(info))
    settings = {key: value for key, value in info["settings"].items() if key != "temperatures"}
    about = (target, info["teacher"], info["data"], settings, 2, TeacherCache(world[2]).token_bytes())
    for weights, taken in (("0123", False), (info["teacher"]["weights"], True)):
        other = {**info, "teacher": {**info["teacher"], "weights": weights}, "shards": [entry]}
        (target / "manifest.1.json").write_text(json.dumps(other))
        assert CacheWriter(*about).has(entry["name"]) is taken
        assert not (target / "manifest.1.json").exists()
