"""A served teacher says what the same model says in this process; whatever its server does wrong is a sentence."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from embervlm import cli
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers import server as served_server
from embervlm.teachers.cache import build_cache
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.manage import strange
from embervlm.teachers.outputs import TEMPERATURE_GRID, Sampling, TeacherOutputs
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.served import ServedTeacher
from embervlm.teachers.server import Server
from embervlm.teachers.store import TeacherCache
from tests.teachers.served_stub import Stub
from tests.teachers.test_cache import make_prepared
from tests.tiny_teacher import make_tiny_processor, make_tiny_teacher
from tests.train.small_world import make_world

TURNS = (("Is it red or blue?", "red"), ("Is it red", "No, it is not."), ("Say it", "red"))
RECORDS = [
    Record(id="short", image="0.png", instruction="What color is the circle?", response="red"),
    Record(id="many", image="1.png", instruction=TURNS[0][0], response=TURNS[0][1], conversations=TURNS),
    Record(id="text", image=None, instruction="Is it?", response="Yes, déjà vu, 東京 😀."),
    Record(id="talk", image=None, instruction=TURNS[0][0], response=TURNS[0][1], conversations=TURNS[:2]),
    Record(id="echo", image="0.png", instruction="yes yes ASSISTANT: yes", response="yes"),
    Record(id="blank", image="0.png", instruction="Is it?", response="  yes \n"),
    Record(id="silent", image="0.png", instruction="Say nothing.", response=""),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_teacher(tmp_path_factory.mktemp("teacher"))
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def local(root: Path) -> HFTeacher:
    loaded = load_teacher(str(root))
    assert isinstance(loaded, HFTeacher)
    return loaded


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_server, "LONGEST_WAIT", 0.01)
    monkeypatch.delenv(served_server.KEY, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> PreparedSet:
    made = make_prepared(tmp_path / "data")
    (made.folder / "dataset.json").write_text(json.dumps({"image_root": "."}))
    return made


def reach(stub: Stub, root: Path, **options: Any) -> ServedTeacher:
    teacher = load_teacher(stub.url, served_name="tiny", tokenizer=str(root), **options)
    assert isinstance(teacher, ServedTeacher)
    return teacher


def same(served: TeacherOutputs, local: TeacherOutputs, count: int) -> None:
    """All that a server can know."""
    assert (served.record_id, served.turn) == (local.record_id, local.turn) and strange(served) == []
    np.testing.assert_array_equal(served.token_ids, local.token_ids)
    np.testing.assert_array_equal(served.starts, local.starts)
    np.testing.assert_array_equal(served.ends, local.ends)
    np.testing.assert_allclose(served.realised_logprobs, local.realised_logprobs, atol=1e-4)
    at = TEMPERATURE_GRID.index(1.0)
    np.testing.assert_allclose(served.log_normalisers[:, at], 0, atol=1e-4)
    for row in range(len(served)):  # the realised token is one entry more where it is not among the likeliest
        found = dict(zip(served.top_ids[row].tolist(), served.top_logprobs[row].tolist(), strict=True))
        found.pop(-1, None)
        wanted = dict(zip(local.top_ids[row, :count].tolist(), local.top_logprobs[row, :count].tolist(), strict=True))
        assert set(wanted) <= set(found) and set(found) - set(wanted) <= {int(served.token_ids[row])}
        np.testing.assert_allclose([found[token] for token in wanted], list(wanted.values()), atol=1e-4)


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


@pytest.mark.parametrize("fault", [503, 429, 500, "drop"])
def test_a_flaky_server_is_asked_again(local: HFTeacher, root: Path, fault: int | str) -> None:
    with Stub(local) as stub:
        teacher = reach(stub, root, concurrency=2)
        calm = teacher.score(RECORDS[:2], root, 4)
        stub.faults = [fault, fault]
        shaken = teacher.score(RECORDS[:2], root, 4)
        assert not stub.faults
    np.testing.assert_array_equal(calm[0][0].top_logprobs, shaken[0][0].top_logprobs)


def test_a_server_that_stays_broken_is_told_with_its_words(local: HFTeacher, root: Path) -> None:
    """And the records that wait behind the broken one are not asked about for nothing."""
    with Stub(local) as stub:
        teacher = reach(stub, root, concurrency=1)
        stub.faults = [503] * 8
        before = len(stub.asked)
        with pytest.raises(UserError, match=r"record short, .*after 8 tries .*503: not now"):
            teacher.score(RECORDS, root, 4)
        assert len(stub.asked) <= before + 9


def test_a_timeout_is_a_sentence(local: HFTeacher) -> None:
    with Stub(local) as stub:
        stub.slow = 0.5
        with pytest.raises(UserError, match="after 2 tries .ReadTimeout"):
            Server(stub.url, tries=2, first_wait=0.01, seconds=0.05).chat({"model": "tiny"})


def test_waits_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one failed replica must not come back all at once, nor at once."""
    waits: list[float] = []
    monkeypatch.setattr(served_server, "LONGEST_WAIT", 30.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = Server(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", tries=8)
        monkeypatch.setattr(server.halt, "wait", waits.append)
        with pytest.raises(UserError, match="no answer"):
            server.chat({})
    assert len(waits) == 7
    for number, wait in enumerate(waits):
        whole = min(0.5 * 2**number, 30.0)
        assert whole / 2 <= wait <= whole
    assert len({wait / min(0.5 * 2**number, 30.0) for number, wait in enumerate(waits)}) == 7


def test_an_error_does_not_wait_for_the_tries_of_others(local: HFTeacher, root: Path, monkeypatch) -> None:
    """Ctrl-C and a missing picture end the run now, not after a minute of other records' back-off."""
    monkeypatch.setattr(served_server, "LONGEST_WAIT", 30.0)
    with Stub(local) as stub:
        teacher = reach(stub, root, concurrency=4)
        teacher.server.first_wait = 30.0
        stub.faults = [503] * 3
        begin = time.perf_counter()
        with pytest.raises(UserError, match="nowhere.png"):
            teacher.score([*RECORDS[:3], replace(RECORDS[0], image="nowhere.png")], root, 4)
        assert time.perf_counter() - begin < 10
        assert len(teacher.score(RECORDS[:1], root, 4)) == 1  # and the next call is not halted


def _none(reply: dict[str, Any]) -> dict[str, Any]:
    return reply | {"prompt_logprobs": None}


def _short(reply: dict[str, Any]) -> dict[str, Any]:
    return reply | {"prompt_logprobs": reply["prompt_logprobs"][:-1]}


def _few(reply: dict[str, Any]) -> dict[str, Any]:
    told = [entries and dict(list(entries.items())[:2]) for entries in reply["prompt_logprobs"]]
    return reply | {"prompt_logprobs": told}


def _holes(reply: dict[str, Any]) -> dict[str, Any]:
    return reply | {"prompt_logprobs": [None] * len(reply["prompt_logprobs"])}


def _other_ids(reply: dict[str, Any]) -> dict[str, Any]:
    ids = reply["prompt_token_ids"]
    told = [
        entries and {key: value for key, value in entries.items() if key != str(own)}
        for own, entries in zip(ids, reply["prompt_logprobs"], strict=True)
    ]
    return reply | {"prompt_logprobs": told}


def _impossible(reply: dict[str, Any]) -> dict[str, Any]:
    told = [
        entries and {key: value | {"logprob": 9.0} for key, value in entries.items()}
        for entries in reply["prompt_logprobs"]
    ]
    return reply | {"prompt_logprobs": told}


def _never(reply: dict[str, Any]) -> dict[str, Any]:
    told = [
        entries and {key: value | {"logprob": -9999.0} for key, value in entries.items()}
        for entries in reply["prompt_logprobs"]
    ]
    return reply | {"prompt_logprobs": told}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_none, "has no prompt_logprobs; a server that tells them is needed"),
        (_short, "do not fit its tokens"),
        (_few, "tells 2 log-probabilities of token"),
        (_holes, "tells no log-probabilities of token"),
        (_other_ids, "no log-probability of the realised token"),
        (_impossible, "more than 1"),
        (_never, "no probability at all"),
        (lambda reply: b"<html>It works!</html>", "no JSON object"),
        (lambda reply: [reply], "no JSON object"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_reply_that_is_none_stops_with_the_record(local: HFTeacher, root: Path, spoil: Any, why: str) -> None:
    """Nobody trains against numbers that the server did not give."""
    with Stub(local) as stub:
        teacher = reach(stub, root)
        stub.spoil = spoil
        with pytest.raises(UserError, match=why) as told:
            teacher.score(RECORDS[:1], root, 4)
    assert "record short, teacher tiny at http://127.0.0.1" in str(told.value)


def test_a_server_without_prompt_logprobs_is_seen_before_any_record(local: HFTeacher, root: Path) -> None:
    with Stub(local, spoil=_none) as stub, pytest.raises(UserError, match="has no prompt_logprobs"):
        reach(stub, root)


def test_another_tokenizer_is_seen_before_any_record(local: HFTeacher, tmp_path: Path) -> None:
    other = Tokenizer(models.BPE())
    other.pre_tokenizer, other.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    other.train_from_iterator(["walnut"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=other, eos_token="t").save_pretrained(tmp_path)
    with Stub(local) as stub, pytest.raises(UserError, match="tokenizer is another one.*--teacher_tokenizer"):
        reach(stub, tmp_path)


def test_a_template_that_does_not_close_the_answer(root: Path, local: HFTeacher, monkeypatch: pytest.MonkeyPatch):
    """LLaVA-1.5's own writes a blank behind the answer: the end is the tokenizer's, with its probability there."""
    open_ended = local.processor.chat_template.replace("{{ eos_token }}", "{{ ' ' }}")
    other = HFTeacher("open", local.model, make_tiny_processor(open_ended))
    with Stub(other) as stub:
        teacher = reach(stub, root)
        found, wanted = teacher.score(RECORDS[:4], root, 20), other.score(RECORDS[:4], root, 420)
    assert teacher.end_of_turn_id == other.end_of_turn_id == other.tokenizer.eos_token_id
    for served, known in zip(found, wanted, strict=True):
        for one, full in zip(served, known, strict=True):
            np.testing.assert_array_equal(one.token_ids, full.token_ids)
            np.testing.assert_allclose(one.realised_logprobs[:-1], full.realised_logprobs[:-1], atol=1e-4)
            inside = one.top_ids[-1] == teacher.end_of_turn_id
            if inside.any():
                np.testing.assert_allclose(one.realised_logprobs[-1], full.realised_logprobs[-1], atol=1e-4)
            else:  # at most as likely as the last entry
                assert one.realised_logprobs[-1] <= one.top_logprobs[-1][one.top_ids[-1] >= 0].min() + 1e-4


def test_a_template_that_ends_with_the_answer_is_refused(local: HFTeacher, root: Path) -> None:
    bare = local.processor.chat_template.replace("{{ eos_token }}", "")
    with Stub(HFTeacher("bare", local.model, make_tiny_processor(bare))) as stub:
        with pytest.raises(UserError, match="writes nothing behind the last answer"):
            reach(stub, root)


def test_an_answer_that_the_template_changes_is_named(local: HFTeacher, root: Path) -> None:
    upper = local.processor.chat_template
    at = upper.rindex("{{ item['text'] }}")
    upper = upper[:at] + "{{ item['text'] | replace('red', 'RED') }}" + upper[at + len("{{ item['text'] }}") :]
    with Stub(HFTeacher("upper", local.model, make_tiny_processor(upper))) as stub:
        teacher = reach(stub, root)
        with pytest.raises(UserError, match="record short, .*'red' does not stand"):
            teacher.score(RECORDS[:1], root, 4)


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
