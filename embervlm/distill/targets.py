"""What the loss takes: for each labelled position of a batch a few events with their probabilities, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embervlm.distill.align import ANCHORED, INTERIOR, NONE
from embervlm.distill.project import ResponseTargets, project, project_batch
from embervlm.distill.token_map import TokenMap, build_token_map
from embervlm.teachers.outputs import TEMPERATURE_GRID

__all__ = [
    "ANCHORED",
    "INTERIOR",
    "NONE",
    "ResponseTargets",
    "Targets",
    "TokenMap",
    "build_token_map",
    "collate_targets",
    "project",
    "project_batch",
    "tail_at",
]


@dataclass(frozen=True)
class Targets:
    """One batch; row i is the i-th labelled position in row-major order. probs.sum(1) + rest = 1 where has_target.

    An event is a student token, or a set of them: `events` then says for each id which event it belongs to, as a place
    in `probs`.
    """

    ids: Tensor  # int64 [N, K], -1 = empty; an id occurs once in a row
    probs: Tensor  # float32 [N, K], of the events at temperature T, 0 where there is none
    rest: Tensor  # float32 [N], mass of everything else at temperature T
    has_target: Tensor  # bool [N]
    events: Tensor | None = None  # int64 [N, K], 0..K-1; None: each id is an event by itself

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        ids, probs, rest, has_target = (
            part.to(device, non_blocking=non_blocking) for part in (self.ids, self.probs, self.rest, self.has_target)
        )
        events = None if self.events is None else self.events.to(device, non_blocking=non_blocking)
        return Targets(ids, probs, rest, has_target, events)


def tail_at(log_tail: np.ndarray, temperature: float) -> np.ndarray:
    """float64 [...]: the log of the tail at any T between the ends of the grid, from its values [..., G] on the grid.

    log sum_w p_w^b is smooth and convex in b = 1/T; off the grid it is the polynomial through the grid's points
    (Lagrange). Where the tail is nothing at some point of the grid, the nearest point answers.
    """
    if not TEMPERATURE_GRID[0] <= temperature <= TEMPERATURE_GRID[-1]:
        ends = f"{TEMPERATURE_GRID[0]:g} and {TEMPERATURE_GRID[-1]:g}"
        raise ValueError(f"the temperature is {temperature:g}; what the teacher said is kept for T between {ends}")
    betas, beta = 1 / np.array(TEMPERATURE_GRID), 1 / temperature
    nearest = log_tail[..., np.abs(betas - beta).argmin()].astype(np.float64)
    if temperature in TEMPERATURE_GRID:
        return nearest
    weights = np.array([np.prod([(beta - o) / (b - o) for o in betas if o != b]) for b in betas])
    finite = np.isfinite(log_tail).all(-1)
    return np.where(finite, np.where(finite[..., None], log_tail, 0.0) @ weights, nearest)


def collate_targets(
    responses: Sequence[tuple[int, int, ResponseTargets]], shift_labels: Tensor | np.ndarray, temperature: float
) -> Targets:
    """Temper the projected targets ("project at T = 1, then temper", DESIGN 4.2) and lay them beside the labels.

    p_u = P(u)^(1/T) / Z, rest = tail_T / Z, Z = sum_u P(u)^(1/T) + tail_T. K is the most events of any position.

    Args:
        responses: (row of the batch, Response.first, targets); the targets' first position is `first`.
        shift_labels: int [B, L], -100 where there is no label. Every position of a response must have one.
    """
    labelled = np.asarray(shift_labels) != -100
    place = labelled.ravel().cumsum().reshape(labelled.shape) - 1
    count = int(labelled.sum())
    width = max((int((targets.ids >= 0).sum(1).max(initial=0)) for _, _, targets in responses), default=0)
    ids = np.full((count, max(width, 1)), -1, dtype=np.int64)
    log_p = np.full(ids.shape, -np.inf)
    log_rest = np.full(count, -np.inf)
    has_target = np.zeros(count, dtype=bool)
    sets = np.tile(np.arange(ids.shape[1]), (count, 1)) if any(t.events is not None for *_, t in responses) else None
    for row, first, targets in responses:
        span = slice(first, first + len(targets.kinds))
        if not labelled[row, span].all() or span.stop > labelled.shape[1]:
            raise ValueError(f"row {row}: positions {first} to {span.stop - 1} have targets, but not all have a label")
        at = place[row, span]
        listed = targets.ids[:, : max(width, 1)]
        ids[at, : listed.shape[1]] = listed
        log_p[at, : listed.shape[1]] = targets.logprobs[:, : max(width, 1)] / temperature
        if sets is not None and targets.events is not None:
            sets[at, : listed.shape[1]] = targets.events[:, : max(width, 1)]
        log_rest[at] = tail_at(targets.log_tail, temperature)
        has_target[at] = targets.kinds != NONE
    highest = np.where(has_target, np.maximum(log_p.max(1), log_rest), 0.0)
    p, rest = np.exp(log_p - highest[:, None]), np.exp(log_rest - highest)
    total = np.where(has_target, p.sum(1) + rest, 1.0)
    return Targets(
        torch.from_numpy(ids),
        torch.from_numpy((p / total[:, None]).astype(np.float32)),
        torch.from_numpy((rest / total).astype(np.float32)),
        torch.from_numpy(has_target),
        None if sets is None else torch.from_numpy(sets),
    )
