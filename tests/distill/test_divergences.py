"""Every direction of the loss against its definition written out over all logits, differentiated by PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from embervlm.distill.divergences import DIVERGENCES
from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.distill.targets import Targets

LOSSES = ("forward_kl", "reverse_kl", "jsd", "uld")


def make_targets(n: int, v: int, k: int, seed: int = 0) -> Targets:
    """Rows of every kind: full, with empty places, without a target, all in its rest."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.rand(n, v, generator=g).argsort(1)[:, :k].contiguous()
    probs = torch.rand(n, k + 1, generator=g, dtype=torch.float64) ** 4 + 1e-3
    ids[1::5, k // 2 :] = -1
    ids[2::7] = -1
    probs[:, :k][ids < 0] = 0
    probs /= probs.sum(1, keepdim=True)
    return Targets(ids, probs[:, :k].contiguous(), probs[:, k].contiguous(), torch.arange(n) % 6 != 4)


def make_inputs(n: int, d: int, v: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((n, d), (v, d), (v,)))
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), torch.randint(v, (n,), generator=g)


def divided(q: Tensor, targets: Targets, ranked: bool) -> tuple[Tensor, Tensor]:
    """Teacher and student over the events and the rest [N, K + 1]; `ranked`: both sorted, the ids forgotten."""
    valid = targets.ids >= 0
    if ranked:
        p_events = targets.probs.sort(1, descending=True).values[:, : q.shape[1]]
        q_events = q.sort(1, descending=True).values[:, : p_events.shape[1]]
        q_events = q_events * (torch.arange(p_events.shape[1]) < valid.sum(1, keepdim=True))
    else:
        p_events, q_events = targets.probs, q.gather(1, targets.ids.clamp(min=0)) * valid
    p = torch.cat([p_events, targets.rest[:, None]], 1)
    return p.to(q.dtype), torch.cat([q_events, 1 - q_events.sum(1, keepdim=True)], 1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    some = (p > 0) & (q > 0)
    p, q = torch.where(some, p, 1.0), torch.where(some, q, 1.0)
    return torch.where(some, p * (p / q).log(), 0.0).sum(1)


def defined(name: str, p: Tensor, q: Tensor, beta: float) -> Tensor:
    if name == "forward_kl":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p.clamp(min=1e-7))
    mixed = beta * p + (1 - beta) * q
    return beta * kl(p, mixed) + (1 - beta) * kl(q, mixed) if name == "jsd" else (p - q).abs().sum(1)


def plain_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, targets: Targets, o: LossOptions
) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    p, q = divided((logits / o.temperature).softmax(1), targets, o.divergence == "uld")
    distilled = defined(o.divergence, p, q, o.jsd_beta)[targets.has_target].sum()
    ce = F.cross_entropy(logits, labels, reduction="sum")
    return (o.sft_weight * ce + o.alpha * o.temperature**2 * distilled) / len(labels)


def assert_same_gradients(ours: Tensor, plain: Tensor, leaves: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, plain)
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(plain, leaves), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_all_are_tested():
    assert set(LOSSES) == set(DIVERGENCES)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 2.7])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_in_closed_form_equals_numerical_gradient(name: str, temperature: float):
    hidden, weight, bias, labels = make_inputs(9, 3, 11)
    targets = make_targets(9, 11, 4)
    options = LossOptions(0.6, 0.4, temperature, chunk=4, divergence=name, jsd_beta=0.3)
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_loss(h, w, b, labels, targets, options).total, (hidden, weight, bias)
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_plain_autograd_on_a_real_vocabulary(name: str, temperature: float):
    hidden, weight, _, labels = make_inputs(256, 8, 25_600)
    targets = make_targets(256, 25_600, 16)
    targets.ids[3, 0] = labels[3]  # the label is an event in some rows, and in most it is none
    options = LossOptions(0.9, 0.1, temperature, chunk=100, divergence=name, jsd_beta=0.2)
    ours = chunked_loss(hidden, weight, None, labels, targets, options).total
    assert_same_gradients(ours, plain_loss(hidden, weight, None, labels, targets, options), (hidden, weight))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.3])
