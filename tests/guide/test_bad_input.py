"""What people get wrong, on the command line: one sentence that names it, exit code 2, nothing half-written."""

from __future__ import annotations

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
from embervlm.demo import prepare_words

ROOT = Path(__file__).parents[2]
SHORT = ["--max_steps", "1", "--batch_size", "4", "--eval_samples", "4", "--dataloader_workers", "0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy/ and data/ of a few pictures, and outputs/stage1 of one step."""
    folder = tmp_path_factory.mktemp("made")
    assert cli.main(["toy", "--out", str(folder / "toy"), "--train_images", "8", "--val_images", "4"]) == 0
    assert cli.main(["prepare", *prepare_words(folder / "toy", folder / "data")]) == 0
    words = ["--stages", "1", "--preset", "tiny", "--data_dir", f"{folder}/data", "--output_dir", f"{folder}/outputs"]
    assert cli.main(["train", *words, *SHORT]) == 0
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(made, tmp_path / "world")
    return tmp_path / "world"


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str], writes_to: Path | None = None) -> str:
    """The one sentence of a command that must fail; `writes_to` must not have come into being."""
    capsys.readouterr()
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "Traceback" not in said.out + said.err
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert writes_to is None or not writes_to.exists()
    return said.err


def train(world: Path, *words: str, stage: int = 2) -> list[str]:
    places = ["--data_dir", f"{world}/data", "--output_dir", f"{world}/new"]
    teacher = [] if "--teacher_model" in words else ["--disable_distillation"]
    return ["train", "--stages", str(stage), "--preset", "tiny", *places, *teacher, *SHORT, *words]


def prepare(world: Path, **changed: Path | None) -> list[str]:
    words = prepare_words(world / "toy", world / "new")
    for flag, value in changed.items():
        at = words.index(f"--{flag}")
        words[at : at + 2] = [] if value is None else [f"--{flag}", str(value)]
    return ["prepare", *words]


def test_a_missing_picture_is_rejected_and_counted_or_too_many_stop(world: Path, capsys) -> None:
    pictures = sorted((world / "toy/images/train2014").iterdir())
    pictures[0].unlink()
    assert "--max_rejects" in complaint(prepare(world), capsys, world / "new")
    assert cli.main([*prepare(world), "--max_rejects", "0.2"]) == 0
    assert "rows rejected" in capsys.readouterr().out
    rejected = [json.loads(line) for line in (world / "new/stage2/rejects.jsonl").read_text().splitlines()]
    assert rejected and all(pictures[0].name[-10:-4] in json.dumps(line) for line in rejected)
    shutil.rmtree(world / "new")
    for picture in pictures[1:]:
        picture.unlink()
    assert "image" in complaint(prepare(world), capsys, world / "new")


def test_a_corrupt_picture_stops_training_with_its_name(world: Path, capsys) -> None:
    for picture in (world / "toy/images/train2014").iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    assert ".jpg is not a readable picture" in complaint(train(world), capsys)


def test_malformed_json(world: Path, capsys) -> None:
    broken = world / "toy/llava_instruct_train.json"
    broken.write_text(broken.read_text()[:-20])
    assert "llava_instruct_train.json" in complaint(prepare(world), capsys, world / "new")


def test_questions_without_their_annotations(world: Path, capsys) -> None:
    assert "--vqa_annotations" in complaint(
        prepare(world, vqa_annotations=None, unlabelled=None), capsys, world / "new"
    )


