"""Whatever its server does wrong is a sentence."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from embervlm.errors import UserError
from embervlm.teachers import server as served_server
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.server import Server
from tests.teachers.served.local import RECORDS, reach
from tests.teachers.served.stub import Stub
from tests.tiny_teacher import make_tiny_processor


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
