"""No answer is lost, none is asked twice, and how the questions were shared out changes none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embervlm.data.record import Record
from embervlm.evaluate.answerers import StudentAnswerer
from embervlm.evaluate.asking import Unfinished, ask
from embervlm.evaluate.results import load_result, predictions_path
from tests.noisy_student import make_noisy_student

ROOT = Path(__file__).parents[2]


class Breaks:
    """Answers with the instruction's length until it is asked once too often."""

    def __init__(self, patience: int = 1 << 30) -> None:
        self.patience, self.asked = patience, []

    def answers(self, records, image_root, max_new_tokens):
        if self.patience == 0:
            raise KeyboardInterrupt
        self.patience -= 1
        self.asked += [record.id for record in records]
        return [f"{record.id} {len(record.instruction)}" for record in records]


def put(system, prepared, kept=None, batch_size: int = 5) -> list[str]:
    return ask(system, prepared.records("val"), prepared.image_root, 8, batch_size, kept=kept)


def opened(folder: Path, prepared, about=None):
    return Unfinished(folder, about or {"model": "m"}).part("student-vqa", prepared.records("val"), 8)


def test_a_stopped_evaluation_goes_on_with_the_answers_it_has(prepared, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        put(Breaks(2), prepared, opened(tmp_path / "kept", prepared))
    second = Breaks()
    assert put(second, prepared, opened(tmp_path / "kept", prepared)) == put(Breaks(), prepared)
    assert len(second.asked) == 2, "only the third batch was left"
    third = Breaks()
    put(third, prepared, opened(tmp_path / "kept", prepared))
    assert third.asked == []


@pytest.mark.parametrize("other", ["model", "limit", "records"])
def test_answers_to_something_else_are_not_taken(prepared, tmp_path, other):
    put(Breaks(), prepared, opened(tmp_path, prepared))
    about = {"model": "another" if other == "model" else "m"}
    records = prepared.records("val")[: 6 if other == "records" else None]
    kept = Unfinished(tmp_path, about).part("student-vqa", records, 9 if other == "limit" else 8)
    assert kept.answers == {}


def test_a_half_written_answer_is_asked_again(prepared, tmp_path):
    put(Breaks(), prepared, opened(tmp_path, prepared))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    system = Breaks()
    assert put(system, prepared, opened(tmp_path, prepared)) == put(Breaks(), prepared)
    assert len(system.asked) == 2


def test_greedy_answers_do_not_depend_on_the_batch(prepared):
    """Padding on the left must be invisible: to positions, to attention, to the end of an answer."""
    model = make_noisy_student(0.08)
    images = ["red.png", "blue.png", "green.png", None]
    records = [
        Record(f"r{n}", images[n % 4], " ".join(["What", "about", "the", "dog?"][: 1 + n % 4] * (1 + n % 5)), "x")
        for n in range(30)
    ]
    asked = [ask(StudentAnswerer(model), records, prepared.image_root, 12, size) for size in (1, 4, 7, 30)]
    assert all(answers == asked[0] for answers in asked[1:]) and len(set(asked[0])) > 10


def test_samples_depend_on_the_seed_alone(student, prepared, tmp_path):
    system = StudentAnswerer(student, {"do_sample": True, "temperature": 2.0})
    records = prepared.records("val")

    def sampled(seed: int, kept=None) -> list[str]:
        return ask(system, records, prepared.image_root, 4, 4, seed=seed, kept=kept)

    whole = sampled(1)
    assert whole == sampled(1) and whole != sampled(2)
    kept = opened(tmp_path, prepared)
    kept.add({record.id: answer for record, answer in list(zip(records, whole, strict=True))[:3]})
    assert sampled(1, opened(tmp_path, prepared)) == whole


def test_two_processes_give_the_numbers_of_one(student, prepared, tmp_path):
    student.save_pretrained(tmp_path / "checkpoint")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--dataset_path", str(prepared.folder), "--device", "cpu"]
    words += ["--batch_size", "2", "--max_new_tokens", "6", "--benchmarks", "vqa", "instruct"]
    for name, launcher in (
        ("one", []),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]),
    ):
        out = ["--output_file", str(tmp_path / f"{name}.json")]
        done = subprocess.run(
            [sys.executable, *launcher, str(ROOT / "scripts" / "evaluate.py"), *words, *out],
            env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("VQA Accuracy") == 1
    one, two = (load_result(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert one.vqa == two.vqa and one.instruct == two.instruct and one.decoding == two.decoding
    for benchmark in ("vqa", "instruct"):
        said = [json.loads(predictions_path(tmp_path / f"{n}.json", benchmark).read_text()) for n in ("one", "two")]
        assert said[0] == said[1]
    assert not (tmp_path / "two.unfinished").exists()
