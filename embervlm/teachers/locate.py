"""Where the answers lie in a rendered conversation, in tokens and in bytes. Only strings and a tokenizer in reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embervlm.errors import UserError


@dataclass(frozen=True)
class Located:
    """One answer: its tokens as they stand in the conversation, the end of turn last."""

    behind: int  # tokens from the answer's first one to the end of the conversation
    ids: np.ndarray  # int32 [n]
    starts: np.ndarray  # int32 [n], bytes in the answer, -1 = unknown
    ends: np.ndarray  # int32 [n]


def find_answers(rendered: str, prompts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Offset in characters of each answer in the rendered conversation.

    prompts[i]: the conversation rendered up to answer i, with the generation prompt. Where it is a prefix of the whole,
    only white space may stand between it and the answer; otherwise the template rewrites history, and the answer is
    looked for behind the one before it.
    """
    places, behind = [], 0
    for prompt, answer in zip(prompts, answers, strict=True):
        prompt = prompt if rendered.startswith(prompt) else prompt.rstrip()
        is_prefix = rendered.startswith(prompt)
        begin = max(len(prompt), behind) if is_prefix else behind
        place = rendered.find(answer, begin)
        if place < 0 or (is_prefix and rendered[begin:place].strip()):
            raise UserError(
                f"the answer {_short(answer)} does not stand in the conversation as the teacher's chat template writes "
                f"it ({_short(rendered[begin:])} follows the prompt): the teacher cannot be scored on it"
            )
        places.append(place)
        behind = place + len(answer)
    return places


def locate(
    tokenizer: Any,
    alphabet: Sequence[bytes | None],
    rendered: str,
    places: Sequence[int],
    answers: Sequence[str],
    end_of_turn_id: int,
    add_special_tokens: bool,
) -> tuple[list[int], list[Located]]:
    """The conversation's token ids and where each answer lies in them.

    The whole conversation is tokenised once, so the ids are those that the teacher reads. A blank in front of the
    answer that the tokenizer joins to the first word is left out of its span; any other token that reaches over the
    border of the answer has an unknown span, as has the end of turn behind it.

    Args:
        alphabet: `embervlm.tokens.token_bytes(tokenizer)`.
        places, answers: `find_answers` and what it was asked for.
    """
    encoding = tokenizer(rendered, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    located = []
    for place, answer in zip(places, answers, strict=True):
        first = int(np.searchsorted(np.maximum.accumulate(offsets[:, 1]), place, side="right"))
        last = first
        while answer and last < len(ids) and offsets[last, 0] < place + len(answer):
            last += 1
        words = [alphabet[token_id] for token_id in ids[first:last]]
        text = b"".join(word or b"" for word in words)
        lead = text.find(answer.encode())
        if lead < 0 or None in words:
            raise UserError(
                f"the teacher's tokenizer reads the answer {_short(answer)} as {text.decode(errors='replace')!r}: "
                "its tokens cannot be told from their bytes, so the teacher cannot be scored on it"
            )
        ends = np.cumsum([len(word or b"") for word in words], dtype=np.int32) - lead
        starts = ends - np.array([len(word or b"") for word in words], dtype=np.int32)
        skip = int((ends <= 0).sum()) if len(words) else 0  # a blank that stands alone belongs to the prompt
        starts, ends = starts[skip:], ends[skip:]
        size = len(answer.encode())
        over_start = (starts < 0) & ~((starts == -1) & text.startswith(b" ", lead - 1 if lead else 0))
        starts = np.maximum(starts, 0)
        unknown = over_start | (ends > size)
        closed = not (ends > size).any()
        located.append(
            Located(
                behind=len(ids) - first - skip,
                ids=np.array([*ids[first + skip : last], end_of_turn_id], dtype=np.int32),
                starts=np.append(np.where(unknown, -1, starts), size if closed else -1).astype(np.int32),
                ends=np.append(np.where(unknown, -1, ends), size if closed else -1).astype(np.int32),
            )
        )
    return ids, located


def as_written(starts: np.ndarray, ends: np.ndarray, written: str) -> tuple[np.ndarray, np.ndarray]:
    """Spans [n] of a stripped answer, in the answer as it is written: teachers do not read the blanks around it."""
    if written == written.strip():
        return starts, ends
    front = len(written.encode()) - len(written.lstrip().encode())
    known = starts >= 0
    starts, ends = (np.where(known, side + front, -1).astype(np.int32) for side in (starts, ends))
    if written != written.rstrip():
        starts[-1] = ends[-1] = -1  # the blanks before the end were never read
    return starts, ends


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
