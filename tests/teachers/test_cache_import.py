"""Log-probabilities of an inference server: what is known stays exact, the rest is near, bad lines are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from embervlm import cli
from embervlm.data.prepared import PreparedSet
from embervlm.errors import UserError
from embervlm.teachers.from_logprobs import estimate_tails, outputs_from_logprobs
from embervlm.teachers.manage import strange
from embervlm.teachers.outputs import TEMPERATURE_GRID, Teacher
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.store import TeacherCache
from tests.teachers.test_cache import make_prepared
from tests.tiny_teacher import make_tiny_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return load_teacher(str(folder))


@pytest.fixture
def data(tmp_path: Path) -> PreparedSet:
    made = make_prepared(tmp_path / "data")
    (made.folder / "dataset.json").write_text(json.dumps({"image_root": "."}))
    return made


def lines(teacher: Teacher, data: PreparedSet, top_k: int = 20) -> list[dict]:
    """As vLLM writes them: the k likeliest and the realised token."""
    rows = []
    for record in data.records("train") + data.records("val"):
        for turn in teacher.score([record], data.image_root, top_k)[0]:
            said = [
                {str(i): {"logprob": float(p), "rank": 1} for i, p in zip(ids, ps, strict=True)}
                | {str(own): {"logprob": float(lp), "rank": 99}}
                for ids, ps, own, lp in zip(
                    turn.top_ids, turn.top_logprobs, turn.token_ids, turn.realised_logprobs, strict=True
                )
            ]
            rows.append({"id": record.id, "turn": turn.turn, "token_ids": turn.token_ids.tolist(), "logprobs": said})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["text", "int", "object"])
def test_what_a_server_knows_stays_exact(teacher: Teacher, data: PreparedSet, kind: str):
    (record,) = [record for record in data.records("train") if record.id == "mine-0"]
    ((turn,),) = teacher.score([record], data.image_root, 20)
    (row,) = [row for row in lines(teacher, data) if row["id"] == "mine-0"]
    said = row["logprobs"]
    if kind == "int":
        said = [{int(i): value["logprob"] for i, value in found.items()} for found in said]
    if kind == "object":
        said = [{int(i): SimpleNamespace(**value) for i, value in found.items()} for found in said]
    made = outputs_from_logprobs("mine-0", record.response, row["token_ids"], said, teacher.tokenizer)
    assert strange(made) == []
    np.testing.assert_array_equal(made.token_ids, turn.token_ids)
    known = turn.starts >= 0
    known[-1] = False
    np.testing.assert_array_equal(made.starts[known], turn.starts[known])
    np.testing.assert_array_equal(made.ends[known], turn.ends[known])
    assert made.ends[-1] == len(record.response.encode())
    np.testing.assert_allclose(made.realised_logprobs, turn.realised_logprobs, atol=1e-5)
    np.testing.assert_allclose(made.log_normalisers[:, 0], 0, atol=1e-5)
    np.testing.assert_allclose(made.top_logprobs[:, :10], turn.top_logprobs[:, :10], atol=1e-5)


@pytest.mark.parametrize("exponent", [1.0, 1.7, 3.0])
def test_the_tail_of_a_power_law_is_found(exponent: float):
    ranks = np.arange(1, 5001) ** -exponent
    p = ranks / ranks.sum()
    entries = np.array([5, 20, 48])
    mass = np.array([p[k:].sum() for k in entries])
    found = estimate_tails(mass, entries, 5000, exponent)
    truth = [[np.log((p[k:] ** (1 / t)).sum()) for t in TEMPERATURE_GRID] for k in entries]
    np.testing.assert_allclose(found, truth, atol=0.01)
    likeliest = estimate_tails(mass, entries, 5000, exponent, only=1)[:, 0]
    np.testing.assert_allclose(likeliest, np.log(p[entries]), atol=0.01)
    assert (estimate_tails(np.zeros(3), entries, 5000) == -np.inf).all()


def test_numbers_that_cannot_be_are_refused(teacher: Teacher):
    tokenizer, end = teacher.tokenizer, teacher.end_of_turn_id
    (word,) = tokenizer.encode("1", add_special_tokens=False)
    fine = [{word: -0.1}, {end: -0.2}]
    assert len(outputs_from_logprobs("a", "1", [word, end], fine, tokenizer)) == 2
    for text, ids, said, why in (
        ("1", [word], fine[:1], "ends a turn"),
        ("1", [word, end], fine[:1], "both are needed"),
        ("2", [word, end], fine, "do not join"),
        ("1", [word, end], [{word: 0.4}, {end: -1}], "more than 1"),
        ("1", [word, end], [{word: -0.1, word + 1: -0.1}, {end: -1}], "more than 1"),
        ("1", [word, end], [{word: float("nan")}, {end: -1}], "more than 1"),
        ("1", [word, end], [{}, {end: -1}], "none"),
        ("1", [word, end], [{word: "?"}, {end: -1}], "of numbers"),
        ("1", [word, end], [None, {end: -1}], "of numbers"),
        ("1", [word, end], [{word + 1: 0.0}, {end: -1}], "all its probability on other tokens"),
    ):
        with pytest.raises(UserError, match=why):
            outputs_from_logprobs("a", text, ids, said, tokenizer)


def test_an_imported_cache_is_whole_and_says_that_it_estimates(
    teacher: Teacher, folder: Path, data: PreparedSet, tmp_path: Path, capsys
):
    records = write(tmp_path / "said.jsonl", lines(teacher, data))
    words = ["--records", str(records), "--dataset_path", str(data.folder), "--teacher_tokenizer", str(folder)]
    assert cli.main(["cache", "import", *words, "--output_dir", str(tmp_path / "cache")]) == 0
    assert "estimated" in capsys.readouterr().out
    check = ["cache", "verify", "--cache", str(tmp_path / "cache"), "--dataset_path", str(data.folder)]
    assert cli.main(check) == 0
    cache = TeacherCache(tmp_path / "cache")
    assert "estimated" in cache.info["settings"]["tail"]
    cache.require(data={split: data.fingerprint(split) for split in ("train", "val")})
    assert len(cache.get("llava-0") or []) == 2
    assert cli.main(["cache", "import", *words, "--output_dir", str(tmp_path / "cache")]) == 2


def test_bad_lines_are_named_and_nothing_is_written(
    teacher: Teacher, folder: Path, data: PreparedSet, tmp_path: Path, capsys
):
    rows = lines(teacher, data)
    rows[1]["token_ids"] = rows[1]["token_ids"][:-1]
    rows[2].pop("logprobs")
    rows[3]["id"] = "nobody"
    path = write(tmp_path / "said.jsonl", [*rows, rows[0]])
    path.write_text(path.read_text() + "{torn\n")
    words = ["--records", str(path), "--dataset_path", str(data.folder), "--teacher_tokenizer", str(folder)]
    assert cli.main(["cache", "import", *words, "--output_dir", str(tmp_path / "cache")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    for what in ("line 2: ", "line 3: it has no 'logprobs'", "line 4: ", "no line has turn 0 of record vqa-3"):
        assert what in said, what
    assert f"line {len(rows) + 1}: turn 0 of record vqa-0 is in line 1" in said
    assert f"line {len(rows) + 2} is no JSON" in said and "6 problems" in said
    assert not (tmp_path / "cache").exists() and not list(tmp_path.glob("*.partial"))
