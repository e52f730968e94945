"""Cross-entropy and distillation in one pass over chunks of labelled positions; [N, V] is never held.

L = sft_weight * sum(CE) / n + alpha * T^2 * sum(D) / n, where D is KL(teacher || student) or another of `divergences`.
The teacher at one position is a short list of events (student tokens) with probabilities p_e and a rest r, everything
else:

    KL = sum_e p_e (log p_e - log q_e) + r (log r - log q_rest),    q = softmax(z / T),  q_rest = 1 - sum_e q_e

The gradient has a closed form, so it is made while the chunk's logits are at hand, and backward only scales
(as Liger and open_clip's fused_linear_cross_entropy do):

    T dKL/dz_j = q_j - p_j for an event,   t_j (q_rest - r) otherwise,   t = softmax over the tokens that are no event

With equal tokenizers and events that cover the vocabulary this is the full KL; the other divergences likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from embervlm.distill.divergences import DIVERGENCES

if TYPE_CHECKING:
    from embervlm.distill.targets import Targets


@dataclass(frozen=True)
class LossOptions:
    """Weights of the two losses, the temperature, the divergence, and how many positions share one block of logits."""

    alpha: float
    sft_weight: float
    temperature: float
    chunk: int = 1024
    divergence: str = "forward_kl"  # a key of DIVERGENCES
    jsd_beta: float = 0.5  # of "jsd": between the forward KL (0) and the reverse one (1)


@dataclass(frozen=True)
class LossParts:
    """The loss and its sums as 0-dim tensors: sums add up over micro-batches and ranks, the means are properties."""

    total: Tensor  # what is trained against; the only part that carries a gradient
    ce_sum: Tensor  # nats
    distill_sum: Tensor  # the divergence that is trained on, at T, nats, without T^2
    kd_sum: Tensor  # KL(teacher || student) at T, nats, without T^2
    reverse_kd_sum: Tensor  # KL(student || teacher) at T over the same events, nats
    n_correct: Tensor  # labelled positions whose argmax is the label
    n_labels: Tensor
    n_targets: Tensor

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
    targets: Targets | None,
    options: LossOptions,
    num_items: Tensor | int | None = None,
) -> LossParts:
    """The loss of one batch and its gradient in one pass.

    Args:
        hidden: [N, D], the last hidden states of the labelled positions only.
        head_weight: [V, D]; head_bias: [V] or None.
        labels: int64 [N], each in 0..V-1.
        targets: rows match those of `hidden`; None: cross-entropy only.
        num_items: what both sums are divided by; None: N.

    Under autocast the matmuls run in autocast's type. Sums and the head's gradient are kept in fp32 (or better).
    """
    if hidden.shape[0] != labels.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states for {labels.shape[0]} labels")
    if targets is not None and targets.ids.shape[0] != labels.shape[0]:
        raise ValueError(f"{targets.ids.shape[0]} rows of targets for {labels.shape[0]} labels")
    device_type = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    rows = None if targets is None else (targets.ids, targets.probs, targets.rest, targets.has_target)
    with torch.autocast(device_type, enabled=False):
        loss_sum, sums = _ChunkedLoss.apply(
            hidden, head_weight, head_bias, labels, rows, options, dtype, torch.is_grad_enabled()
        )
    n_labels = torch.tensor(labels.shape[0], device=hidden.device)
    n_targets = torch.zeros_like(n_labels) if targets is None else targets.has_target.sum()
    total = loss_sum / (n_labels.clamp(min=1) if num_items is None else num_items)
    ce_sum, distill_sum, kd_sum, reverse_kd_sum, n_correct = sums.unbind()
    return LossParts(total, ce_sum, distill_sum, kd_sum, reverse_kd_sum, n_correct, n_labels, n_targets)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        rows: tuple[Tensor, Tensor, Tensor, Tensor] | None,
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
        sums = torch.zeros(5, dtype=exact, device=hidden.device)
        for start in range(0, hidden.shape[0], options.chunk):
            part = slice(start, start + options.chunk)
            h = hidden[part].to(dtype)
            logits = F.linear(h, head, None if bias is None else bias.to(dtype)).to(exact)
            chunk_rows = None if rows is None else tuple(row[part] for row in rows)
            chunk_sums, grad = _chunk(logits, labels[part], chunk_rows, options)
            sums += chunk_sums
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head
            if grad_weight is not None:
                grad_weight += grad.t() @ h
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


def _chunk(
    logits: Tensor, labels: Tensor, rows: tuple[Tensor, ...] | None, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Sums (ce, divergence, kd, reverse kd, correct) and the gradient of sft_weight * CE + alpha T^2 D.

    logits: [C, V] in fp32 or fp64, overwritten.
    """
    label = labels[:, None]
    highest, argmax = logits.max(1)
    correct = (argmax == labels).sum()
    picked = logits.gather(1, label).squeeze(1)
    grad = (logits - highest[:, None]).exp_()
    mass = grad.sum(1)
    ce = (highest - picked + mass.log()).sum()
    grad *= (options.sft_weight / mass)[:, None]
    grad.scatter_add_(1, label, grad.new_full((len(labels), 1), -options.sft_weight))
    distilled = ce.new_zeros(3)
    if rows is not None:
        distilled = _distill(logits.mul_(1 / options.temperature), rows, grad, options)
    return torch.cat([ce[None], distilled, correct.to(ce.dtype)[None]]), grad


