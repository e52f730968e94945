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
from embervlm.teachers.gate import OTHERS, check_teacher, draw_by_source, unigram_surprise
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


def test_a_source_that_the_teacher_does_not_know_is_not_hidden_by_another(data: PreparedSet, tmp_path: Path):
    """Long answers that it knows well have so many tokens that the mean over all looks right."""
    long = "the red star is left of the blue square and the circle is above it"
    rows = [Record(f"l-{n}", None, "Tell.", long, metadata={"source": "llava_instruct"}) for n in range(120)]
    short = [Record(f"o-{n}", None, "Is it?", "no", metadata={"source": "ok_vqa"}) for n in range(40)]
    write_records(data.folder / "train.jsonl", [*rows, *short, *data.records("train")])
    teacher = load_teacher(str(make_tiny_teacher(tmp_path / "teacher")))
    score = teacher.score

    def knows(*sources: str):
        def asked(records, *arguments):
            known = [record.metadata["source"] in sources for record in records]
            return [
                [dataclasses.replace(t, realised_logprobs=t.realised_logprobs * (0.01 if sure else 1)) for t in turns]
                for sure, turns in zip(known, score(records, *arguments), strict=True)
            ]

        teacher.score = asked  # type: ignore[method-assign]
        check_teacher(teacher, PreparedSet(data.folder, data.folder, {}), "train", 16)

    with pytest.raises(UserError, match=r"on 120 records of vqa_v2 against [\d.]+\. .*--vqa_prompt") as raised:
        knows("llava_instruct")
    assert "records of llava" not in str(raised.value) and "ok_vqa" not in str(raised.value)
    knows("llava_instruct", "vqa_v2")  # 40 records of ok_vqa are too few to judge by


def test_small_sources_are_judged_together():
    rows = [Record(f"{n}", None, "?", "a", metadata={"source": f"s{n % 4}"}) for n in range(40)]
    assert {name: len(some) for name, some in draw_by_source(rows, 100, 20).items()} == {OTHERS: 40}
    drawn = draw_by_source(rows, 5, 10)
    assert {name: len(some) for name, some in drawn.items()} == {f"s{n}": 5 for n in range(4)}
    assert drawn == draw_by_source(rows, 5, 10) and not draw_by_source(rows, 5, 50)
