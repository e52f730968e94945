"""Cross-entropy and distillation in one pass over chunks of labelled positions; [N, V] is never held.

L = sft_weight * sum(CE) / n + alpha * T^2 * sum(D(teacher, student)) / n, where the teacher at one position is a
short list of events (student tokens) with probabilities p_e and a rest r, everything else. By default

    D = KL(teacher || student) = sum_e p_e (log p_e - log q_e) + r (log r - log q_rest)

with q = softmax(z / T), q_rest = 1 - sum_e q_e; the others are in `divergences`. Of several teachers D is the weighted
sum, from the same logits.

The gradient has a closed form, so it is made while the chunk's logits are at hand (`chunk`), and backward only scales
(as Liger and open_clip's fused_linear_cross_entropy do):

    T dKL/dz_j = q_j - p_j for an event,   t_j (q_rest - r) otherwise,   t = softmax over the tokens that are no event
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from embervlm.distill.chunk import LossOptions, Said, chunk_loss, spaces
from embervlm.distill.targets import Targets

__all__ = ["LossOptions", "LossParts", "chunked_loss"]


@dataclass(frozen=True)
class LossParts:
    """The loss and its sums as 0-dim tensors: sums add up over micro-batches and ranks, the means are properties."""

    total: Tensor  # what is trained against; the only part that carries a gradient
    ce_sum: Tensor  # nats
    distill_sum: Tensor  # D at T, what is distilled, without T^2; with forward_kl the same as kd_sum
    kd_sum: Tensor  # KL(teacher || student) at T, nats, without T^2; of several teachers the weighted sum
    reverse_kd_sum: Tensor  # KL(student || teacher) at T over the same events, nats; weighted likewise
    kd_sums: Tensor  # [teachers], each teacher's own KL(teacher || student), not weighted
    n_correct: Tensor  # labelled positions whose label has a higher logit than every other token
    n_labels: Tensor
    n_targets: Tensor  # positions with a target of any teacher
    n_targets_each: Tensor  # [teachers], positions with a target of each

    @property
    def ce(self) -> Tensor:
        return self.ce_sum / self.n_labels.clamp(min=1)

    @property
    def kd(self) -> Tensor:
        return self.kd_sum / self.n_targets.clamp(min=1)

    @property
    def reverse_kd(self) -> Tensor:
        return self.reverse_kd_sum / self.n_targets.clamp(min=1)

    @property
    def accuracy(self) -> Tensor:
        return self.n_correct / self.n_labels.clamp(min=1)


def chunked_loss(
    hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    labels: Tensor,
    targets: Targets | Sequence[tuple[float, Targets]] | None,
    options: LossOptions,
    num_items: Tensor | int | None = None,
) -> LossParts:
    """The loss of one batch and its gradient in one pass.

    Args:
        hidden: [N, D], the last hidden states of the labelled positions only.
        head_weight: [V, D]; head_bias: [V] or None.
        labels: int64 [N], each in 0..V-1.
        targets: rows match those of `hidden`; None: cross-entropy only. Several teachers: (weight, targets) of each;
            the weights of those that have a target at a position are scaled to sum to 1 there.
        num_items: what both sums are divided by; None: N.

    Under autocast the matmuls run in autocast's type. Sums and the head's gradient are kept in fp32 (or better).
    """
    if hidden.shape[0] != labels.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states for {labels.shape[0]} labels")
    weighted = [(1.0, targets)] if isinstance(targets, Targets) else list(targets or ())
    for _, said in weighted:
        if said.ids.shape[0] != labels.shape[0]:
            raise ValueError(f"{said.ids.shape[0]} rows of targets for {labels.shape[0]} labels")
        if said.events is not None and options.divergence == "uld":
            raise ValueError("ULD ranks single tokens; targets whose events are sets go with another divergence")
    teachers = [
        Said(share, said.ids, said.probs, said.rest, said.has_target, said.events)
        for share, (_, said) in zip(_shares(weighted), weighted, strict=True)
    ]
    device_type = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    with torch.autocast(device_type, enabled=False):
        loss_sum, sums = _ChunkedLoss.apply(
            hidden, head_weight, head_bias, labels, teachers, options, dtype, torch.is_grad_enabled()
        )
    n_labels = torch.tensor(labels.shape[0], device=hidden.device)
    has_target = torch.stack([said.has_target for said in teachers]) if teachers else n_labels.new_zeros(0, 0)
    total = loss_sum / (n_labels.clamp(min=1) if num_items is None else num_items)
    ce, distilled, kd, reverse, correct = sums[:5].unbind()
    return LossParts(
        total, ce, distilled, kd, reverse, sums[5:], correct, n_labels, has_target.any(0).sum(), has_target.sum(1)
    )


def _shares(weighted: Sequence[tuple[float, Targets]]) -> list[Tensor]:
    """[N] of each teacher: its weight among those that have a target at the position."""
    if not weighted:
        return []
    present = torch.stack([weight * said.has_target.double() for weight, said in weighted])
    return list(present / present.sum(0).clamp(min=torch.finfo(present.dtype).tiny))


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        teachers: list[Said],
        options: LossOptions,
        dtype: torch.dtype,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        need_hidden, need_weight, need_bias = (with_grad and need for need in ctx.needs_input_grad[:3])
        exact = torch.promote_types(dtype, torch.float32)
        head = weight.to(dtype)
        # Not divided by n here: in fp16 the small numbers would vanish before the loss scale arrives in backward.
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=exact) if need_bias and bias is not None else None
        sums = torch.zeros(5 + len(teachers), dtype=exact, device=hidden.device)
        any_grad = need_hidden or need_weight or need_bias
        chunk = options.positions_at_once(weight.shape[0], hidden.device)
        # One place for all chunks: memory that comes anew from the system costs time at its first touch.
        most = min(chunk, hidden.shape[0])
        space = hidden.new_empty(1 + spaces(options.temperature), most, weight.shape[0], dtype=exact)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            h = hidden[part].to(exact)
            here = space[:, : len(h)]
            # Divided here, on [C, D], and not on [C, V].
            scaled = here[0]
            _linear(h / options.temperature, head, None if bias is None else bias / options.temperature, scaled)
            said = [teacher.rows(part) for teacher in teachers]
            chunk_sums, grad = chunk_loss(scaled, here[1:], labels[part], said, options, any_grad)
            sums += chunk_sums
            if grad is None:
                continue
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head
            if grad_weight is not None and dtype == exact:
                grad_weight.addmm_(grad.t(), h)
            elif grad_weight is not None:
                grad_weight += grad.t() @ h.to(dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(sums)
        return options.sft_weight * sums[0] + options.alpha * options.temperature**2 * sums[1], sums

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else (grad_hidden.to(scale.dtype) * scale).to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * scale).to(weight_dtype),
            None if grad_bias is None else (grad_bias * scale).to(bias_dtype),
            *[None] * 5,
        )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """x W^T + b in the type of W, written to `out`."""
    x, bias = x.to(weight.dtype), None if bias is None else bias.to(weight.dtype)
    if out.dtype != weight.dtype:
        out.copy_(F.linear(x, weight, bias))
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)
