"""Other ways to tell the teacher in the student's tokens, each from its paper, over the same cached outputs.

Each takes what `project_batch` takes and returns what it returns. The definitions follow the papers as far as they
are public; all of them were tried there on-policy with full logits, here they read the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.distill.align import ANCHORED, NONE, Alignment, align
from embervlm.distill.project import Response, ResponseTargets, join, merge, project_batch, split, usable
from embervlm.distill.token_map import TokenMap
from embervlm.teachers.outputs import BETAS, log_tails, stack_entries


def strict(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """Strict top-16 (arXiv 2610.08448): only where one student token is one teacher token, over the words of the head
    that both vocabularies have, renormalised. No rest."""
    said = anchored(responses, token_map)
    first = said.alignment.first[said.rows]
    own = token_map.rows(said.teacher_ids[first], np.asarray(False))
    equal = (token_map.token(own, 0) == said.student_ids[said.rows]) & (token_map.token(own, 1) < 0)
    one_to_one = equal & said.same_end & (said.alignment.last[said.rows] - first == 1)
    words = said.head[one_to_one]
    spelled = token_map.rows(words, np.zeros((len(words), 1), dtype=bool))
    shared = (token_map.token(spelled, 0) >= 0) & (token_map.token(spelled, 1) < 0)
    mass = np.where(shared, np.exp(said.logp[one_to_one]), 0.0)
    some = mass.sum(1) > 0
    ids, mass = merge(token_map.token(spelled, 0)[some], mass[some])
    nothing = np.zeros((len(ids), len(BETAS)))
    return targets(said, said.rows[one_to_one][some], ids, mass / mass.sum(1, keepdims=True), nothing)


def uld(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """ULD (arXiv 2402.12030): no alignment; the j-th student token is paired with the j-th teacher token, and its loss
    compares sorted probabilities. So the ids are only ranks, 0 for the likeliest."""
    found = []
    for student_ids, _, outputs in responses:
        count, paired = len(student_ids), min(len(student_ids), len(outputs))
        rank = np.full((count, outputs.top_ids.shape[1]), -1, dtype=np.int32)
        logprobs = np.full(rank.shape, -np.inf, dtype=np.float32)
        tail = np.full((count, len(BETAS)), -np.inf, dtype=np.float32)
        rank[:paired] = np.where(outputs.top_ids[:paired] >= 0, np.arange(rank.shape[1]), -1)
        logprobs[:paired] = outputs.top_logprobs[:paired]
        tail[:paired] = log_tails(outputs.top_logprobs, outputs.log_normalisers)[:paired]
        kinds = np.where(np.arange(count) < paired, ANCHORED, NONE).astype(np.int8)
        found.append(ResponseTargets(kinds, rank, logprobs, tail))
    return found


def truncated(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """What most tools keep of a teacher: the 16 likeliest entries, renormalised; the mass outside is forgotten. Cut in
    the student's tokens, after our projection, so that the tail is all that differs from it."""
    return [_without_tail(told) for told in project_batch(responses, token_map)]


def _without_tail(told: ResponseTargets) -> ResponseTargets:
    ids, logprobs = told.ids[:, :TRUNCATED_TO], told.logprobs[:, :TRUNCATED_TO]  # they are by falling mass
    mass = np.exp(logprobs.astype(np.float64))
    whole = mass.sum(1)
    kinds = np.where(whole > 0, told.kinds, np.int8(NONE))
    with np.errstate(divide="ignore"):
        logprobs = np.log(mass / np.where(whole > 0, whole, 1.0)[:, None]).astype(np.float32)
    return ResponseTargets(kinds, ids, logprobs, np.full_like(told.log_tail, -np.inf))


TRUNCATED_TO = 16

TARGETS: dict[str, Callable[[Sequence[Response], TokenMap], list[ResponseTargets]]] = {
    "resolved": project_batch,
    "strict": strict,
    "truncated": truncated,
    "uld": uld,
}
"""The choices of `--distillation_targets`."""


@dataclass(frozen=True)
class Anchored:
    """The joined responses and the teacher's head at each anchored position [R]."""

    sizes: list[int]
    student_ids: np.ndarray  # int32 [M]
    teacher_ids: np.ndarray  # int32 [N]
    kinds: np.ndarray  # int8 [M]
    alignment: Alignment
    rows: np.ndarray  # int [R]
    same_end: np.ndarray  # bool [R], the student token and the teacher token that begins with it end together
    head: np.ndarray  # int32 [R, k]
    logp: np.ndarray  # float64 [R, k]
    whole: np.ndarray  # float64 [R, G]


def anchored(responses: Sequence[Response], token_map: TokenMap) -> Anchored:
    student, teacher, sizes = join(responses)
    alignment = align(student, teacher)
    without_blank, _, kinds = usable(alignment, teacher, token_map)
    rows = np.flatnonzero((kinds == ANCHORED) & ~without_blank)
    first = alignment.first[rows]
    head, logp = (column[first] for column in stack_entries([outputs for _, _, outputs in responses]))
    normalisers = np.concatenate([outputs.log_normalisers for _, _, outputs in responses])[first]
    same_end = student.ends[rows] == teacher.ends[first]
    whole = np.exp(normalisers.astype(np.float64))
    return Anchored(
        sizes, student.ids, teacher.ids, kinds, alignment, rows, same_end, head, logp.astype(np.float64), whole
    )


def targets(
    said: Anchored, rows: np.ndarray, ids: np.ndarray, mass: np.ndarray, rest: np.ndarray
) -> list[ResponseTargets]:
    kinds = np.full(len(said.kinds), NONE, dtype=np.int8)
    kinds[rows] = ANCHORED
    with np.errstate(divide="ignore"):
        return split(said.sizes, kinds, rows, ids, np.log(mass), np.log(rest))
