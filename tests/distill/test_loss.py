"""The fused loss against plain PyTorch, which holds everything and differentiates by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from embervlm.distill.divergences import DIVERGENCES
from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.distill.targets import Targets

N, D, V, K = 11, 6, 17, 4
OPTIONS = LossOptions(alpha=0.3, sft_weight=0.7, temperature=2.0, chunk=4)


def make_targets(n: int = N, v: int = V, k: int = K, seed: int = 0, rest: bool = True) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(v, generator=generator)[:k] for _ in range(n)])
    probs = torch.rand(n, k + 1, generator=generator, dtype=torch.float64)
    if not rest:
        probs[:, k] = 0
    probs /= probs.sum(1, keepdim=True)
    return Targets(ids, probs[:, :k], probs[:, k], torch.ones(n, dtype=torch.bool))


def make_inputs(dtype: torch.dtype = torch.float64, n: int = N, v: int = V) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, D), (v, D), (v,))]
    hidden, weight, bias = (part.to(dtype).requires_grad_() for part in parts)
    return hidden, weight, bias, torch.randint(v, (n,), generator=generator)


def plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, targets: Targets | None, o) -> dict:
    """The same quantities written out with full logits, position by position."""
    logits = F.linear(hidden, weight, bias)
    ce = F.cross_entropy(logits, labels, reduction="sum")
    kd, reverse = torch.zeros((), dtype=ce.dtype), torch.zeros((), dtype=ce.dtype)
    for i in range(len(labels)):
        if targets is None or not targets.has_target[i]:
            continue
        q = (logits[i] / o.temperature).softmax(0)
        events = [(int(e), p) for e, p in zip(targets.ids[i], targets.probs[i], strict=True) if e >= 0]
        left = [j for j in range(len(q)) if j not in {e for e, _ in events}]
        pairs = [(p, q[e]) for e, p in events] + ([(targets.rest[i], q[left].sum())] if left else [])
        for p, q_e in pairs:
            kd = kd + (p * (p.log() - q_e.log()) if p > 0 else 0.0)
            reverse = reverse + q_e * (q_e.log() - p.clamp(min=1e-7).log())
    total = (o.sft_weight * ce + o.alpha * o.temperature**2 * kd) / len(labels)
    return {"total": total, "ce": ce, "kd": kd, "reverse": reverse}


def test_gradient_in_closed_form_equals_numerical_gradient():
    hidden, weight, bias, labels = make_inputs()
    targets = make_targets()
    targets.ids[1, 2:] = -1
    targets.rest[1] += targets.probs[1, 2:].sum()
    targets.probs[1, 2:] = 0
    targets.has_target[5] = False
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_loss(h, w, b, labels, targets, OPTIONS).total, (hidden, weight, bias)
    )


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.7])
def test_equals_plain_autograd(with_bias: bool, temperature: float):
    hidden, weight, bias, labels = make_inputs()
    options = LossOptions(0.4, 0.7, temperature, chunk=4)
    targets = make_targets()
    targets.has_target[3] = False
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    args = (hidden, weight, bias if with_bias else None, labels, targets, options)
    parts, expected = chunked_loss(*args), plain_loss(*args)
    torch.testing.assert_close(parts.total, expected["total"])
    torch.testing.assert_close(parts.ce, expected["ce"].detach() / N)
    torch.testing.assert_close(parts.kd, expected["kd"].detach() / (N - 1))
    torch.testing.assert_close(parts.reverse_kd, expected["reverse"].detach() / (N - 1))
    assert int(parts.n_labels) == N and int(parts.n_targets) == N - 1
    ours = torch.autograd.grad(parts.total * 3, leaves)
    plain = torch.autograd.grad(expected["total"] * 3, leaves)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 1000])
def test_chunk_size_changes_nothing_even_if_the_last_chunk_is_uneven(chunk: int):
    def run(chunk: int) -> tuple[Tensor, ...]:
        hidden, weight, bias, labels = make_inputs()
        total = chunked_loss(hidden, weight, bias, labels, make_targets(), LossOptions(0.3, 0.7, 2.0, chunk)).total
        return total, *torch.autograd.grad(total, (hidden, weight, bias))

    for a, b in zip(run(chunk), run(N), strict=True):
        torch.testing.assert_close(a, b)


def test_equals_full_vocabulary_kl_when_the_events_cover_the_vocabulary():
    hidden, weight, bias, labels = make_inputs()
    targets = make_targets(k=V, rest=False)
    teacher = torch.empty(N, V, dtype=torch.float64).scatter_(1, targets.ids, targets.probs)
    student = (F.linear(hidden, weight, bias) / 2.0).log_softmax(1)
    exact = F.kl_div(student, teacher, reduction="sum") * 4.0 / N
    total = chunked_loss(hidden, weight, bias, labels, targets, LossOptions(1.0, 0.0, 2.0)).total
    torch.testing.assert_close(total, exact)
    for a, b in zip(
        torch.autograd.grad(total, (hidden, weight)), torch.autograd.grad(exact, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_rounding_left_in_the_rest_is_harmless_when_the_events_cover_the_vocabulary():
    hidden, weight, bias, labels = make_inputs()
    targets = make_targets(k=V, rest=False)
    noisy = Targets(targets.ids, targets.probs, targets.rest + 1e-7, targets.has_target)
    a, b = (chunked_loss(hidden, weight, bias, labels, t, OPTIONS) for t in (targets, noisy))
    torch.testing.assert_close(a.total, b.total)
    assert torch.isfinite(torch.autograd.grad(b.total, hidden)[0]).all()


def test_tail_is_exact_when_the_student_gives_it_almost_nothing():
    """One minus the head's mass is all rounding in fp32 here; the loss and its gradient must still be right."""
    logits = torch.tensor([[40.0, 1.0, 0.0, -1.0]])
    targets = Targets(torch.tensor([[0]]), torch.tensor([[0.75]]), torch.tensor([0.25]), torch.tensor([True]))
    hidden = logits.clone().requires_grad_()
    parts = chunked_loss(hidden, torch.eye(4), None, torch.tensor([0]), targets, LossOptions(1.0, 0.0, 1.0))
    log_q_rest = logits[0, 1:].double().logsumexp(0) - logits[0].double().logsumexp(0)
    expected = 0.75 * torch.tensor(0.75).log() + 0.25 * (torch.tensor(0.25).log() - log_q_rest)
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-6)
    (grad,) = torch.autograd.grad(parts.total, hidden)
    torch.testing.assert_close(grad[0], torch.cat([torch.tensor([0.25]), -0.25 * logits[0, 1:].softmax(0)]))


