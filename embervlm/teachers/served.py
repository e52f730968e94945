"""A teacher behind an OpenAI-compatible server that tells the log-probabilities of a prompt, as vLLM does.

One request scores a whole conversation with its answers: `prompt_logprobs` are the likeliest tokens at every position,
and the realised one. The server writes the chat template and reads the picture; here its tokens are read as bytes.
"""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embervlm import tokens
from embervlm.console import console
from embervlm.data.images import Place, load_image, resolve_image
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers import template
from embervlm.teachers.from_logprobs import ESTIMATED_TAIL, outputs_from_logprobs
from embervlm.teachers.locate import as_written
from embervlm.teachers.outputs import SERVED, Answer, Sampling, TeacherOutputs
from embervlm.teachers.server import Refused, Server, said

CONCURRENCY = 16
AT_ONCE = 8
"""Records for each request in flight that are worth handing over together: the last ones of a batch are waited for."""
NEVER = -9999.0
"""How vLLM writes the logarithm of 0."""

_ALLOWED = re.compile(r"(?:max allowed: |more than )(\d+)")  # vLLM's words, now and before 0.8
_LARGEST_SEED = 2**63


class ServedTeacher:
    """Scores and answers through a server. Nothing of the model is in this process but its tokenizer."""

    model = None
    batch_size = 1  # a conversation is a request
    tail = ESTIMATED_TAIL

    def __init__(self, name: str, server: Server, tokenizer: Any, weights: str, concurrency: int = CONCURRENCY) -> None:
        """Asks the server for one short conversation, which tells its chat template.

        Args:
            name: of the model, as the server lists it.
            weights: what is known of them, for the fingerprint.
            concurrency: requests in flight.
        """
        self.name, self.server, self.tokenizer, self.weights = name, server, tokenizer, weights
        self.concurrency, self.at_once = concurrency, AT_ONCE * concurrency
        self._alphabet = tokens.token_bytes(tokenizer)
        self._image_token = str(getattr(tokenizer, "image_token", None) or "")
        self._most: int | None = None  # entries that the server allows, where it was asked for more
        self._tells_answers = True  # their probability, as far as is known
        self._lock = threading.Lock()
        ids, _ = self._prompt(_messages(template.WORDS), 1)
        try:
            self._template = template.learn(ids, self._alphabet)
        except UserError as error:
            raise UserError(f"{self._who}: {error}. Its tokenizer is named with --teacher_tokenizer") from None
        end = self._template.end_of_turn_id
        if end is None and tokenizer.eos_token_id is None:
            raise UserError(f"{self._who}: neither its chat template nor its tokenizer says how an answer ends")
        self.end_of_turn_id = int(tokenizer.eos_token_id if end is None else end)

    @property
    def _who(self) -> str:
        return f"teacher {self.name} at {self.server.url}"

    def score(self, records: list[Record], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        """What the server says about each assistant turn, `concurrency` conversations at a time.

        Raises:
            UserError: a missing picture, a server that does not answer or tells no log-probabilities, answers that its
                tokens do not join to.
        """
        return self.server.each(lambda record: self._score(record, image_root, top_k), records, self.concurrency)

    def generate(self, records: list[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        """The greedy answer to each record's first instruction."""
        first = [replace(r, instruction=r.turns()[0][0], response="", conversations=None) for r in records]
        return [answer.text for answer in self.answer(first, image_root, max_new_tokens)]

    def answer(
        self, records: list[Record], image_root: Path, max_new_tokens: int, sampling: Sampling | None = None
    ) -> list[Answer]:
        """The answer to each record's last instruction, `concurrency` at a time; the server draws with `sampling`."""
        drawn: list[dict[str, Any]] = [{"temperature": 0}] * len(records)
        if sampling is not None:
            how = {"temperature": sampling.temperature, "top_p": sampling.top_p}
            drawn = [{**how, "seed": seed % _LARGEST_SEED} for seed in sampling.seeds]
        return self.server.each(
            lambda asked: self._answer(asked[0], image_root, {"max_tokens": max_new_tokens, **asked[1]}),
            list(zip(records, drawn, strict=True)),
            self.concurrency,
        )

    def fingerprint(self) -> dict[str, str]:
        """Two servers of one name and source are taken to say the same: a server does not tell more."""
        return {
            "name": self.name,
            "weights": self.weights,
            "tokenizer": tokens.fingerprint(self.tokenizer),
            "template": SERVED,
        }

    def cache_settings(self, top_k: int) -> dict[str, Any]:
        """What a cache's manifest must say besides: the entries that the server gives, and that tails are estimated."""
        self._prompt(_messages(template.WORDS), top_k)
        return {"top_k": self._entries(top_k), "tail": self.tail}

    def _score(self, record: Record, image_root: Path, top_k: int) -> list[TeacherOutputs]:
        turns = [(self._cleaned(human), answer) for human, answer in record.turns()]
        try:
            ids, said = self._prompt(_messages(turns, self._picture(record, image_root)), top_k)
            answers = [answer.strip() for _, answer in turns]
            places = template.find(self._template, ids, self._alphabet, answers)
            outputs = []
            for turn, (place, answer) in enumerate(zip(places, answers, strict=True)):
                entries = [self._read(said, at, top_k, ids[at]) for at in range(place.start, place.stop + 1)]
                if ids[place.stop] != self.end_of_turn_id and len(entries[-1]) > self._entries(top_k):
                    # Not among the likeliest and not ours: the template goes on without a token that ends the turn.
                    entries[-1].pop(str(ids[place.stop]))
                own = [*ids[place.start : place.stop], self.end_of_turn_id]
                made = outputs_from_logprobs(record.id, answer, own, entries, self.tokenizer, turn, self.end_of_turn_id)
                starts, ends = as_written(made.starts, made.ends, turns[turn][1])
                outputs.append(replace(made, starts=starts, ends=ends))
        except UserError as error:
            raise UserError(f"record {record.id}, {self._who}: {error}") from None
        return outputs

    def _answer(self, record: Record, image_root: Path, options: dict[str, Any]) -> Answer:
        turns = [(self._cleaned(human), answer) for human, answer in record.turns()]
        messages = _messages(turns, self._picture(record, image_root))[:-1]
        body = {"model": self.name, "messages": messages, **options}
        try:
            return said(self._chat_with_logprobs(body) if self._tells_answers else self.server.chat(body))
        except UserError as error:
            raise UserError(f"record {record.id}, {self._who}: {error}") from None

    def _chat_with_logprobs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Not every server knows the word; then answers come without their probability."""
        try:
            return self.server.chat({**body, "logprobs": True})
        except Refused as refused:
            if "logprob" not in refused.words:
                raise
            self._tells_answers = False
            return self.server.chat(body)

    def _prompt(self, messages: list[dict[str, Any]], top_k: int) -> tuple[list[int], list[Any]]:
        """The conversation's tokens, [n], and what the server says of each, [n]: {id: ...}, nothing of the first."""
        while True:
            entries = self._entries(top_k)
            body = {"model": self.name, "messages": messages, "add_generation_prompt": False, "max_tokens": 1}
            body |= {"temperature": 0, "prompt_logprobs": entries, "return_token_ids": True}
            try:
                return _tokens(self.server.chat(body))
            except Refused as refused:
                allowed = _ALLOWED.search(refused.words) if "logprob" in refused.words else None
                if allowed is None or not 0 < int(allowed[1]) < entries:
                    raise
                self._allow(int(allowed[1]), top_k)

    def _entries(self, top_k: int) -> int:
        return top_k if self._most is None else min(top_k, self._most)

    def _allow(self, most: int, top_k: int) -> None:
        with self._lock:  # many requests are told so at once
            if self._most is None or most < self._most:
                self._most = most
                console.print(
                    f"[yellow]note[/] {self.server.url} gives {most} entries a position, not {top_k}: for more, start "
                    f"it with --max-logprobs {top_k} (vllm serve)",
                    soft_wrap=True,
                )

    def _read(self, said: Sequence[Any], position: int, top_k: int, realised: int) -> dict[Any, Any]:
        """The entries of a position, checked; what has no probability is left out."""
        found = said[position]
        if position == 0 or not isinstance(found, dict):
            raise UserError(f"the server tells no log-probabilities of token {position} ({str(found)[:40]!r})")
        wanted = min(self._entries(top_k), len(self._alphabet))
        if len(found) < wanted:
            raise UserError(f"the server tells {len(found)} log-probabilities of token {position}, not {wanted}")
        if str(realised) not in found:
            raise UserError(f"the server tells no log-probability of the realised token {realised} at {position}")
        try:
            kept = {key: value for key, value in found.items() if value["logprob"] > NEVER}
        except (TypeError, KeyError):
            raise UserError(f"the server's log-probabilities of token {position} are no numbers") from None
        if str(realised) not in kept:
            raise UserError(f"the server gives token {realised} of the answer no probability at all")
        return kept

    def _cleaned(self, human: str) -> str:
        return human.replace(self._image_token, "") if self._image_token else human

    def _picture(self, record: Record, image_root: Path) -> str | None:
        return None if record.image is None else data_uri(resolve_image(image_root, record.image))


def connect(url: str, name: str | None, flag: str = "--teacher_name") -> tuple[Server, dict[str, Any]]:
    """The server, and the card of the model that is meant.

    Args:
        flag: that names the model.

    Raises:
        UserError: it cannot be reached, has no model of that name, or several and none is named.
    """
    server = Server(url)
    cards = {str(card["id"]): card for card in server.models()}
    if name is None and len(cards) == 1:
        return server, next(iter(cards.values()))
    if name not in cards:
        named = f"no model {name}" if name is not None else "more than one model, or none"
        raise UserError(f"{url} serves {named}; it has {', '.join(cards) or 'nothing'}: name one with {flag}")
    return server, cards[name]


def data_uri(path: Place) -> str:
    """The picture as every other teacher sees it, losslessly."""
    file = io.BytesIO()
    load_image(path).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _messages(turns: Sequence[tuple[str, str]], picture: str | None = None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, (human, assistant) in enumerate(turns):
        content: Any = human
        if picture is not None and number == 0:
            content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": human}]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": assistant.strip()}]
    return messages


def _tokens(found: dict[str, Any]) -> tuple[list[int], list[Any]]:
    """Ids and entries of a reply's prompt. Where a server does not list the ids, each entry begins with its own."""
    said = found.get("prompt_logprobs")
    if not isinstance(said, list) or not said:
        raise UserError(
            f"the server's answer has {'no' if said is None else 'empty or odd'} prompt_logprobs; a server that tells "
            "them is needed, as `vllm serve` is"
        )
    ids = found.get("prompt_token_ids")
    try:
        if ids is None:
            ids = [-1, *(int(next(iter(entries))) for entries in said[1:])]
        if len(ids) != len(said) or not all(type(token) is int for token in ids):
            raise ValueError
    except (TypeError, ValueError, StopIteration):
        raise UserError(f"the server's prompt_logprobs, of {len(said)} positions, do not fit its tokens") from None
    return ids, said
