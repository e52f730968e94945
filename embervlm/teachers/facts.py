"""What a teacher said about some answers, in four numbers that tell whether it knew what it was talking about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from embervlm.teachers.outputs import BETAS, TeacherOutputs, entropies, log_tails


@dataclass(frozen=True)
class TeacherFacts:
    """The teacher on the answers of the data, in its own tokens."""

    tokens: int
    perplexity: float  # exp of the mean surprise per token, T = 1
    entropy: float  # mean, nats, of the whole distribution at `temperature`
    tail: float  # mean share of what is not kept, at `temperature`
    end_of_turn: float  # mean probability of ending the turn where the answer ends
    temperature: float


def teacher_facts(outputs: Iterable[TeacherOutputs], temperature: float) -> TeacherFacts:
    """Of some answers; the tail is the one at the grid's temperature nearest to `temperature`."""
    at = int(np.abs(BETAS - 1 / temperature).argmin())
    surprise, ends, unsure, tails = [], [], [], []
    for said in outputs:
        surprise.append(-said.realised_logprobs)
        ends.append(said.realised_logprobs[-1])
        unsure.append(entropies(said.log_normalisers, temperature))
        tails.append(np.exp(log_tails(said.top_logprobs, said.log_normalisers)[:, at] - said.log_normalisers[:, at]))
    every = np.concatenate(surprise)
    return TeacherFacts(
        tokens=len(every),
        perplexity=float(np.exp(every.mean(dtype=np.float64))),
        entropy=float(np.concatenate(unsure).mean()),
        tail=float(np.concatenate(tails).mean()),
        end_of_turn=float(np.exp(ends).mean()),
        temperature=temperature,
    )
