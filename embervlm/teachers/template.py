"""A chat template of which only the tokens are seen: what stands before an answer and behind it, learned once.

Tokens are read as bytes, a special one as a mark that no text holds. A conversation of known words shows what the
template writes between question and answer, and behind the answer; in any other conversation the answer is what stands
between the two. Nothing is rendered or tokenised here, so there is nothing in which the server could differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.errors import UserError

WORDS = (("Which tree?", "walnut"), ("Which bush?", "juniper"))
"""A conversation whose words stand in no template."""


@dataclass(frozen=True)
class Template:
    """What stands around the answers: around one that is followed by another question, and around the last one."""

    before: tuple[bytes, bytes]
    behind: tuple[bytes, bytes]
    end_of_turn_id: int | None  # None: no special token closes an answer


def learn(ids: Sequence[int], alphabet: Sequence[bytes | None]) -> Template:
    """From the tokens that a server makes of `WORDS`.

    Raises:
        UserError: the words cannot be read in them (another tokenizer), or nothing is behind the last one.
    """
    stream, borders = as_bytes(ids, alphabet)
    places: list[tuple[int, int]] = []
    for word in (text.encode() for turn in WORDS for text in turn):
        place = stream.find(word)
        if place < 0 or stream.count(word) > 1 or (places and place < places[-1][1]):
            raise UserError(
                f"in the tokens that the server makes of {WORDS[0][0]!r} {WORDS[0][1]!r}, these words are not found: "
                "its tokenizer is another one, or its chat template leaves words out"
            )
        places.append((place, place + len(word)))
    first, answer, second, last = places
    behind = stream[answer[1] : second[0]], stream[last[1] :]
    if not behind[1]:
        raise UserError(
            "the server's chat template writes nothing behind the last answer, so the end of the turn has no "
            "probability; serve it with a --chat-template that closes the assistant's turn"
        )
    closing = {_token_at(ids, borders, end) for end in (answer[1], last[1])}
    special = {token for token in closing if token is not None and token < len(alphabet) and alphabet[token] is None}
    return Template(
        before=(stream[first[1] : answer[0]], stream[second[1] : last[0]]),
        behind=behind,
        end_of_turn_id=special.pop() if len(special) == len(closing) == 1 else None,
    )


def find(
    template: Template, ids: Sequence[int], alphabet: Sequence[bytes | None], answers: Sequence[str]
) -> list[range]:
    """The positions of each answer's tokens in a conversation, in order; what closes the turn is at `.stop`.

    Raises:
        UserError: an answer does not stand there as it is written.
    """
    stream, borders = as_bytes(ids, alphabet)
    found, at = [], 0
    for number, answer in enumerate(answers):
        last = number == len(answers) - 1
        before, behind = template.before[last], template.behind[last]
        whole = before + answer.encode() + behind
        place = len(stream) - len(whole) if last else stream.find(whole, at)
        if place < at or not stream.startswith(whole, place):
            raise UserError(
                f"the answer {answer[:40]!r} does not stand in the conversation as the server's chat template writes "
                "it: its tokenizer changes the text, or the template the answer"
            )
        begin = place + len(before)
        at = begin + len(answer.encode())
        # A token that reaches over a border is taken whole: whether its bytes join to the answer is judged later.
        start = int(np.searchsorted(borders, begin, side="right")) - 1
        stop = int(np.searchsorted(borders, at, side="left"))
        found.append(range(start, stop) if answer else range(stop, stop))
    return found


def as_bytes(ids: Sequence[int], alphabet: Sequence[bytes | None]) -> tuple[bytes, np.ndarray]:
    """The tokens' bytes, and int64 [n + 1] where each token begins. 0xff, which UTF-8 never holds, is around the ids of
    special tokens, and of those that the tokenizer does not have: servers number pictures so."""
    known = [alphabet[token] if 0 <= token < len(alphabet) else None for token in ids]
    words = [b"\xff%d\xff" % token if word is None else word for token, word in zip(ids, known, strict=True)]
    return b"".join(words), np.cumsum([0, *map(len, words)])


def _token_at(ids: Sequence[int], borders: np.ndarray, place: int) -> int | None:
    """The token that begins at this byte."""
    index = int(np.searchsorted(borders, place, side="left"))
    return ids[index] if index < len(ids) and borders[index] == place else None
