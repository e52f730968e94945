"""What the student is distilled towards: a few events per position with their probabilities, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NONE, ANCHORED, INTERIOR = 0, 1, 2
"""Kinds of a student position; see `embervlm.distill.align`."""


@dataclass(frozen=True)
class ResponseTargets:
    """The projected teacher for one response; row j belongs to student token j of the response, the EOS last."""

    kinds: np.ndarray  # int8 [m], NONE / ANCHORED / INTERIOR
    ids: np.ndarray  # int32 [m, K], student tokens (events), -1 = empty
    logprobs: np.ndarray  # float32 [m, K], natural log at T = 1, not tempered, -inf where empty
    log_tail: np.ndarray  # float32 [m, G], log sum of p_w^(1/T) over what is no event, T in the grid; -inf: nothing


@dataclass(frozen=True)
class Targets:
    """One batch; row i is the i-th labelled position in row-major order. probs.sum(1) + rest = 1 where has_target."""

    ids: Tensor  # int64 [N, K], -1 = empty; an id occurs once in a row
    probs: Tensor  # float32 [N, K], at temperature T, 0 where empty
    rest: Tensor  # float32 [N], mass of everything else at temperature T
    has_target: Tensor  # bool [N]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        ids, probs, rest, has_target = (
            part.to(device, non_blocking=non_blocking) for part in (self.ids, self.probs, self.rest, self.has_target)
        )
        return Targets(ids, probs, rest, has_target)
