"""Top-k log-probabilities at T = 1, as vLLM and DistillKit write them -> TeacherOutputs.

Such records hold no normalisers. The mass outside the entries is known at T = 1, it is what is left of 1; how it is
spread is not. It is taken to fall with the rank r as r^-1.7. `benchmarks/imported_tail.py` compares this with other
guesses on SmolLM2: at T = 2 and 20 entries the log of the tail is wrong by 0.2 nats in the mean, a uniform one by 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embervlm.errors import UserError
from embervlm.teachers.entries import MOST
from embervlm.teachers.outputs import BETAS, NOISE, TeacherOutputs
from embervlm.tokens import lay_over, token_bytes

EXPONENT = 1.7
"""Of the tail's power law, the best of those tried on one teacher; entries need not be many enough to fit one."""
ESTIMATED_TAIL = f"estimated: known at T = 1, falls as rank^-{EXPONENT}"
"""What the manifest of such a cache says under `tail`."""
TAIL_EFFECT = (
    "at T = 2, with 20 entries, its log is off by 0.2 nats and the gradient's cosine with the full distribution's is "
    ".982, where an exact tail gives .989 (SmolLM2; benchmarks imported_tail and cache_fidelity --quick)"
)
"""What that costs, for a person."""
ABOVE_ONE = 0.01
"""By how much the probabilities of a token may add up to more than 1: servers round."""


def outputs_from_logprobs(
    record_id: str,
    text: str,
    token_ids: Sequence[int],
    logprobs: Sequence[Mapping[Any, Any]],
    tokenizer: Any,
    turn: int = 0,
    end_of_turn_id: int | None = None,
) -> TeacherOutputs:
    """One answer as a server scored it.

    Exact: entries, the realised token where it is among them, the tail at T = 1. Estimated: the tail at other
    temperatures, and the log-probability of a realised token outside the entries (as the tail's likeliest one).

    Args:
        text: the answer.
        token_ids: [n], the realised tokens, the end of turn last.
        logprobs: [n], {token id: natural log of its probability at T = 1}; ids as int or text, values as numbers,
            as {"logprob": number}, or as objects with `.logprob`. At most 254 a token are kept, the likeliest.
        tokenizer: the teacher's.
        end_of_turn_id: None: the tokenizer's `eos_token_id`.

    Raises:
        UserError: numbers that cannot be, tokens that are not the text's, no end of turn.
    """
    end = tokenizer.eos_token_id if end_of_turn_id is None else end_of_turn_id
    if len(token_ids) != len(logprobs) or not len(token_ids):
        raise UserError(f"{len(token_ids)} tokens and log-probabilities of {len(logprobs)}; both are needed of each")
    if token_ids[-1] != end:
        raise UserError(f"the last token is {token_ids[-1]}, not {end}, which ends a turn; ask the server to keep it")
    spans = lay_over(tokenizer, token_ids[:-1], text)
    if spans is None:
        raise UserError(f"its tokens do not join to the answer {text[:40]!r}; is this the teacher's tokenizer?")
    size, length = len(token_bytes(tokenizer)), len(text.encode())
    said = [_entries(found, place, size) for place, found in enumerate(logprobs)]
    width = max(len(ids) for ids, _ in said)
    top_ids = np.full((len(said), width), -1, dtype=np.int32)
    top = np.full((len(said), width), -np.inf)
    for row, (ids, values) in enumerate(said):
        top_ids[row, : len(ids)], top[row, : len(ids)] = ids, values
    realised_ids = np.array(token_ids, dtype=np.int32)
    counts = (top_ids >= 0).sum(1)
    mass = 1 - np.exp(top).sum(1)
    tails = estimate_tails(mass, counts, size)
    head = np.exp(top[:, :, None] * BETAS).sum(1)
    hit = top_ids == realised_ids[:, None]
    # What is not listed is no likelier than what is.
    first = np.minimum(estimate_tails(mass, counts, size, only=1)[:, 0], np.where(top_ids >= 0, top, 0.0).min(1))
    realised = np.where(hit.any(1), np.where(hit, top, -np.inf).max(1), first)
    if not np.isfinite(realised).all():
        raise UserError(f"token {int(np.argmin(np.isfinite(realised)))} has all its probability on other tokens")
    return TeacherOutputs(
        record_id=record_id,
        turn=turn,
        token_ids=realised_ids,
        starts=np.append(spans.starts, np.int32(length)),
        ends=np.append(spans.ends, np.int32(length)),
        top_ids=top_ids,
        top_logprobs=top.astype(np.float32),
        log_normalisers=np.log(head + np.exp(tails)).astype(np.float32),
        realised_logprobs=realised.astype(np.float32),
    )


def estimate_tails(
    mass: np.ndarray, entries: np.ndarray, vocabulary: int, exponent: float = EXPONENT, only: int | None = None
) -> np.ndarray:
    """float64 [n, G]: log sum p_w^(1/T) over the tail, T in TEMPERATURE_GRID, if p_w falls as rank^-exponent.

    Args:
        mass: [n], probability of the tail at T = 1; below `NOISE` there is none, and the result is -inf.
        entries: int [n], tokens that are not in the tail, the likeliest ones.
        only: the sum over so many tokens of the tail only, the likeliest.
    """
    inside = mass > NOISE
    with np.errstate(divide="ignore"):
        log_mass = np.log(np.where(inside & (entries < vocabulary), mass, 0.0))[:, None]
    entries = np.minimum(entries, vocabulary - 1)[:, None]
    last = vocabulary if only is None else entries + only
    return _log_sum(exponent * BETAS, entries, last) + BETAS * (log_mass - _log_sum(exponent, entries, vocabulary))


def _log_sum(exponent: Any, after: Any, last: Any) -> np.ndarray:
    """log of sum r^-exponent, after < r <= last, by the midpoint rule: within 1% where 5 ranks or more come before."""
    power = 1 - np.asarray(exponent, dtype=np.float64)
    power = np.where(np.abs(power) < 1e-9, 1e-9, power)
    low, high = np.log(after + 0.5), np.log(last + 0.5)
    return np.maximum(power * low, power * high) + np.log(-np.expm1(-np.abs(power) * (high - low)) / np.abs(power))


def _entries(found: Mapping[Any, Any], place: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids [k] and log-probabilities [k], falling."""
    try:
        pairs = [(int(key), _number(value)) for key, value in found.items()]
    except (AttributeError, TypeError, ValueError, KeyError):
        raise UserError(f"token {place} has no {{id: log-probability}} of numbers") from None
    pairs = [pair for pair in pairs if pair[1] > -np.inf]
    ids, values = np.array([i for i, _ in pairs], dtype=np.int64), np.array([v for _, v in pairs], dtype=np.float64)
    if not len(ids) or np.isnan(values).any() or (values > 1e-3).any() or np.exp(values).sum() > 1 + ABOVE_ONE:
        raise UserError(f"token {place} has probabilities that are none, or that add up to more than 1")
    if (ids < 0).any() or len(np.unique(ids)) != len(ids):
        raise UserError(f"token {place} names a token twice, or one below 0")
    order = np.argsort(-values, kind="stable")[: min(MOST, vocabulary)]
    return ids[order], np.minimum(values[order], 0.0)


def _number(value: Any) -> float:
    if isinstance(value, Mapping):
        value = value["logprob"]
    return float(getattr(value, "logprob", value))