@pytest.mark.parametrize("name", LOSSES)
def test_events_that_cover_the_vocabulary(name: str, temperature: float):
    hidden, weight, bias, labels = make_inputs(6, 3, 5)
    full = make_targets(6, 5, 5)
    valid = full.ids >= 0
    rest = torch.where(valid.all(1), 0.0, full.rest)
    total = full.probs.sum(1) + rest
    targets = Targets(full.ids, full.probs / total[:, None], rest / total, full.has_target)
    options = LossOptions(0.8, 0.2, temperature, chunk=4, divergence=name)
    ours = chunked_loss(hidden, weight, bias, labels, targets, options).total
    assert torch.isfinite(ours)
    assert_same_gradients(ours, plain_loss(hidden, weight, bias, labels, targets, options), (hidden, weight, bias))


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_taught_where_student_and_teacher_agree(name: str):
    hidden, weight, bias, labels = make_inputs(7, 3, 13)
    q = (F.linear(hidden, weight, bias) / 2).softmax(1).detach()
    top = q.topk(4, dim=1)
    targets = Targets(top.indices, top.values, 1 - top.values.sum(1), torch.ones(7, dtype=torch.bool))
    options = LossOptions(1.0, 0.0, 2.0, divergence=name)
    parts = chunked_loss(hidden, weight, bias, labels, targets, options)
    assert abs(parts.total.item()) < 1e-12
    if name != "uld":  # an absolute value has no derivative there
        assert torch.autograd.grad(parts.total, hidden)[0].abs().max() < 1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_reported_beside_it_stays(name: str):
    hidden, weight, bias, labels = make_inputs(12, 3, 40)
    targets = make_targets(12, 40, 4)
    plain = chunked_loss(hidden, weight, bias, labels, targets, LossOptions(0.5, 0.5, 2.0))
    parts = chunked_loss(hidden, weight, bias, labels, targets, LossOptions(0.5, 0.5, 2.0, divergence=name))
    for metric in ("ce", "kd", "reverse_kd", "accuracy", "n_targets"):
        torch.testing.assert_close(getattr(parts, metric), getattr(plain, metric))
    torch.testing.assert_close(parts.total, (0.5 * parts.ce_sum + 0.5 * 4.0 * parts.distill_sum) / 12)
    assert (parts.distill_sum == parts.kd_sum) == (name == "forward_kl")


def test_jsd_goes_over_into_both_kls():
    """JSD / beta -> KL(teacher || student) for beta -> 0, and JSD / (1 - beta) -> the other for beta -> 1 (GKD)."""
    hidden, weight, bias, labels = make_inputs(12, 3, 40)
    targets = make_targets(12, 40, 4)
    for beta, metric, scale in ((1e-6, "kd_sum", 1e-6), (1 - 1e-6, "reverse_kd_sum", 1e-6)):
        options = LossOptions(1.0, 0.0, 1.0, divergence="jsd", jsd_beta=beta)
        parts = chunked_loss(hidden, weight, bias, labels, targets, options)
        torch.testing.assert_close(parts.distill_sum / scale, getattr(parts, metric), rtol=1e-2, atol=0)


