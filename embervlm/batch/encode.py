"""One record as the student reads it. The only place that shifts and masks labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embervlm.data.record import Record

IGNORE = -100
"""Label of a position that is not trained."""


@dataclass(frozen=True)
class Response:
    """One assistant turn inside a row. A truncated row may end before the response does; `ids` is always whole."""

    turn: int  # which assistant turn of the record, from 0
    first: int  # index t in the row such that shift_labels[t] is the response's first token
    ids: np.ndarray  # int32 [m], student tokens of `text` alone, then the EOS
    text: str

    def kept(self, row_length: int) -> int:
        """How many of its tokens are labels of a row with `row_length` positions."""
        return max(0, min(len(self.ids), row_length - self.first))


@dataclass(frozen=True)
class Encoded:
    """Position t reads input_ids[t] and is asked for shift_labels[t]. The last EOS is asked for, never read."""

    record_id: str
    input_ids: np.ndarray  # int32 [L]
    shift_labels: np.ndarray  # int32 [L], IGNORE where nothing is asked for
    image: str | None
    responses: tuple[Response, ...]  # those with at least one label left
    truncated: bool

    @property
    def has_labels(self) -> bool:
        return bool(self.responses)


def encode(record: Record, processor: Any, max_length: int) -> Encoded:
    """`<|user|>{<image> x n}{question}<|assistant|>{answer}<|endoftext|><|user|>...`, labels on answers and EOS only.

    Args:
        processor: the student's.
        max_length: positions of the row; what is beyond is cut from the end (`truncated`).

    Names of special tokens inside questions and answers are plain text. A row can end up without any label: the
    caller must look at `has_labels`.
    """
    tokenizer = processor.tokenizer
    row: list[int] = []
    labels: list[int] = []
    responses: list[Response] = []
    for turn, (question, answer) in enumerate(record.turns()):
        prompt = processor.encode_prompt(question, turn == 0 and record.image is not None)
        reply = tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        reply = [*reply, tokenizer.eos_token_id]
        row += prompt
        labels += [IGNORE] * len(prompt)
        responses.append(Response(turn, len(row) - 1, np.array(reply, dtype=np.int32), answer))
        row += reply
        labels += reply

    input_ids = np.array(row[:-1][:max_length], dtype=np.int32)
    return Encoded(
        record_id=record.id,
        input_ids=input_ids,
        shift_labels=np.array(labels[1:][:max_length], dtype=np.int32),
        image=record.image,
        responses=tuple(response for response in responses if response.first < len(input_ids)),
        truncated=len(row) - 1 > max_length,
    )


def surely_fits(record: Record, processor: Any, max_length: int) -> bool:
    """True when the first answer certainly starts inside the row, told from text lengths without tokenizing.

    A byte-level tokenizer never makes more tokens than there are bytes. False means: encode it to know.
    """
    images = 0 if record.image is None else processor.num_image_tokens
    return images + 2 + len(record.turns()[0][0].encode("utf-8")) <= max_length