def test_rows_without_target_get_cross_entropy_only():
    hidden, weight, bias, labels = make_inputs()
    targets = make_targets()
    targets.has_target[:] = False
    targets.ids[:] = -1
    ce_only = chunked_loss(hidden, weight, bias, labels, None, OPTIONS)
    none = chunked_loss(hidden, weight, bias, labels, targets, OPTIONS)
    torch.testing.assert_close(none.total, ce_only.total)
    assert none.kd == 0 and none.n_targets == 0
    for a, b in zip(
        torch.autograd.grad(none.total, (hidden, weight)),
        torch.autograd.grad(ce_only.total, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_target_that_is_all_rest_teaches_nothing():
    hidden, weight, bias, labels = make_inputs()
    ones = torch.ones(N, dtype=torch.float64)
    targets = Targets(torch.full((N, 2), -1), torch.zeros(N, 2), ones, ones.bool())
    parts = chunked_loss(hidden, weight, bias, labels, targets, LossOptions(1.0, 0.0, 2.0))
    torch.testing.assert_close(parts.total, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(parts.total, hidden)[0], torch.zeros_like(hidden))


def test_no_labels_give_a_zero_that_still_has_a_gradient_path():
    """A rank whose batch lost every label must still take part in the all-reduce."""
    hidden, weight, bias, labels = make_inputs(n=0)
    parts = chunked_loss(hidden, weight, bias, labels, Targets(*empty_targets()), OPTIONS)
    assert parts.total == 0 and parts.ce == 0 and parts.accuracy == 0
    parts.total.backward()
    assert weight.grad is not None and not weight.grad.any()


def empty_targets() -> tuple[Tensor, ...]:
    return torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1), torch.zeros(0), torch.zeros(0, dtype=torch.bool)


def test_num_items_replaces_the_count_of_labels():
    hidden, weight, bias, labels = make_inputs()
    a = chunked_loss(hidden, weight, bias, labels, make_targets(), OPTIONS, num_items=torch.tensor(44)).total
    b = chunked_loss(hidden, weight, bias, labels, make_targets(), OPTIONS).total
    torch.testing.assert_close(a, b / 4)


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_close_to_fp64_and_keeps_the_types_of_the_parameters(autocast: bool):
    dtype = torch.float32 if autocast else torch.bfloat16
    hidden, weight, _, labels = make_inputs(dtype)
    exact = plain_loss(hidden.double(), weight.double(), None, labels, make_targets(), OPTIONS)["total"]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total = chunked_loss(hidden, weight, None, labels, make_targets(), OPTIONS).total
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=0.02)
    grads = torch.autograd.grad(total, (hidden, weight))
    assert [g.dtype for g in grads] == [dtype, dtype]
    for ours, plain in zip(grads, torch.autograd.grad(exact, (hidden, weight)), strict=True):
        assert F.cosine_similarity(ours.double().flatten(), plain.double().flatten(), dim=0) > 0.999


