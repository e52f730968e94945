"""Every command of the guide as it is written there, on the embedded world, with the embedded teacher for the 7B one.

What a test adds behind a command is what makes it end in seconds: a few steps, few questions, the tiny preset where no
checkpoint names one. Checkpoints have the steps of such a run (checkpoint-2 for the guide's checkpoint-500).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embervlm import cli
from embervlm.demo import prepare_words

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEACHER = "--teacher_model toy-llava"
SHORT = "--max_steps 2 --eval_samples 4 --dataloader_workers 0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as the guide expects it: scripts/, configs/, data/ and a Stage 1 checkpoint."""
    folder = tmp_path_factory.mktemp("guide")
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    toy, data = folder / "toy", folder / "data"
    assert cli.main(["toy", "--out", str(toy), "--train_images", "12", "--val_images", "6"]) == 0
    assert cli.main(["prepare", *prepare_words(toy, data)]) == 0
    shutil.copy(next((toy / "images" / "val2014").glob("*.jpg")), folder / "test_image.jpg")
    shutil.copy(folder / "test_image.jpg", folder / "test.jpg")
    done = run(folder, f"python scripts/train_all.py --stages 1 --preset tiny --save_steps 1 {SHORT}")
    assert (folder / "outputs/stage1/checkpoint-final").is_dir() and "Stage 1 done" in done
    return folder


def run(folder: Path, command: str, code: int = 0) -> str:
    """Run one line of the guide; returns what it wrote."""
    words = shlex.split(command)
    if words[0] == "torchrun":  # a port of its own: two tests at once must not meet
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    else:
        words[0] = sys.executable
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_DIR": str(folder)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said, said
    return said


def steps_of(folder: Path) -> list[dict]:
    return json.loads((folder / "metrics.json").read_text())["history"]


@pytest.fixture(scope="module")
def trained(place: Path) -> str:
    """What the guide's first command says; it leaves outputs/stage2."""
    return run(
        place,
        "torchrun --nproc_per_node=2 scripts/train_all.py --stages 2 --resume_from outputs/stage1/checkpoint-final "
        f"--output_dir outputs --wandb_project embervlm {TEACHER} {SHORT}",
    )


@pytest.fixture(scope="module")
def cached(place: Path) -> str:
    """What the caching command says; it leaves outputs/stage2/teacher_outputs."""
    return run(
        place,
        "python scripts/cache_teacher_outputs.py --teacher_model toy-llava --dataset_path data/stage2 "
        "--output_dir outputs/stage2/teacher_outputs --batch_size 32",
    )


def test_basic_training_with_a_teacher_logs_what_the_guide_says(place: Path, trained: str) -> None:
    assert trained.count("Stage 2 done") == 1, "one of the two processes speaks"
    assert "anchored" in trained
    logged = {name for line in steps_of(place / "outputs/stage2") for name in line}
    assert {
        f"stage2/{name}"
        for name in "sft_loss distill_loss total_loss vqa_accuracy instruct_score teacher_kl_div learning_rate".split()
    } <= logged
    final = place / "outputs/stage2/checkpoint-final"
    assert {"pytorch_model.bin", "config.json", "training_args.json"} <= {path.name for path in final.iterdir()}
    last = place / "outputs/stage2/checkpoint-2"
    assert {"optimizer.pt", "scheduler.pt"} <= {path.name for path in last.iterdir()}
    assert torch.load(final / "pytorch_model.bin", weights_only=True)


def test_basic_training_without_distillation(place: Path) -> None:
    said = run(
        place,
        "torchrun --nproc_per_node=2 scripts/train_all.py --stages 2 --resume_from outputs/stage1/checkpoint-final "
        f"--output_dir outputs_alone --disable_distillation {SHORT}",
    )
    assert "Stage 2 done" in said
    assert not any("stage2/distill_loss" in line for line in steps_of(place / "outputs_alone/stage2"))


def test_advanced_options_on_four_processes(place: Path) -> None:
    said = run(
        place,
        "torchrun --nproc_per_node=4 scripts/train_all.py --stages 2 --resume_from outputs/stage1/checkpoint-final "
        "--output_dir outputs_advanced --batch_size 64 --learning_rate 2.0e-4 --distillation_alpha 0.3 "
        "--distillation_temperature 2.0 --teacher_model toy-llava --gradient_accumulation_steps 2 --warmup_steps 1000 "
        "--save_steps 500 --eval_steps 250 --fp16 --wandb_project embervlm --wandb_run_name stage2_instruct_tuning "
        "--max_steps 1 --eval_samples 4 --dataloader_workers 0",
    )
    assert "Stage 2 done" in said


