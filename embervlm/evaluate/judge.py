"""`--judge`: another model's opinion of the instruction answers, from 0 to 10, through an OpenAI-compatible server.

It reads question, reference and answer, and never whose answer it is. The prompt is `judge.jinja`. Each verdict is kept
on disk when it comes, under a hash of all that it depends on: what was judged once is not asked again.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template

from embervlm.errors import UserError
from embervlm.evaluate.asking import progress_bar
from embervlm.evaluate.resampling import bootstrap_interval, pictures_of
from embervlm.journal import Journal, OtherJournal
from embervlm.teachers.served import connect
from embervlm.teachers.server import Server, said

if TYPE_CHECKING:
    from embervlm.data.record import Record

MOST = 10
"""Points of a perfect answer; results are shares of it, 0 to 1."""
ROOM = 1024
"""Tokens of a verdict: one line, but some models think aloud before it."""
AGAIN = "Reply with one line and nothing else, N being a whole number from 0 to 10:\nScore: N"

_VERDICT = re.compile(r"\**Score:\**\s*(10|[0-9])(?:/10)?\**")
_HEADER = {"schema": "embervlm/verdicts-1"}


@dataclass(frozen=True)
class JudgeResult:
    """What a judge thinks of a system's answers to the instruct benchmark."""

    model: str
    prompt: str  # hash of the prompt's template
    mean: float | None  # 0 to 1; None where no verdict could be read
    interval: tuple[float, float] | None  # of the mean, 95%, percentile bootstrap
    n: int  # answers with a verdict
    unparsable: int  # answers whose verdict could not be read, asked twice


class Judge:
    """Scores answers, `concurrency` at a time."""

    def __init__(self, server: Server, model: str, concurrency: int = 16) -> None:
        self.server, self.model, self.concurrency = server, model, concurrency
        self.prompt_hash, self._template = _prompt()

    def score(
        self, records: Sequence[Record], answers: Mapping[str, str], kept: Path, title: str | None = None, seed: int = 0
    ) -> JudgeResult:
        """The mean verdict on `answers` (record id -> text) to the first question of each record.

        Args:
            kept: file of verdicts, which grows while this runs. An interrupted run goes on with it.
            title: show a progress bar under this name.

        Raises:
            UserError: the server does not answer after all tries; what it said until then is kept.
        """
        try:
            journal = Journal(kept, _HEADER)
        except OtherJournal:
            raise UserError(
                f"{kept} holds no verdicts of a judge; move it away, or choose another --output_file"
            ) from None
        points: dict[str, int | None] = {row["key"]: row["points"] for row in journal.rows}
        cases = {record.id: (record.instruction, record.response, answers[record.id]) for record in records}
        keys = {record: self.key(*case) for record, case in cases.items()}
        left = {keys[record]: case for record, case in cases.items() if keys[record] not in points}
        times, lock = Counter(keys.values()), threading.Lock()
        with progress_bar(title, len(cases)) as advance:
            advance(len(cases) - sum(times[key] for key in left))

            def work(item: tuple[str, tuple[str, str, str]]) -> None:
                key, case = item
                given, reply = self._ask(*case)
                with lock:
                    journal.add([{"key": key, "points": given, "reply": reply}])
                    points[key] = given
                    advance(times[key])

            self.server.each(work, list(left.items()), self.concurrency)
        return self._result(records, [points[key] for key in keys.values()], seed)

    def key(self, question: str, reference: str, answer: str) -> str:
        """Of one verdict: a hash of judge, prompt, question, reference and answer."""
        parts = (self.model, self.prompt_hash, question, reference, answer)
        return _hash("\0".join(f"{len(part)}:{part}" for part in parts))

    def _ask(self, question: str, reference: str, answer: str) -> tuple[int | None, str]:
        """Points and the words they were read from; asked again once where there are none to be read."""
        prompt = self._template.render(question=question, reference=reference, answer=answer)
        messages = [{"role": "user", "content": prompt}]
        reply = self._reply(messages)
        points = read_verdict(reply)
        if points is None:
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": AGAIN}]
            reply = self._reply(messages)
            points = read_verdict(reply)
        return points, reply

    def _reply(self, messages: list[dict[str, str]]) -> str:
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": ROOM}
        return said(self.server.chat(body)).text

    def _result(self, records: Sequence[Record], points: Sequence[int | None], seed: int) -> JudgeResult:
        judged = [(record, given) for record, given in zip(records, points, strict=True) if given is not None]
        values = np.array([given for _, given in judged]) / MOST
        unparsable = len(points) - len(values)
        if not len(values):
            return JudgeResult(self.model, self.prompt_hash, None, None, 0, unparsable)
        interval = bootstrap_interval(
            values, np.random.default_rng(seed), pictures_of([record for record, _ in judged])
        )
        return JudgeResult(self.model, self.prompt_hash, float(values.mean()), interval, len(values), unparsable)


def open_judge(url: str, model: str | None, concurrency: int, benchmarks: Sequence[str]) -> Judge:
    """The judge at `url`, before anything else is begun.

    Raises:
        UserError: it cannot be reached, has no such model, or there would be nothing to judge.
    """
    if "instruct" not in benchmarks:
        raise UserError(
            f"--judge reads the answers of the benchmark instruct, and --benchmarks is {' '.join(benchmarks)}; "
            "add instruct, or leave --judge out."
        )
    server, card = connect(url, model, "--judge_model")
    return Judge(server, str(card["id"]), concurrency)


def read_verdict(reply: str) -> int | None:
    """Points, 0 to 10, if the last line is "Score: N" and no other line is one; None for everything else."""
    found = [_VERDICT.fullmatch(line.strip()) for line in reply.strip().splitlines()]
    return int(found[-1][1]) if found and found[-1] and sum(map(bool, found)) == 1 else None


def read_judge_result(data: Mapping[str, Any] | None) -> JudgeResult | None:
    """The inverse of `dataclasses.asdict`, from JSON."""
    if data is None:
        return None
    interval = data["interval"]
    return JudgeResult(**{**data, "interval": None if interval is None else (interval[0], interval[1])})


def _prompt() -> tuple[str, Template]:
    text = resources.files("embervlm.evaluate").joinpath("judge.jinja").read_text(encoding="utf-8")
    return _hash(text + AGAIN), Environment(undefined=StrictUndefined).from_string(text)  # text, so nothing is escaped


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
