"""The GPU benchmark on a CPU, at small size: it must not be found broken on the day somebody lends a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_small_size_runs_to_its_line_of_json() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert told.returncode == 0, told.stdout + told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert set(found["student"]) == {"cached teacher", "labels alone"}
    assert all(way["samples_per_second"] > 0 for way in found["student"].values())
    assert set(found["teacher"]["samples_per_second"]) == {"llava_instruct", "ok_vqa", "vqa_v2"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert told.returncode == 1 and "no GPU here; --quick" in told.stderr
