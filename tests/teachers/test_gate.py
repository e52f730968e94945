"""A teacher that does not know the data stops before hours of scoring."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from embervlm import cli
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record, write_records
from embervlm.errors import UserError
from embervlm.teachers.gate import check_teacher, unigram_surprise
from embervlm.teachers.registry import load_teacher
from tests.teachers.test_cache import make_prepared
from tests.tiny_teacher import make_tiny_teacher


@pytest.fixture
def data(tmp_path: Path) -> PreparedSet:
    made = make_prepared(tmp_path / "data")
    rows = [
        Record(f"q-{n}", None, "Is it?", "yes" if n % 3 else "no", metadata={"source": "vqa_v2"}) for n in range(120)
    ]
    write_records(made.folder / "train.jsonl", rows)
    (made.folder / "dataset.json").write_text(json.dumps({"image_root": "."}))
    return made


def test_counts_of_the_other_half_surprise_as_much_as_they_should():
    answers = [np.array([1, 2])] * 50 + [np.array([3, 2])] * 50
    exact = -(0.5 * np.log(52 / 103) + 0.25 * 2 * np.log(26 / 103))
    assert unigram_surprise(answers) == pytest.approx(exact, rel=0.02)


def test_a_random_teacher_is_stopped_and_force_goes_on(data: PreparedSet, tmp_path: Path, capsys):
    folder = make_tiny_teacher(tmp_path / "teacher")
    words = ["cache", "build", "--teacher_model", str(folder), "--dataset_path", str(data.folder), "--device", "cpu"]
    words += ["--output_dir", str(tmp_path / "cache"), "--splits", "train"]
    assert cli.main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "less likely than counting words" in said and "--force" in said
    assert not (tmp_path / "cache").exists()
    assert cli.main([*words, "--force"]) == 0
    assert cli.main(words) == 0  # it continues: what was forced once is not asked again


def test_a_teacher_that_knows_the_answers_passes(data: PreparedSet, tmp_path: Path):
    teacher = load_teacher(str(make_tiny_teacher(tmp_path / "teacher")))
    score = teacher.score

    def sure(*arguments):
        found = score(*arguments)
        return [
            [dataclasses.replace(t, realised_logprobs=t.realised_logprobs * 0.01) for t in turns] for turns in found
        ]

    with pytest.raises(UserError, match="nats a token"):
        check_teacher(teacher, data, "train", 16)
    teacher.score = sure  # type: ignore[method-assign]
    check_teacher(teacher, data, "train", 16)
