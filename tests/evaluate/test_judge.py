"""An optional judge: what it is shown, what counts as a verdict, and that none is paid for twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embervlm import cli
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.evaluate import judge as judging
from embervlm.evaluate.judge import Judge, open_judge, read_judge_result, read_verdict
from embervlm.evaluate.results import load_result
from embervlm.teachers.server import KEY, Server
from tests.teachers.served.stub import Stub

RECORDS = [Record(f"r{at}", None, f"What is number {at}?", f"It is a red ball, the {at}th.") for at in range(12)]
ANSWERS = {record.id: f"A ball, {at}." for at, record in enumerate(RECORDS)}


class JudgeStub(Stub):
    """A server whose model "tiny" says what `reply` makes of a conversation."""

    def __init__(self, reply: Callable[[list[dict[str, str]]], str | None], key: str | None = None) -> None:
        super().__init__(None, key=key)  # type: ignore[arg-type]
        self.reply = reply

    def _reply(self, handler: Any, body: dict[str, Any]) -> tuple[int, Any]:
        if not self._may(handler):
            return 401, {"error": {"message": "Unauthorized"}}
        message = {"role": "assistant", "content": self.reply(body["messages"])}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    @property
    def graded(self) -> list[str]:
        """The answers that were shown, in the order of the requests."""
        return [graded(body["messages"]) for body in self.asked]


def graded(messages: list[dict[str, str]]) -> str:
    found = re.search(r"<answer>\n(.*)\n</answer>", messages[0]["content"], re.DOTALL)
    assert found
    return found[1]


def by_number(messages: list[dict[str, str]]) -> str:
    """The answer's number, at most 10, as points."""
    return f"Score: {min(10, int(re.findall(r'[0-9]+', graded(messages))[-1]))}"


@pytest.fixture
def stub() -> Iterator[JudgeStub]:
    with JudgeStub(by_number) as serving:
        yield serving


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(Server.__init__, "__defaults__", (3, 0.01, 5.0))


def judge(stub: JudgeStub, concurrency: int = 4) -> Judge:
    return open_judge(stub.url, None, concurrency, ["instruct"])


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ("Score: 7", 7),
        ("Score: 10", 10),
        ("Score: 0\n", 0),
        ("**Score: 3/10**", 3),
        ("The colour is wrong.\n\nScore: 4", 4),
        ("", None),
        ("7", None),
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: 7.5", None),
        ("Score: 7 or 8", None),
        ("Score: N", None),
        ("Score: 2\nScore: 9", None),
        ("Score: 7\nHope this helps!", None),
        ("I would say Score: 7", None),
        ("score: seven", None),
    ],
)
def test_only_a_plain_verdict_is_one(reply: str, points: int | None) -> None:
    """A number picked out of prose would be noise that nobody sees."""
    assert read_verdict(reply) == points


def test_the_mean_is_of_every_answer_and_requests_run_at_once(stub: JudgeStub, tmp_path: Path) -> None:
    stub.slow = 0.05
    found = judge(stub, concurrency=6).score(RECORDS, ANSWERS, tmp_path / "verdicts.jsonl")
    expected = [min(10, at) / 10 for at in range(12)]
    assert found.mean == pytest.approx(sum(expected) / 12) and (found.n, found.unparsable) == (12, 0)
    assert found.interval is not None and found.interval[0] < found.mean < found.interval[1]
    assert found.model == "tiny" and 1 < stub.most_at_once <= 6
    assert read_judge_result(json.loads(json.dumps(found.__dict__))) == found


def test_it_sees_question_reference_and_answer_and_nothing_else(stub: JudgeStub, tmp_path: Path) -> None:
    """A judge that knows whose answer it grades is no judge; and a template's letters are not escaped."""
    record = Record("llava-1", "cat.png", "Is <b> & 'it' red?", "{{ no }}", metadata={"source": "llava_instruct"})
    judge(stub).score([record], {"llava-1": "Yes & 3"}, tmp_path / "student_verdicts.jsonl")
    (body,) = stub.asked
    assert body["temperature"] == 0 and body["model"] == "tiny" and len(body["messages"]) == 1
    prompt = body["messages"][0]["content"]
    for shown in ("<question>\nIs <b> & 'it' red?\n<", "<reference>\n{{ no }}\n<", "<answer>\nYes & 3\n<"):
        assert shown in prompt
    for hidden in ("student", "llava", "cat.png", "embervlm", "teacher"):
        assert hidden not in json.dumps(body).lower()


def test_garbage_is_asked_again_once_then_counted(tmp_path: Path) -> None:
    def reply(messages: list[dict[str, str]]) -> str | None:
        number = int(re.findall(r"[0-9]+", graded(messages))[-1])
        if number % 3 == 0:
            return [None, "no idea"][number % 2]
        return "Well, eight." if number % 3 == 1 and len(messages) == 1 else "Score: 8"

    kept = tmp_path / "verdicts.jsonl"
    with JudgeStub(reply) as stub:
        found = judge(stub).score(RECORDS, ANSWERS, kept)
        assert (found.n, found.unparsable) == (8, 4) and found.mean == pytest.approx(0.8)
        assert len(stub.asked) == 4 + 2 * 8
        second = [body["messages"] for body in stub.asked if len(body["messages"]) == 3]
        assert len(second) == 8 and all(messages[2]["content"] == judging.AGAIN for messages in second)
        stub.asked.clear()
        assert judge(stub).score(RECORDS, ANSWERS, kept) == found and not stub.asked, "a second run costs nothing"
    with JudgeStub(lambda messages: "?") as stub:
        none = judge(stub).score(RECORDS, ANSWERS, tmp_path / "none.jsonl")
    assert (none.mean, none.interval, none.n, none.unparsable) == (None, None, 0, 12)
    assert read_judge_result(json.loads(json.dumps(none.__dict__))) == none


