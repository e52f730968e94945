"""A served teacher says what the same model says in this process."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embervlm import cli
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers import server as served_server
from embervlm.teachers.cache import build_cache
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.outputs import Sampling
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.store import TeacherCache
from tests.teachers.served.local import RECORDS, reach, same
from tests.teachers.served.stub import Stub
from tests.train.small_world import make_world


@pytest.mark.parametrize("names_ids", [True, False])
def test_a_served_teacher_says_what_it_says_here(local: HFTeacher, root: Path, names_ids: bool) -> None:
    """Entries, realised tokens and spans of one turn and of several, with a picture and without: answers that stand in
    the question, too, must be found where they were answered."""
    with Stub(local, names_ids=names_ids) as stub:
        teacher = reach(stub, root)
        assert teacher.end_of_turn_id == local.end_of_turn_id and teacher.model is None
        found, wanted = teacher.score(RECORDS, root, 12), local.score(RECORDS, root, 12)
    for served, known, record in zip(found, wanted, RECORDS, strict=True):
        assert len(served) == len(known) == len(record.turns())
        for one, other in zip(served, known, strict=True):
            same(one, other, 12)


def test_the_tail_is_right_at_t_1_and_near_above(local: HFTeacher, root: Path) -> None:
    with Stub(local) as stub:
        ((found,),) = reach(stub, root).score(RECORDS[:1], root, 20)
    ((wanted,),) = local.score(RECORDS[:1], root, 20)
    error = np.abs(found.log_normalisers - wanted.log_normalisers)
    assert error[:, 0].max() < 1e-4 and error.max() < 0.5


def test_answers_are_those_given_here(local: HFTeacher, root: Path) -> None:
    with Stub(local) as stub:
        found = reach(stub, root).generate(RECORDS[:3], root, 6)
    assert found == local.generate(RECORDS[:3], root, 6) and any(found)


def test_a_conversation_is_answered_at_its_end(local: HFTeacher, root: Path) -> None:
    """Greedily as here, the limit told from the end; drawn answers hang on their seeds alone."""
    records = [replace(record, response="") for record in RECORDS[:4]]
    with Stub(local) as stub:
        teacher = reach(stub, root)
        for told, own in zip(teacher.answer(records, root, 6), local.answer(records, root, 6), strict=True):
            assert (told.text, told.finished) == (own.text, own.finished)
            assert told.logprob == pytest.approx(own.logprob, abs=1e-3) and own.logprob < 0
        seeds = Sampling(3.0, 1.0, [2**64 - 1, 5, 5, 7])
        drawn = teacher.answer([records[0]] * 4, root, 6, seeds)
        assert drawn == teacher.answer([records[0]] * 4, root, 6, seeds)
    assert drawn[1] == drawn[2] and len({answer.text for answer in drawn}) > 1


def test_a_server_that_tells_no_probabilities_of_answers_is_asked_without(local: HFTeacher, root: Path) -> None:
    with Stub(local) as stub:
        stub.tells_answers = False
        teacher = reach(stub, root)
        answers = teacher.answer([replace(RECORDS[0], response="")] * 3, root, 6)
    assert [answer.logprob for answer in answers] == [None] * 3 and answers[0].text


def test_many_requests_at_once_keep_the_order(local: HFTeacher, root: Path) -> None:
    records = [replace(RECORDS[n % len(RECORDS)], id=f"r{n}") for n in range(30)]
    with Stub(local) as stub:
        alone = reach(stub, root, concurrency=1).score(records, root, 4)
        assert stub.most_at_once == 1
        stub.slow = 0.02
        together = reach(stub, root, concurrency=6).score(records, root, 4)
        assert 2 <= stub.most_at_once <= 6
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.record_id, a.turn) == (b.record_id, b.turn)
            np.testing.assert_array_equal(a.top_ids, b.top_ids)
            np.testing.assert_array_equal(a.top_logprobs, b.top_logprobs)


def test_who_is_served_is_asked_for(local: HFTeacher, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(local, key="secret") as stub:
        with pytest.raises(UserError, match="401: Unauthorized; set OPENAI_API_KEY"):
            reach(stub, root)
        monkeypatch.setenv(served_server.KEY, "secret")
        assert load_teacher(stub.url, tokenizer=str(root)).name == "tiny"
        with pytest.raises(UserError, match="serves no model huge; it has tiny"):
            load_teacher(stub.url, served_name="huge", tokenizer=str(root))
        with pytest.raises(UserError, match="404.*ends in /v1") as told:
            load_teacher(stub.url.removesuffix("/v1"), tokenizer=str(root))
        assert "secret" not in str(told.value)
        with pytest.raises(UserError, match="--teacher_tokenizer"):
            load_teacher(stub.url)
        with pytest.raises(UserError, match="loads its model itself"):
            reach(stub, root, load_in="4bit")
        with pytest.raises(UserError, match="maximum context length"):
            long = Record(id="long", image=None, instruction="Is it? " * 200, response="No.")
            reach(stub, root).score([long], root, 4)
    with pytest.raises(UserError, match="are for a teacher that is served"):
        load_teacher(str(root), served_name="tiny")


def test_a_refused_connection_is_told_at_once(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="no answer of .*/v1/models .ConnectError.*start the server"):
            load_teacher(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", tokenizer=str(root))
    with pytest.raises(UserError, match="no a"):
        load_teacher("http://[bad/v1", tokenizer=str(root))


def test_a_missing_picture_stops_the_run(local: HFTeacher, root: Path) -> None:
    with Stub(local) as stub, pytest.raises(UserError, match="nowhere.png"):
        reach(stub, root).score([replace(RECORDS[0], image="nowhere.png")], root, 4)


def test_fewer_entries_than_asked_are_said_and_kept(local: HFTeacher, root: Path, data: PreparedSet, tmp_path, capsys):
    """vLLM gives 20 unless told otherwise; the cache must say what it holds, and go on with that and nothing else."""
    build = {"splits": ("train",), "folder": tmp_path / "cache", "top_k": 48, "shard_records": 3, "progress": False}
    with Stub(local) as stub:
        build_cache(reach(stub, root), data, **build)
    assert "gives 20 entries a position, not 48" in " ".join(capsys.readouterr().out.split())
    settings = TeacherCache(tmp_path / "cache").info["settings"]
    assert settings["top_k"] == 20 and settings["tail"].startswith("estimated")
    with Stub(local, max_logprobs=48) as stub, pytest.raises(UserError, match="top_k is 20, asked for 48"):
        build_cache(reach(stub, root), data, **build)


def test_a_build_whose_server_dies_goes_on_where_it_stopped(
    local: HFTeacher, root: Path, data: PreparedSet, tmp_path: Path
) -> None:
    build = {"splits": ("train",), "top_k": 6, "batch_size": 3, "shard_records": 3, "progress": False}
    with Stub(local) as stub:
        teacher = reach(stub, root)
        fine = teacher.server.chat
        left = threading.Semaphore(5)

        def dies(body: dict[str, Any]) -> dict[str, Any]:
            if not left.acquire(blocking=False):
                stub.faults = [503] * 100
            return fine(body)

        teacher.server.chat = dies  # type: ignore[method-assign]
        with pytest.raises(UserError, match="What was finished is kept"):
            build_cache(teacher, data, folder=tmp_path / "cache", **build)
    with Stub(local) as stub:
        summary = build_cache(reach(stub, root), data, folder=tmp_path / "cache", **build)
        assert summary.reused == 3 and summary.records == 9
        whole = build_cache(reach(stub, root), data, folder=tmp_path / "whole", **build)
    assert whole.reused == 0
    for name in ("vqa_batch_0.safetensors", "llava_batch_0.safetensors", "vocabulary.safetensors"):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_commands_work_as_they_are_typed(local: HFTeacher, root: Path, tmp_path: Path, capsys) -> None:
    """test-teacher, cache build, info, verify from server and cache, and training from the server itself."""
    world = make_world(tmp_path / "world")
    stage2, cache = str(world / "stage2"), str(tmp_path / "cache")

    def say(*words: str) -> tuple[int, str]:
        code = cli.main([*words])
        told = capsys.readouterr()
        return code, " ".join((told.out + told.err).split())

    with Stub(local) as stub:
        named = ["--teacher_name", "tiny", "--teacher_tokenizer", str(root), "--teacher_concurrency", "4"]
        served = ["--teacher_model", stub.url, *named]
        code, told = say("test-teacher", "--model", stub.url, *named, "--max_new_tokens", "6")
        assert code == 0 and "tiny, served at http" in told and "GB at most" not in told
        code, told = say("cache", "build", *served, "--dataset_path", stage2, "--output_dir", cache)
        assert code == 0 and "18 records" in told
        code, told = say("verify", *served, "--dataset_path", stage2, "--preset", "tiny")
        assert "known at T = 1" in told and "imported_tail" in told and "what is kept of the teacher" not in told
        train = ["--data_dir", str(world), "--preset", "tiny", "--max_steps", "1", "--batch_size", "4"]
        train += ["--eval_samples", "4", "--dataloader_workers", "0", "--output_dir", str(tmp_path / "out")]
        code, told = say("train", *served, *train)
        assert code == 0 and "Teacher: tiny, live, served at http" in told
    code, told = say("cache", "info", "--cache", cache)
    assert code == 0 and "known at T = 1" in told and "imported_tail" in told and "served as tiny" in told
    code, told = say("cache", "verify", "--cache", cache, "--dataset_path", stage2)
    assert code == 0
    cached = ["verify", "--use_cached_teacher_outputs", cache, "--dataset_path", stage2, "--preset", "tiny"]
    code, told = say(*cached)
    assert "known at T = 1" in told
    code, told = say(*cached, "--compare_teacher")
    assert code == 2 and "never tells its full distribution" in told
