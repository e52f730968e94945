"""A server that speaks OpenAI's protocol: requests, retries, and what went wrong as a sentence."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpx2

from embervlm.errors import UserError
from embervlm.teachers.outputs import Answer

KEY = "OPENAI_API_KEY"
"""Environment variable with the server's key; it is sent and never shown."""
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Status codes that another try may not meet again."""
TRIES, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 30.0
"""Of one request; seconds between tries, doubled each time. A replica has a minute to come back."""
SECONDS = 600.0
"""That one answer may take: a large teacher behind a long queue."""

_S = TypeVar("_S")
_T = TypeVar("_T")


class Refused(UserError):
    """The server read the request and will not answer it; `words` are its own."""

    def __init__(self, sentence: str, status: int, words: str) -> None:
        super().__init__(sentence)
        self.status, self.words = status, words


class Server:
    """Safe to use from several threads."""

    def __init__(self, url: str, tries: int = TRIES, first_wait: float = FIRST_WAIT, seconds: float = SECONDS) -> None:
        """
        Args:
            url: up to the version, as http://host:8000/v1.
            seconds: that one answer may take.
        """
        self.url, self.tries, self.first_wait = url.rstrip("/"), tries, first_wait
        self.halt = threading.Event()
        """Set where nobody waits for an answer any more: there are no further tries."""
        key = os.environ.get(KEY)
        try:
            self._client = httpx2.Client(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx2.Timeout(seconds, connect=10),
                limits=httpx2.Limits(max_connections=None),
            )
        except UnicodeEncodeError:
            raise UserError(f"{KEY} holds characters that no HTTP header can carry; set it again") from None

    def models(self) -> list[dict[str, Any]]:
        """The cards of the models that are served. A server that cannot be reached is not waited for."""
        cards = self._send("GET", "models", None, tries=1).get("data")
        if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
            raise UserError(f"{self.url}/models lists no models; is it an OpenAI-compatible server?")
        return cards

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """POST chat/completions.

        Raises:
            Refused: a status that says so.
            UserError: no answer after all tries, or one that is no JSON object.
        """
        return self._send("POST", "chat/completions", body, self.tries)

    def each(self, work: Callable[[_S], _T], items: list[_S], concurrency: int) -> list[_T]:
        """`work` on every item, so many at a time; results in order. The first error, or Ctrl-C, drops what has not
        begun and what is waiting for another try."""
        self.halt.clear()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="served") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future in done:
                        future.result()  # raises
                return [future.result() for future in futures]
            except BaseException:
                self.halt.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _send(self, method: str, path: str, body: dict[str, Any] | None, tries: int) -> dict[str, Any]:
        wait = self.first_wait
        for left in reversed(range(tries)):
            asked_for = 0.0
            try:
                response = self._client.request(method, f"{self.url}/{path}", json=body)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise UserError(f"{self.url} is no address of a server ({error}); give http://host:port/v1") from None
            except httpx2.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in PASSING:
                    return self._read(response, path)
                trouble = f"it answers {response.status_code}: {_words(response)}"
                asked_for = _seconds(response.headers.get("Retry-After"))
            if left:
                # Jitter, so that the requests of one failed replica do not come back all at once.
                if self.halt.wait(max(asked_for, min(wait, LONGEST_WAIT) * random.uniform(0.5, 1))):
                    break
                wait *= 2
        times = f" after {tries} tries" if tries > 1 else ""
        raise UserError(
            f"no answer of {self.url}/{path}{times} ({trouble}); start the server, or see why it fails. What was "
            "finished is kept, and the same command goes on there"
        )

    def _read(self, response: httpx2.Response, path: str) -> dict[str, Any]:
        if not response.is_success:
            words, hint = _words(response), ""
            if response.status_code in (401, 403):
                hint = f"; set {KEY} to the server's key"
            elif response.status_code == 404 and path == "models":
                hint = "; the address ends in /v1 as a rule"
            sentence = f"{self.url}/{path} answers {response.status_code}: {words}{hint}"
            raise Refused(sentence, response.status_code, words)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(
                f"{self.url}/{path} answers what is no JSON object ({response.text[:60]!r}); is it an "
                "OpenAI-compatible server?"
            )
        return found


def said(found: dict[str, Any]) -> Answer:
    """The answer in a chat completion, with its probability where the server tells it.

    Raises:
        UserError: it holds no message.
    """
    try:
        choice = found["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content")
        logprob = None if tokens is None else sum(float(token["logprob"]) for token in tokens)
        text = str(choice["message"]["content"] or "").strip()
        return Answer(text, choice.get("finish_reason") != "length", logprob)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise UserError("the server's answer holds no message; is it OpenAI-compatible?") from None


def _words(response: httpx2.Response) -> str:
    """What a server says about an error, in one line."""
    try:
        found = response.json()
        told = found.get("error", found)
        text = str(told.get("message", told) if isinstance(told, dict) else told)
    except (ValueError, AttributeError):
        text = response.text
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."


def _seconds(value: str | None) -> float:
    """Of a Retry-After header; dates and nonsense are not waited for."""
    try:
        return min(max(float(value or 0), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0
