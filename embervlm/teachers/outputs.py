"""What a teacher said about one response: the type that the cache, the alignment and the projection share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from embervlm.data.record import Record
    from embervlm.tokens import Spans

TEMPERATURE_GRID = (1.0, 1.25, 1.6, 2.0, 3.0, 4.0)
"""Temperatures whose normalisers are kept; any other one between the first and the last is interpolated in 1/T."""

BETAS = 1 / np.array(TEMPERATURE_GRID)

NOISE = 1e-6
"""A tail below this share of the normaliser is the rounding of fp32 log-probabilities: nothing is left there."""


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
    top_ids: np.ndarray  # int32 [n, k], -1 where a token has fewer entries
    top_logprobs: np.ndarray  # float32 [n, k], natural log, T = 1, descending, -inf where a token has fewer
    log_normalisers: np.ndarray  # float32 [n, G], log sum_w p_w^(1/T) over the whole vocabulary, T in TEMPERATURE_GRID
    realised_logprobs: np.ndarray  # float32 [n], natural log, T = 1

    def __len__(self) -> int:
        return len(self.token_ids)


def outputs_from_logits(
    logits: np.ndarray, token_ids: np.ndarray, spans: Spans, top_k: int = 48, record_id: str = "", turn: int = 0
) -> TeacherOutputs:
    """The cached form of a teacher's logits: entries, normalisers, realised log-probabilities.

    Args:
        logits: float [n, V], row i the logits from which token i of the answer was to be predicted: the row of the
            position *before* that token.
        token_ids: int [n], the realised tokens of the answer, the end-of-turn token last.
        spans: the bytes of the answer that each of them covers, in its `starts` and `ends`, int [n]; the end of turn
            starts and ends at the last byte + 1.
    """
    exact = logits.astype(np.float64)
    highest = exact.max(1, keepdims=True)
    logp = exact - highest - np.log(np.exp(exact - highest).sum(1, keepdims=True))
    top = np.argsort(-logp, axis=1, kind="stable")[:, :top_k]
    normalisers = [np.log(np.exp(logp / temperature).sum(1)) for temperature in TEMPERATURE_GRID]
    return TeacherOutputs(
        record_id=record_id,
        turn=turn,
        token_ids=token_ids.astype(np.int32),
        starts=spans.starts,
        ends=spans.ends,
        top_ids=top.astype(np.int32),
        top_logprobs=np.take_along_axis(logp, top, 1).astype(np.float32),
        log_normalisers=np.stack(normalisers, 1).astype(np.float32),
        realised_logprobs=logp[np.arange(len(token_ids)), token_ids].astype(np.float32),
    )


def dense(outputs: TeacherOutputs, temperature: float, vocabulary: int) -> np.ndarray:
    """float64 [n, V]: the cached form as a distribution at one temperature of the grid, the tail spread evenly.

    Raises:
        ValueError: a temperature that is not in TEMPERATURE_GRID.
    """
    at = TEMPERATURE_GRID.index(temperature)
    probs = np.exp(outputs.top_logprobs / temperature - outputs.log_normalisers[:, [at]].astype(np.float64))
    filled = outputs.top_ids >= 0
    rest = np.clip(1 - probs.sum(1), 0.0, None) / np.maximum(vocabulary - filled.sum(1), 1)
    whole = np.repeat(rest[:, None], vocabulary, axis=1)
    row, column = filled.nonzero()
    whole[row, outputs.top_ids[row, column]] = probs[row, column]
    return whole


def stack_entries(outputs: Sequence[TeacherOutputs]) -> tuple[np.ndarray, np.ndarray]:
    """top_ids int32 [N, k] and top_logprobs float32 [N, k] of many answers, as wide as the widest."""
    width = max((output.top_ids.shape[1] for output in outputs), default=1)
    ids = np.full((sum(map(len, outputs)), width), -1, dtype=np.int32)
    logprobs = np.full(ids.shape, -np.inf, dtype=np.float32)
    at = 0
    for output in outputs:
        part = slice(at, at + len(output)), slice(0, output.top_ids.shape[1])
        ids[part], logprobs[part] = output.top_ids, output.top_logprobs
        at += len(output)
    return ids, logprobs


def log_tails(top_logprobs: np.ndarray, log_normalisers: np.ndarray) -> np.ndarray:
    """float64 [n, G]: log of sum p_w^(1/T) over all that is not among the entries; -inf where only rounding is left."""
    whole = np.exp(log_normalisers.astype(np.float64))
    tail = whole - np.exp(top_logprobs.astype(np.float64)[:, :, None] * BETAS).sum(1)
    with np.errstate(divide="ignore"):
        return np.log(np.where(tail > NOISE * whole, tail, 0.0))


def entropies(log_normalisers: np.ndarray, temperature: float) -> np.ndarray:
    """float64 [n]: the entropy in nats of the whole distribution at T, from its normalisers [n, G].

    With Z(b) = sum_w p_w^b and b = 1/T it is log Z - b d(log Z)/db, of the polynomial through the grid's points: within
    0.05 nats for T from 1.25 on, less exact at 1.
    """
    powers = np.vander(BETAS, increasing=True)
    coefficients = np.linalg.solve(powers, log_normalisers.astype(np.float64).T)
    beta, order = 1 / temperature, np.arange(len(BETAS))
    return (beta**order - order * beta**order) @ coefficients


def keep_likely(outputs: TeacherOutputs, share: float) -> TeacherOutputs:
    """Without the entries whose probability at T = 2 is below `share`: they become part of the tail. 0: as it is.

    The gradient of a batch at T = 2 is made by few of the entries of sure positions and by many of unsure ones: at
    equal bytes an absolute threshold keeps more of it than a fixed number (`benchmarks/cache_fidelity.py`).
    """
    if not share:
        return outputs
    at = TEMPERATURE_GRID.index(2.0)
    likely = outputs.top_logprobs / 2 - outputs.log_normalisers[:, [at]] >= np.log(share)
    likely[:, 0] = True
    width = int(likely.sum(1).max(initial=1))
    return replace(
        outputs,
        top_ids=np.where(likely, outputs.top_ids, -1)[:, :width],
        top_logprobs=np.where(likely, outputs.top_logprobs, -np.inf)[:, :width],
    )


@dataclass(frozen=True)
class Answer:
    """What a teacher says when it is asked."""

    text: str  # without blanks around it
    finished: bool  # by the teacher; False: the length limit cut it off
    logprob: float | None = None  # of the whole answer at T = 1, natural log; None: the teacher does not tell


@dataclass(frozen=True)
class Sampling:
    """Answers are drawn, not the likeliest."""

    temperature: float
    top_p: float  # the smallest set of tokens that holds this share is drawn from
    seeds: Sequence[int]  # of each record: equal seeds draw equal answers, whatever else is asked at the same time

    def of(self, chosen: Sequence[int]) -> Sampling:
        """The same for some of the records, by their places."""
        return replace(self, seeds=[self.seeds[at] for at in chosen])


SERVED = "served"
"""The template in the fingerprint of a teacher that a server renders."""


def check_records(teacher: Teacher, records: Sequence[Record]) -> None:
    """Before hours of scoring: UserError where the teacher already knows that it cannot score some of the records."""
    check = getattr(teacher, "check_records", None)
    if check is not None:
        check(records)


def batch_of(teacher: Teacher, batch_size: int) -> int:
    """Records to hand over at once: a server works on more than one batch, and waits for the slowest of them."""
    return max(batch_size, getattr(teacher, "at_once", 0))


class Teacher(Protocol):
    """Anything that can be distilled from. Scores and answers in its own words; nobody feeds it another model's ids."""

    name: str
    tokenizer: Any
    model: Any  # None: it is not in this process, and only its largest probabilities can be had
    end_of_turn_id: int
    batch_size: int  # records that it reads at once

    def score(self, records: list[Record], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        """For each record, one TeacherOutputs per assistant turn."""
        ...

    def generate(self, records: list[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        """The greedy answer to each record's first instruction."""
        ...

    def answer(
        self, records: list[Record], image_root: Path, max_new_tokens: int, sampling: Sampling | None = None
    ) -> list[Answer]:
        """The answer to each record's last instruction, with the turns before it as history; greedy without
        `sampling`. What the record says in response to that instruction is not read."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """{"name", "weights", "tokenizer", "template"}, and "told" of one that only reads: equal, but for the name,
        exactly when two teachers say the same."""
        ...
