"""How a teacher's next token is chosen while it answers: never out of NaN, and drawn by each record's own numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from embervlm.errors import UserError
from embervlm.teachers.outputs import Sampling


class Choosing(LogitsProcessorList):
    """For transformers' greedy `generate` of one batch, a row for each record; says afterwards how likely each was."""

    def __init__(self, teacher: str, record_ids: Sequence[str], stops: Tensor, sampling: Sampling | None) -> None:
        """stops: int [n], on the model's device, the tokens that end an answer."""
        self._chosen = _Chosen(stops, None if sampling is None else Draw(sampling))
        super().__init__([_RefuseNaN(teacher, record_ids), self._chosen])

    @property
    def logprobs(self) -> list[float]:
        """Of each answer at T = 1, its end included; of one that was cut off as far as it goes."""
        assert self._chosen.total is not None, "nothing was generated"
        return self._chosen.total.tolist()

    @property
    def finished(self) -> list[bool]:
        """False where the length limit cut the answer off."""
        return (~self._chosen.open).tolist()


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


class _Chosen(LogitsProcessor):
    """Adds up the log-probabilities of what is taken next, until a row has come to its end."""

    def __init__(self, stops: Tensor, draw: Draw | None) -> None:
        self.stops, self.draw = stops, draw
        self.total: Tensor | None = None  # [B]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        left = scores if self.draw is None else self.draw(input_ids, scores)
        taken = left.argmax(-1)
        logprobs = scores.float().log_softmax(-1).gather(1, taken[:, None])[:, 0]
        if self.total is None:
            self.total, self.open = torch.zeros_like(logprobs), torch.ones_like(taken, dtype=torch.bool)
        self.total += logprobs.where(self.open, 0.0)
        self.open &= ~torch.isin(taken, self.stops)
        return left


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