def test_no_gradient_is_computed_when_none_is_asked_for():
    hidden, weight, bias, labels = make_inputs()
    with torch.no_grad():
        parts = chunked_loss(hidden, weight, bias, labels, make_targets(), OPTIONS)
    assert not parts.total.requires_grad
    torch.testing.assert_close(parts.total, chunked_loss(hidden, weight, bias, labels, make_targets(), OPTIONS).total)


def test_accuracy_counts_argmax():
    hidden = torch.eye(3)
    parts = chunked_loss(hidden, torch.eye(3), None, torch.tensor([0, 1, 0]), None, OPTIONS)
    assert parts.accuracy.item() == pytest.approx(2 / 3)


def test_rows_that_do_not_match_are_refused():
    hidden, weight, bias, labels = make_inputs()
    with pytest.raises(ValueError, match="rows of targets"):
        chunked_loss(hidden, weight, bias, labels, make_targets(n=N + 1), OPTIONS)


@pytest.mark.parametrize("divergence", sorted(DIVERGENCES))
def test_a_certain_teacher_and_a_head_that_covers_the_vocabulary_stay_finite(divergence: str):
    hidden, weight, bias, labels = make_inputs(torch.float32)
    ids = torch.arange(V).repeat(N, 1)
    probs = torch.zeros(N, V)
    probs[:, 3] = 1
    targets = Targets(ids, probs, torch.zeros(N), torch.ones(N, dtype=torch.bool))
    parts = chunked_loss(
        hidden * 40, weight, bias, labels, targets, LossOptions(0.5, 0.5, 2.0, divergence=divergence, chunk=4)
    )
    parts.total.backward()
    assert torch.isfinite(parts.total) and all(torch.isfinite(x.grad).all() for x in (hidden, weight, bias))


def test_blocks_are_larger_on_a_gpu_and_never_more_than_they_may_hold():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    options = LossOptions(0.3, 0.7, 2.0)
    assert options.positions_at_once(25_600, cpu) == options.positions_at_once(150_000, gpu) == 512
    assert options.positions_at_once(25_600, gpu) == 1310
    assert OPTIONS.positions_at_once(25_600, gpu) == OPTIONS.positions_at_once(25_600, cpu) == 4