def test_a_picture_outside_the_root(world: Path, capsys) -> None:
    path = world / "data/stage2/train.jsonl"
    records = [json.loads(line) | {"image": "../../../etc/passwd"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "outside" in complaint(train(world), capsys)


def test_an_empty_split(world: Path, capsys) -> None:
    (world / "data/stage2/train.jsonl").write_text("")
    assert "train" in complaint(train(world), capsys, world / "new")


def test_an_unknown_teacher_names_the_nearest(world: Path, capsys) -> None:
    said = complaint(train(world, "--teacher_model", "qwen-vl-chta"), capsys, world / "new")
    assert "did you mean qwen-vl-chat" in said
    words = ["--dataset_path", f"{world}/data/stage2", "--output_dir", f"{world}/new"]
    assert "toy-lava" in complaint(["cache", "build", "--teacher_model", "toy-lava", *words], capsys, world / "new")


def test_an_unknown_stage(world: Path, capsys) -> None:
    assert "3" in complaint(train(world, stage=3), capsys, world / "new")


def test_a_resume_folder_that_does_not_exist(world: Path, capsys) -> None:
    said = complaint(train(world, "--resume_from", f"{world}/outputs/stage1/checkpoint-77"), capsys, world / "new")
    assert "checkpoint-77" in said and "checkpoint-final" in said, "it says what there is"


def test_a_preset_that_does_not_fit_the_checkpoint(world: Path, capsys) -> None:
    config = world / "outputs/stage1/checkpoint-final/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"preset": "37m"}))
    final = f"{world}/outputs/stage1/checkpoint-final"
    assert "--preset 37m" in complaint(train(world, "--resume_from", final), capsys, world / "new")


def test_a_vocabulary_that_does_not_fit_the_checkpoint(world: Path, capsys) -> None:
    """Rows of the embedding would stand for other tokens: a silent wrong result."""
    path = world / "outputs/stage1/checkpoint-final/config.json"
    config = json.loads(path.read_text())
    sizes = [part for part in (config, *config.values()) if isinstance(part, dict) and "vocab_size" in part]
    assert sizes
    for part in sizes:
        part["vocab_size"] += 100
    path.write_text(json.dumps(config))
    final = f"{world}/outputs/stage1/checkpoint-final"
    assert "vocab" in complaint(train(world, "--resume_from", final), capsys, world / "new").lower()


def test_a_cache_of_other_data_and_half_a_cache(world: Path, capsys) -> None:
    cache = world / "outputs/stage2/teacher_outputs"
    words = ["--dataset_path", f"{world}/data/stage2", "--output_dir", str(cache)]
    assert cli.main(["cache", "build", "--teacher_model", "toy-llava", *words]) == 0
    use = ["--teacher_model", "toy-llava", "--use_cached_teacher_outputs"]
    other = world / "data/stage2/train.jsonl"
    lines = other.read_text().splitlines()
    other.write_text("\n".join(lines).replace("is", "was") + "\n")
    assert "cache" in complaint(train(world, *use, str(cache)), capsys, world / "new")
    other.write_text("\n".join(lines) + "\n")
    shards = sorted(path for path in cache.rglob("*") if path.is_file() and path.suffix not in (".json", ".md"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    assert shards[0].name in complaint(train(world, *use, str(cache)), capsys, world / "new")


def test_a_checkpoint_that_is_none(world: Path, capsys) -> None:
    said = complaint(["infer", "--checkpoint", f"{world}/nowhere", "--prompt", "What?"], capsys)
    assert "nowhere" in said
    half = world / "outputs/stage1/checkpoint-final"
    weights = half / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "damaged or cut off" in complaint(["infer", "--checkpoint", str(half), "--prompt", "What?"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "processes", "workers"),
    [(signal.SIGINT, 1, 0), (signal.SIGINT, 2, 0), (signal.SIGTERM, 1, 2)],  # a service manager ends all of a group
)
def test_a_signal_to_the_group_leaves_a_checkpoint_to_go_on_from(world: Path, number, processes, workers) -> None:
    words = ["--stages", "2", "--preset", "tiny", "--data_dir", f"{world}/data", "--output_dir", f"{world}/new"]
    words += [
        "--disable_distillation",
        "--batch_size",
        "4",
        "--dataloader_workers",
        str(workers),
        "--logging_steps",
        "1",
    ]
    script = str(ROOT / "scripts/train_all.py")
    start = [sys.executable, script]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = world / "log"
    with log.open("w") as out:
        run = subprocess.Popen(
            [*start, *words, "--max_steps", "5000"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            # A shell starts what runs in its background deaf to SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 180
            while "step 3/" not in log.read_text() and time.monotonic() < deadline and run.poll() is None:
                time.sleep(0.2)
            assert run.poll() is None, log.read_text()
            os.killpg(run.pid, number)  # as a terminal does: everybody in the foreground
            code = run.wait(timeout=120)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    said = log.read_text()
    assert code != 0 and (processes > 1 or code == 130), said
    assert "Stopped after step" in said and said.count("Stopping after this step") == 1, said
    (kept,) = [path for path in (world / "new/stage2").glob("checkpoint-*") if path.name != "checkpoint-final"]
    steps = int(kept.name.split("-")[1])
    again = ["train", *words, "--resume_from", str(kept), "--max_steps", str(steps + 1)]
    assert cli.main(again) == 0
    assert (world / "new/stage2/checkpoint-final").is_dir()