def test_uld_does_not_read_the_ids():
    hidden, weight, bias, labels = make_inputs(12, 3, 40)
    targets = make_targets(12, 40, 4)
    others = replace(targets, ids=torch.where(targets.ids >= 0, (targets.ids + 7) % 40, -1))
    options = LossOptions(1.0, 0.0, 2.0, divergence="uld")
    first, second = (chunked_loss(hidden, weight, bias, labels, t, options).total for t in (targets, others))
    assert_same_gradients(first, second, (hidden, weight, bias))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_sums_are_kept_in_fp32_under_bf16(name: str, temperature: float):
    """4,096 positions: a sum in bf16 would stop growing long before the end."""
    hidden, weight, _, labels = make_inputs(4096, 6, 17)
    targets = make_targets(4096, 17, 4)
    options = LossOptions(0.5, 0.5, temperature, chunk=64, divergence=name)
    exact = plain_loss(hidden, weight, None, labels, targets, options)
    h, w = (leaf.detach().float().requires_grad_() for leaf in (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        total = chunked_loss(h, w, None, labels, targets, options).total
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=5e-3)
    least = 0.995 if name == "uld" else 0.999  # the sign of a difference jumps
    for ours, plain in zip(
        torch.autograd.grad(total, (h, w)), torch.autograd.grad(exact, (hidden, weight)), strict=True
    ):
        assert F.cosine_similarity(ours.double().flatten(), plain.flatten(), dim=0) > least


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_several_teachers_are_the_weighted_mean_of_those_that_speak(name: str, temperature: float):
    hidden, weight, bias, labels = make_inputs(12, 3, 23)
    shares = (0.7, 0.3, 0.5)
    teachers = [make_targets(12, 23, k, seed) for seed, k in enumerate((4, 6, 5))]
    teachers[1].has_target[2] = teachers[2].has_target[2] = teachers[0].has_target[7] = False
    options = LossOptions(0.6, 0.4, temperature, chunk=5, divergence=name)
    parts = chunked_loss(hidden, weight, bias, labels, list(zip(shares, teachers, strict=True)), options)

    logits = F.linear(hidden, weight, bias)
    distilled = torch.zeros((), dtype=torch.float64)
    for row in range(12):
        speaking = [(w, said) for w, said in zip(shares, teachers, strict=True) if said.has_target[row]]
        for w, said in speaking:
            q = (logits[[row]] / temperature).softmax(1)
            one = Targets(said.ids[[row]], said.probs[[row]], said.rest[[row]], said.has_target[[row]])
            value = defined(name, *divided(q, one, name == "uld"), options.jsd_beta)[0]
            distilled = distilled + value * w / sum(w for w, _ in speaking)
    ce = F.cross_entropy(logits, labels, reduction="sum")
    expected = (0.4 * ce + 0.6 * temperature**2 * distilled) / 12
    assert_same_gradients(parts.total, expected, (hidden, weight, bias))

    alone = [chunked_loss(hidden, weight, bias, labels, said, options) for said in teachers]
    torch.testing.assert_close(parts.kd_sums, torch.stack([one.kd_sum for one in alone]))
    assert int(parts.n_targets) == 10  # all are silent at the same two of twelve


def test_two_teachers_are_their_mixture():
    """sum_i w_i KL(P_i || Q) = KL(sum_i w_i P_i || Q) + const: the same gradient."""
    hidden, weight, bias, labels = make_inputs(6, 3, 5)
    said = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(2)
    ids, none, all_ = torch.arange(5).repeat(6, 1), torch.zeros(6), torch.ones(6, dtype=torch.bool)
    options = LossOptions(1.0, 0.0, 2.0)
    both = [(w, Targets(ids, probs, none, all_)) for w, probs in zip((0.6, 0.4), said, strict=True)]
    mixed = Targets(ids, 0.6 * said[0] + 0.4 * said[1], none, all_)
    first, second = (chunked_loss(hidden, weight, bias, labels, t, options).total for t in (both, mixed))
    torch.testing.assert_close(torch.autograd.grad(first, hidden), torch.autograd.grad(second, hidden))


def make_sets(n: int, v: int, seed: int = 0) -> Targets:
    """Events of none to three tokens in mixed order, empty places between them, a row without any."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.rand(n, v, generator=g).argsort(1)[:, :7].contiguous()
    events = torch.randint(4, (n, 7), generator=g)
    ids[1::3, 2] = -1
    ids[4] = -1
    probs = torch.rand(n, 8, generator=g, dtype=torch.float64) + 0.05
    held = torch.zeros(n, 7).scatter_add_(1, events, (ids >= 0).float()) > 0
    probs[:, :7][~held] = 0
    probs /= probs.sum(1, keepdim=True)
    return Targets(ids, probs[:, :7].contiguous(), probs[:, 7].contiguous(), torch.arange(n) % 6 != 5, events)


def sets_loss(logits: Tensor, targets: Targets, o: LossOptions) -> Tensor:
    """The sum of the divergences, event by event from its definition."""
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(logits)):
        if not targets.has_target[row]:
            continue
        q = (logits[row] / o.temperature).softmax(0)
        p_events, q_events = [], []
        for event in range(targets.probs.shape[1]):
            inside = [i for i, e in zip(targets.ids[row].tolist(), targets.events[row].tolist(), strict=True)
                      if e == event and i >= 0]  # fmt: skip
            if inside:
                p_events.append(targets.probs[row, event])
                q_events.append(q[inside].sum())
        p = torch.stack([*p_events, targets.rest[row]])
        q_rest = 1 - sum(q_events, torch.zeros((), dtype=torch.float64))
        total = total + defined(o.divergence, p[None], torch.stack([*q_events, q_rest])[None], o.jsd_beta)[0]
    return total


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "uld"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.1])
def test_events_that_are_sets_of_tokens(name: str, temperature: float):
    """ESCD's completion sets: among the tokens of a set the student keeps its own shape, as it does in the rest."""
    hidden, weight, bias, labels = make_inputs(12, 3, 19)
    sets, single = make_sets(12, 19), make_targets(12, 19, 4)
    options = LossOptions(0.6, 0.4, temperature, chunk=5, divergence=name, jsd_beta=0.3)
    logits = F.linear(hidden, weight, bias)
    ce = F.cross_entropy(logits, labels, reduction="sum")
    alone = (0.4 * ce + 0.6 * temperature**2 * sets_loss(logits, sets, options)) / 12
    ours = chunked_loss(hidden, weight, bias, labels, sets, options).total
    assert_same_gradients(ours, alone, (hidden, weight, bias))
    one_each = replace(single, events=torch.arange(4).repeat(12, 1))
    first, second = (chunked_loss(hidden, weight, bias, labels, t, options).total for t in (single, one_each))
    assert_same_gradients(first, second, (hidden, weight, bias))
    both = chunked_loss(hidden, weight, bias, labels, [(0.5, sets), (0.5, single)], options)
    assert torch.isfinite(both.total) and len(both.kd_sums) == 2


def test_a_set_far_down_the_tail_keeps_its_gradient():
    """In fp32 its tokens are e^-120 of the likeliest one: summed beside that one they would be nothing."""
    logits = torch.zeros(1, 6)
    logits[0, 0] = 120.0
    hidden = torch.eye(6)[:1].requires_grad_()
    weight = torch.zeros(6, 6)
    weight[:, 0] = logits[0]
    targets = Targets(
        torch.tensor([[2, 3]]), torch.tensor([[0.6, 0.0]]), torch.tensor([0.4]), torch.ones(1, dtype=torch.bool),
        torch.zeros(1, 2, dtype=torch.long),
    )  # fmt: skip
    parts = chunked_loss(hidden, weight.requires_grad_(), None, torch.tensor([0]), targets, LossOptions(1.0, 0.0, 1.0))
    (grad,) = torch.autograd.grad(parts.total, weight)
    torch.testing.assert_close(grad[[2, 3], 0], torch.full((2,), -0.3))
    assert parts.kd.item() == pytest.approx(0.6 * (120 - np.log(2)) + 0.6 * np.log(0.6) + 0.4 * np.log(0.4), rel=1e-4)


def test_uld_takes_no_sets():
    hidden, weight, bias, labels = make_inputs(12, 3, 19)
    with pytest.raises(ValueError, match="single tokens"):
        chunked_loss(hidden, weight, bias, labels, make_sets(12, 19), LossOptions(0.5, 0.5, 2.0, divergence="uld"))
