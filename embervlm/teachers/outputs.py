"""What a teacher said about one response: the type that the cache, the alignment and the projection share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from embervlm.data.record import Record

TEMPERATURE_GRID = (1.0, 1.25, 1.6, 2.0, 3.0, 4.0)
"""Temperatures whose normalisers are kept; any other one between the first and the last is interpolated in 1/T."""


@dataclass(frozen=True)
class TeacherOutputs:
    """One assistant turn, teacher-forced in the teacher's own chat template. n tokens, the end-of-turn token last.

    Byte spans count in `response.encode("utf-8")`; -1 means unknown. The span of the first token may be one byte
    shorter than the token: some templates put a blank before the answer, and the tokenizer joins it to the first word.
    """

    record_id: str
    turn: int  # which assistant turn of the record, from 0
    token_ids: np.ndarray  # int32 [n], the realised teacher tokens
    starts: np.ndarray  # int32 [n], first byte of each token; the end of turn starts and ends at the last byte + 1
    ends: np.ndarray  # int32 [n]
    top_ids: np.ndarray  # int32 [n, k]
    top_logprobs: np.ndarray  # float32 [n, k], natural log, T = 1, descending
    log_normalisers: np.ndarray  # float32 [n, G], log sum_w p_w^(1/T) over the whole vocabulary, T in TEMPERATURE_GRID
    realised_logprobs: np.ndarray  # float32 [n], natural log, T = 1

    def __len__(self) -> int:
        return len(self.token_ids)


class Teacher(Protocol):
    """Anything that can be distilled from. Scores and answers in its own words; nobody feeds it another model's ids."""

    name: str
    tokenizer: Any
    model: Any
    end_of_turn_id: int

    def score(self, records: list[Record], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        """For each record, one TeacherOutputs per assistant turn."""
        ...

    def generate(self, records: list[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        """The greedy answer to each record's first instruction."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """{"name", "weights", "tokenizer", "template"}: equal exactly when two teachers say the same."""
        ...
