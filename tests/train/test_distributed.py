"""`torchrun --nproc_per_node=2` on the CPU: two processes are one with the double batch, and continue as exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embervlm.data.prepared import open_prepared
from embervlm.teachers.cache import build_cache
from embervlm.teachers.registry import load_teacher
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import make_world

SCRIPT = Path(__file__).with_name("distributed_run.py")
ROOT = Path(__file__).parents[2]


def launch(processes, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(SCRIPT), *map(str, words)], env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def history(out, name):
    entries = json.loads((out / "stage2/metrics.json").read_text())["history"]
    return {entry["step"]: entry[f"stage2/{name}"] for entry in entries if f"stage2/{name}" in entry}


@pytest.mark.slow
def test_two_processes_are_one_with_the_double_batch(tmp_path):
    """Packed and accumulated, too: a sum that is divided by the labels of a part of the step would show."""
    data, teacher = make_world(tmp_path / "data", train=24), make_tiny_teacher(tmp_path / "teacher")
    build_cache(
        load_teacher(str(teacher)),
        open_prepared(data / "stage2"),
        ("train", "val"),
        tmp_path / "cache",
        progress=False,
    )
    one, two, again, many = (tmp_path / name for name in ("one", "two", "again", "many"))
    launch(1, data, one, 4, 9, "", "unpacked", 1)
    said = launch(2, data, two, 2, 9, "", "packed", 1)
    launch(2, data, many, 1, 9, "", "packed", 2)
    assert said.count("Stage 2 done") == 1  # only the first process speaks
    assert "Frozen features: 4 pictures, 4 of them new" in " ".join(said.split())
    weights = [torch.load(out / "stage2/checkpoint-9/pytorch_model.bin", weights_only=True) for out in (one, two, many)]
    for other, theirs in zip((two, many), weights[1:], strict=True):
        for name in ("sft_loss", "distill_loss", "total_loss", "grad_norm", "eval_loss", "teacher_kl_div"):
            assert history(one, name) == pytest.approx(history(other, name), rel=1e-4), name
        for name in theirs:
            torch.testing.assert_close(weights[0][name], theirs[name], rtol=1e-3, atol=1e-5)
    assert {path.name for path in (two / "stage2/checkpoint-9").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    # An epoch has 6 steps: continuing inside the second one needs the second epoch's order on both processes.
    resume = two / "stage2/checkpoint-8"
    (two / "stage2/checkpoint-9").rename(tmp_path / "kept")
    launch(2, data, again, 2, 9, resume, "packed", 1)
    assert history(again, "sft_loss") == history(two, "sft_loss")