def _distill(scaled: Tensor, rows: tuple[Tensor, ...], grad: Tensor, options: LossOptions) -> Tensor:
    """[3]: sums over the chunk of the divergence and of both KL; adds the gradient of alpha T^2 D to `grad`.

    scaled: z / T [C, V], overwritten. The tail is summed by itself, not as one minus the head: it stays exact when
    the head holds nearly everything.
    """
    ids, p, rest, has_target = rows
    p, rest = p.to(scaled.dtype), rest.to(scaled.dtype)
    valid = ids >= 0
    # Empty places repeat one of the row's own events; a row without events writes back the value it read.
    filler = ids.amax(1, keepdim=True)
    index = torch.where(valid, ids, filler.clamp(min=0))
    z_events = scaled.gather(1, index)
    scaled.scatter_(1, index, z_events.masked_fill(filler >= 0, -torch.inf))
    z_events = z_events.masked_fill(~valid, -torch.inf)
    tail_highest = scaled.amax(1, keepdim=True).nan_to_num(neginf=0.0)
    tail = scaled.sub_(tail_highest).exp_()
    tail_mass = tail.sum(1)
    log_tail = tail_highest.squeeze(1) + tail_mass.log()
    log_all = torch.logaddexp(log_tail, z_events.logsumexp(1))
    log_q = (z_events - log_all[:, None]).masked_fill(~valid, 0.0)
    q = torch.where(valid, log_q.exp(), 0.0)
    # No token is left over where the head covers the vocabulary; what a rest holds there is rounding.
    left = log_tail > -torch.inf
    log_q_rest = torch.where(left, log_tail - log_all, 0.0)
    q_rest = torch.where(left, log_q_rest.exp(), 0.0)
    rest = torch.where(left, rest, 0.0)
    p = torch.where(valid, p, 0.0)

    ours = torch.cat([p, rest[:, None]], 1)
    theirs, log_theirs = torch.cat([q, q_rest[:, None]], 1), torch.cat([log_q, log_q_rest[:, None]], 1)
    wanted = {"forward_kl", "reverse_kl", options.divergence}
    told = {name: DIVERGENCES[name](ours, theirs, log_theirs, options.jsd_beta) for name in wanted}
    value, slope = told[options.divergence]

    # T^2 dD/dz = T dD/ds with s = z / T.
    slope = slope * (options.alpha * options.temperature * has_target.to(slope.dtype))[:, None]
    grad.addcmul_(tail, (slope[:, -1] / tail_mass.clamp(min=torch.finfo(tail.dtype).tiny))[:, None])
    grad.scatter_add_(1, index, slope[:, :-1])
    return (torch.stack([value, told["forward_kl"][0], told["reverse_kl"][0]]) * has_target).sum(1)