def test_download_teacher(place: Path) -> None:
    assert "toy-llava" in run(place, "python scripts/download_teacher.py --model toy-llava")


def test_evaluation_command_and_the_snippet(place: Path, trained: str) -> None:
    run(
        place,
        "python scripts/evaluate.py --stage 2 --checkpoint outputs/stage2/checkpoint-final "
        "--benchmarks vqa,okvqa,instruct --split val --output_file results/stage2_eval.json --max_samples 4",
    )
    assert set(json.loads((place / "results/stage2_eval.json").read_text())["benchmarks"]) == {
        "vqa",
        "okvqa",
        "instruct",
    }
    (place / "snippet.py").write_text(SNIPPET)
    assert run(place, "python snippet.py").count("Response: ") == 2


SNIPPET = """
from embervlm import EmberVLM
from PIL import Image

model = EmberVLM.from_pretrained("outputs/stage2/checkpoint-final")
image = Image.open("test_image.jpg")

# VQA
response = model.generate(
    image=image,
    prompt="What is the person doing in this image?",
    max_length=100
)
print(f"Response: {response}")

# Instruction following
response = model.generate(
    image=image,
    prompt="Describe this image in detail, focusing on the main subject.",
    max_length=200
)
print(f"Response: {response}")
"""


def test_train_from_the_cache(place: Path, cached: str) -> None:
    said = run(
        place,
        "torchrun --nproc_per_node=2 scripts/train_all.py --stages 2 "
        f"--use_cached_teacher_outputs outputs/stage2/teacher_outputs {SHORT}",
    )
    assert "outputs/stage1/checkpoint-final (Stage 1" in said, "Stage 1 is found without being named"
    assert "Stage 2 done" in said


def test_loading_from_a_stage_1_checkpoint_of_any_step(place: Path) -> None:
    said = run(
        place,
        "torchrun --nproc_per_node=2 scripts/train_all.py --stages 2 --resume_from outputs/stage1/checkpoint-1 "
        f"--output_dir outputs_loaded --disable_distillation {SHORT}",
    )
    assert "outputs/stage1/checkpoint-1 (Stage 1, step 1)" in said


def test_the_advice_of_troubleshooting(place: Path) -> None:
    """Defaults of the cache command, and every flag that the advice names, in one run."""
    assert "toy-llava" in run(place, f"python scripts/cache_teacher_outputs.py {TEACHER}")
    said = run(
        place,
        "python scripts/train_all.py --stages 2 --output_dir outputs_advice --distillation_alpha 0.5 "
        "--distillation_temperature 1.5 --epochs 7 --learning_rate 3.0e-4 --sft_weight 0.8 --do_sample --top_p 0.95 "
        f"{TEACHER} {SHORT}",
    )
    assert "Stage 2 done" in said
    written = json.loads((place / "outputs_advice/stage2/checkpoint-final/training_args.json").read_text())["settings"]
    for name, value in {
        "distillation_alpha": 0.5,
        "distillation_temperature": 1.5,
        "epochs": 7,
        "sft_weight": 0.8,
    }.items():
        assert written[name] == value
    assert "qwen-vl-base" in run(place, "python scripts/train_all.py --stages 2 --teacher_model qwen-vl-base", code=2)


@pytest.mark.parametrize(
    "block",
    [
        {"alpha": 0.5, "temperature": 1.0},
        {"alpha": 0.2, "temperature": 3.0},
        {"alpha_schedule": "linear"},
    ],
    ids=["hard", "soft", "progressive"],
)
def test_strategies_of_the_settings_file(place: Path, cached: str, block: dict) -> None:
    config = place / "configs" / "strategy.yaml"
    config.write_text(json.dumps({"stage2": {"distillation": {"teacher_model": "toy-llava", **block}}}))
    said = run(
        place,
        "python scripts/train_all.py --stages 2 --config configs/strategy.yaml --output_dir outputs_strategy "
        f"--use_cached_teacher_outputs outputs/stage2/teacher_outputs {SHORT}",
    )
    assert "Stage 2 done" in said


def test_debug_commands(place: Path, trained: str) -> None:
    assert "toy-llava" in run(place, "python scripts/test_teacher.py --model toy-llava")
    assert "anchored" in run(place, f"python scripts/verify_distillation.py --stage 2 --preset tiny {TEACHER}")
    run(place, "python scripts/inspect_batch.py --stage 2 --num_batches 5 --preset tiny")
    run(
        place,
        "python scripts/test_inference.py --checkpoint outputs/stage2/checkpoint-2 --image test.jpg "
        '--prompt "Describe this image"',
    )
