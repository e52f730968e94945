"""What pulls the student towards the teacher: divergences between two distributions over the same few events.

Each takes p (the teacher), q and log q (the student) as [C, E], the rest being one of the events, and returns the value
of each row [C] in nats and its gradient with respect to the student's event logits s, where q = softmax(s), [C, E]. An
event that a row does not have has p = q = log q = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PROBABILITY_FLOOR = 1e-7
"""Teacher probabilities below this are raised to it where the student weighs their logarithm, infinite at zero."""

Divergence = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def forward_kl(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) = sum p log(p / q) (Hinton et al., arXiv 1503.02531)."""
    return (torch.xlogy(p, p) - p * log_q).sum(1), q - p


def reverse_kl(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(student || teacher) = sum q log(q / p) (MiniLLM, arXiv 2306.08543): seeks the teacher's main modes."""
    ratio = log_q - p.clamp(min=PROBABILITY_FLOOR).log()
    value = (q * ratio).sum(1)
    return value, q * (ratio - value[:, None])


def jsd(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Generalised Jensen-Shannon: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD, arXiv
    2306.13649). Near beta = 0 it is beta times the forward KL, near 1 it is 1 - beta times the reverse one."""
    log_m = (beta * p + (1 - beta) * q).clamp(min=torch.finfo(q.dtype).tiny).log()
    above = torch.where(q > 0, (1 - beta) * (log_q - log_m), 0.0)
    inside = (q * above).sum(1)
    value = beta * (torch.xlogy(p, p) - p * log_m).sum(1) + inside
    return value, q * (above - inside[:, None])


DIVERGENCES: dict[str, Divergence] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}
"""The choices of `--distillation_loss`."""