def test_a_busy_or_failing_server_is_asked_again(stub: JudgeStub, tmp_path: Path) -> None:
    stub.faults = [429, 500, "drop", 503]
    found = judge(stub).score(RECORDS, ANSWERS, tmp_path / "verdicts.jsonl")
    assert found.n == 12 and len(stub.asked) == 16


def test_an_interruption_loses_nothing_that_was_judged(stub: JudgeStub, tmp_path: Path) -> None:
    kept = tmp_path / "verdicts.jsonl"
    whole = judge(stub).score(RECORDS, ANSWERS, tmp_path / "other.jsonl")
    stub.asked.clear()
    stub.reply = lambda messages: (
        "Score: 5" if len(stub.asked) <= 5 else 1 / 0
    )  # the connection breaks from the sixth on
    with pytest.raises(UserError, match="the same command goes on there"):
        judge(stub, concurrency=1).score(RECORDS, ANSWERS, kept)
    judged = stub.graded[:5]
    with kept.open("ab") as file:
        file.write(b'{"key": "half')  # killed while it wrote
    stub.asked.clear()
    stub.reply = by_number
    found = judge(stub).score(RECORDS, ANSWERS, kept)
    assert found.n == whole.n == 12
    assert not set(stub.graded) & set(judged) and len(stub.asked) == 7


def test_what_a_verdict_depends_on_is_in_its_key(
    stub: JudgeStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts about another answer, of another judge or prompt, must not be taken for these."""
    kept = tmp_path / "verdicts.jsonl"
    first = judge(stub)
    first.score(RECORDS, ANSWERS, kept)
    stub.asked.clear()
    first.score(RECORDS, ANSWERS | {"r3": "Another, 3."}, kept)
    assert stub.graded == ["Another, 3."]
    other = Judge(first.server, "tiny-2")
    monkeypatch.setattr(judging, "AGAIN", "Reply!")
    reworded = Judge(first.server, "tiny")
    keys = {each.key("q", "r", "a") for each in (first, other, reworded)} | {first.key("q", "ra", "")}
    assert len(keys) == 4 and reworded.prompt_hash != first.prompt_hash


def test_equal_answers_to_equal_questions_are_judged_once(stub: JudgeStub, tmp_path: Path) -> None:
    records = [Record(f"r{at}", f"{at}.png", "What is it?", "A ball.") for at in range(9)]
    found = judge(stub).score(
        records, {record.id: f"Ball {at % 2}" for at, record in enumerate(records)}, tmp_path / "v"
    )
    assert found.n == 9 and len(stub.asked) == 2 and found.mean == pytest.approx(4 / 90)


@pytest.mark.parametrize(
    ("model", "benchmarks", "sentence"),
    [("tinny", ["instruct"], "--judge_model"), (None, ["vqa"], "add instruct")],
)
def test_a_judge_that_cannot_judge_is_said_at_once(stub: JudgeStub, model, benchmarks, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_judge(stub.url, model, 4, benchmarks)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with JudgeStub(by_number, key="secret") as stub:
        with pytest.raises(UserError, match=KEY):
            judge(stub)
        monkeypatch.setenv(KEY, "secret")
        assert judge(stub).score(RECORDS, ANSWERS, tmp_path / "v").n == 12
        assert "secret" not in (tmp_path / "v").read_text()


def test_the_verb_judges_keeps_and_goes_on(student, prepared, stub: JudgeStub, tmp_path: Path, capsys) -> None:
    student.save_pretrained(tmp_path / "checkpoint")
    stub.reply = lambda messages: "Score: 5"
    words = ["evaluate", "--checkpoint", f"{tmp_path}/checkpoint", "--dataset_path", str(prepared.folder), "--device"]
    words += ["cpu", "--output_file", f"{tmp_path}/results/eval.json", "--max_new_tokens", "4", "--judge", stub.url]
    words += ["--benchmarks", "instruct"]
    stub.faults = ["drop"] * 100
    assert cli.main(words) == 2
    assert "the same command goes on there" in capsys.readouterr().err
    unjudged = load_result(tmp_path / "results/eval.json")
    assert unjudged.instruct is not None and unjudged.judge is None, "the evaluation is kept when its judge fails"
    stub.faults.clear()
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Judge's Score: 0.500  (tiny, 3 answers, 95% interval 0.500 to 0.500)" in out
    result = load_result(tmp_path / "results/eval.json")
    assert result.judge is not None and (result.judge.mean, result.judge.n) == (0.5, 3)
    told = json.loads((tmp_path / "results/eval.json").read_text())["judge"]
    assert set(told) == {"model", "prompt", "mean", "interval", "n", "unparsable"}
    rival = load_result(tmp_path / "results/eval_majority_per_template.json")
    assert rival.judge is not None and re.search(r"Judge\n", out), "what it is compared with is judged, too"
    stub.asked.clear()
    assert cli.main(words) == 0 and not stub.asked
