"""How a teacher's next token is chosen while it answers: never out of NaN, and drawn by each record's own numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from embervlm.errors import UserError
from embervlm.teachers.outputs import Sampling


def choosing(teacher: str, record_ids: Sequence[str], sampling: Sampling | None) -> LogitsProcessorList:
    """For transformers' greedy `generate` of one batch, a row for each record."""
    processors: list[LogitsProcessor] = [_RefuseNaN(teacher, record_ids)]
    return LogitsProcessorList(processors if sampling is None else [*processors, Draw(sampling)])


class _RefuseNaN(LogitsProcessor):
    """Greedy decoding takes a NaN for the largest number and goes on."""

    def __init__(self, teacher: str, record_ids: Sequence[str]) -> None:
        self.teacher, self.record_ids = teacher, record_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        broken = scores.isnan().any(-1)
        if broken.any():
            raise UserError(
                f"record {self.record_ids[int(broken.int().argmax())]}: teacher {self.teacher} gave logits that are "
                "not numbers; load it in bf16 or fp32 instead of fp16, or check its weights"
            )
        return scores


class Draw(LogitsProcessor):
    """Leaves each row one token, drawn from its nucleus (Holtzman et al., 2020) by inverting the distribution function.

    A row uses one number a step from a generator of its own, so its draw does not depend on the rest of the batch, as
    it would with torch's generator.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.generators = [np.random.Generator(np.random.Philox(seed)) for seed in sampling.seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores float [B, V] -> 0 at the drawn token, -inf elsewhere."""
        probs, order = (scores.float() / self.temperature).softmax(-1).sort(stable=True, dim=-1, descending=True)
        upto = probs.cumsum(-1)
        last = ((upto - probs) < self.top_p).sum(-1, keepdim=True).clamp(min=1) - 1  # of the nucleus
        numbers = torch.tensor([generator.random() for generator in self.generators], device=scores.device)
        point = numbers.to(upto.dtype)[:, None] * upto.gather(1, last)
        at = torch.minimum(torch.searchsorted(upto, point, right=True), last)
        return torch.full_like(scores, -torch.inf).scatter_(1, order.gather(1, at), 0.0)
