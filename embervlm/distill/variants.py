"""Other ways to tell the teacher in the student's tokens, each from its paper, over the same cached outputs.

Each takes what `project_batch` takes and returns what it returns. The definitions follow the papers as far as they
are public; all of them were tried there on-policy with full logits, here they read the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.distill.align import ANCHORED, NONE, Alignment, align
from embervlm.distill.project import BETAS, Response, ResponseTargets, join, merge, project_batch, split, usable
from embervlm.distill.token_map import TokenMap
from embervlm.teachers.outputs import stack_entries


def strict(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """Strict top-16 (arXiv 2610.08448): only where one student token is one teacher token, over the words of the head
    that both vocabularies have, renormalised. No rest."""
    said = anchored(responses, token_map)
    one_to_one = (said.alignment.last - said.alignment.first == 1)[said.rows] & said.same_end
    words = said.head[one_to_one]
    spelled = token_map.rows(words, np.zeros((len(words), 1), dtype=bool))
    shared = (token_map.token(spelled, 0) >= 0) & (token_map.token(spelled, 1) < 0)
    mass = np.where(shared, np.exp(said.logp[one_to_one]), 0.0)
    some = mass.sum(1) > 0
    ids, mass = merge(token_map.token(spelled, 0)[some], mass[some])
    nothing = np.zeros((len(ids), len(BETAS)))
    return targets(said, said.rows[one_to_one][some], ids, mass / mass.sum(1, keepdims=True), nothing)


TARGETS: dict[str, Callable[[Sequence[Response], TokenMap], list[ResponseTargets]]] = {
    "resolved": project_batch,
    "strict": strict,
}
"""The choices of `--distillation_targets`."""


@dataclass(frozen=True)
class Anchored:
    """The joined responses and the teacher's head at each anchored position [R]."""

    sizes: list[int]
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
    return Anchored(sizes, kinds, alignment, rows, same_end, head, logp.astype(np.float64), whole)


def targets(
    said: Anchored, rows: np.ndarray, ids: np.ndarray, mass: np.ndarray, rest: np.ndarray
) -> list[ResponseTargets]:
    kinds = np.full(len(said.kinds), NONE, dtype=np.int8)
    kinds[rows] = ANCHORED
    with np.errstate(divide="ignore"):
        return split(said.sizes, kinds, rows, ids, np.log(mass), np.log(rest))
