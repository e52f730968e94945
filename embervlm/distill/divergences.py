"""Divergences between what the teacher and the student say, each with its gradient in closed form.

Each function compares probabilities over the same few buckets, which are all there is: each row sums to one.

    p: [C, B], the teacher's. q: [C, B], the student's; log_q: its logarithm, 0 where q is an empty bucket.
    Returns the divergence [C] in nats (ULD: no unit), and its gradient [C, B] with respect to log-masses a with
    q = softmax(a), that is q_b (g_b - sum_c q_c g_c) for g = d/dq.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PROBABILITY_FLOOR = 1e-7
"""Teacher probabilities below this are raised to it in KL(student || teacher), which is infinite at zero."""

Divergence = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(p, q, log_q, beta) -> (divergence, gradient)."""


def forward_kl(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(p || q), Hinton et al. (arXiv 1503.02531)."""
    return (torch.xlogy(p, p) - p * log_q).sum(1), q - p


def reverse_kl(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(q || p), as in MiniLLM (arXiv 2306.08543), with the floor under p."""
    ratio = log_q - p.clamp(min=PROBABILITY_FLOOR).log()
    divergence = (q * ratio).sum(1)
    return divergence, q * (ratio - divergence[:, None])


def jsd(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q: the generalised Jensen-Shannon divergence of
    GKD (arXiv 2306.13649). Its derivative by q is (1 - beta) log(q / m)."""
    log_m = (beta * p + (1 - beta) * q).clamp(min=torch.finfo(p.dtype).tiny).log()
    ratio = log_q - log_m
    to_student = (q * ratio).sum(1)
    to_teacher = (torch.xlogy(p, p) - p * log_m).sum(1)
    divergence = beta * to_teacher + (1 - beta) * to_student
    return divergence, (1 - beta) * q * (ratio - to_student[:, None])


def uld(p: Tensor, q: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """sum |p - q|, Universal Logit Distillation (arXiv 2402.12030): p and q are sorted, see `by_rank`."""
    sign = (q - p).sign()
    return (p - q).abs().sum(1), q * (sign - (q * sign).sum(1, keepdim=True))


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "uld": uld,
}
"""The choices of `--distillation_loss`."""


def by_rank(logits: Tensor, ids: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """For ULD: as many of the student's likeliest tokens as the teacher has events, beside the teacher's sorted p.

    logits: [C, V]; ids: int64 [C, K], -1 = empty, otherwise ignored; p: [C, K]. Returns both as [C, min(K, V)].
    """
    count = min(ids.shape[1], logits.shape[1])
    top = logits.topk(count, dim=1).indices
    ranks = torch.arange(count, device=ids.device)
    held = ranks < (ids >= 0).sum(1, keepdim=True)
    return torch.where(held, top, -1), p.masked_fill(ids < 0, 0.0).sort(dim=1, descending=True).values[:, :count]
