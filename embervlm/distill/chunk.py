"""The loss of one chunk of logits and its gradient, in as few passes over the vocabulary as it takes.

The tokens that are named (the label, the events of every teacher) are taken out and handled by themselves; what is left
of a row is one tail, of which its softmax at T and the log of its mass are enough:

    named token e of teacher i:  q_e, and the mass of its rest is the tail and every named token that is no event of it
    tail token j:                gradient  a c_j + b s_j,   c and s = softmax of the tail at 1 and at T

At T = 1, c = s; at T = 2, c is s squared and normalised. The tail is summed by itself, not as one minus the head: it
stays exact when the head holds nearly everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embervlm.distill.divergences import DIVERGENCES, Divergence, by_rank, forward_kl, reverse_kl

CACHED = 2**18
"""Elements that a CPU sweeps over at once, so that they are still in its cache for the next sweep."""

GPU_BLOCK = 2**25
"""Elements of a block of logits on a GPU: 128 MiB, some 1,300 positions of a vocabulary of 25,600."""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the two losses, the temperature, how many positions share one block of logits, what is distilled."""

    alpha: float
    sft_weight: float
    temperature: float
    chunk: int | None = None  # None: as many as suit the device
    divergence: str = "forward_kl"  # a name of `divergences.DIVERGENCES`
    jsd_beta: float = 0.5

    def positions_at_once(self, vocabulary: int, device: torch.device) -> int:
        """On a GPU more than on a CPU: there the start of a kernel costs more than its work on a small block."""
        if self.chunk is not None:
            return self.chunk
        return 512 if device.type == "cpu" else max(512, GPU_BLOCK // vocabulary)


@dataclass(frozen=True)
class Said:
    """One teacher's targets for the chunk's rows; see `Targets`."""

    weight: Tensor  # [C], this teacher's share of what is distilled
    ids: Tensor  # int64 [C, K]
    probs: Tensor  # [C, K]
    rest: Tensor  # [C]
    has_target: Tensor  # bool [C]
    events: Tensor | None  # int64 [C, K]

    def rows(self, part: slice) -> Said:
        events = None if self.events is None else self.events[part]
        return Said(self.weight[part], self.ids[part], self.probs[part], self.rest[part], self.has_target[part], events)


@dataclass(frozen=True)
class _Named:
    """Each row's named tokens, each in one column: column 0 is the label."""

    real: Tensor  # bool [C, E]
    index: Tensor  # int64 [C, E], the label's where not real
    columns: Tensor  # int64 [C, E], where the token of each entry of the list went


def chunk_loss(
    scaled: Tensor, space: Tensor, labels: Tensor, teachers: Sequence[Said], options: LossOptions, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums [5 + teachers] (cross-entropy, what is distilled, KL(teacher || student), KL(student || teacher), correct,
    then each teacher's own KL) and the gradient [C, V] of sft_weight * CE + alpha T^2 D with respect to the logits.

    scaled: logits / T [C, V] in fp32 or fp64, overwritten. space: [spaces(T), C, V], to be written to.
    D is the weighted sum of the teachers' divergences.
    """
    ids = [teacher.ids for teacher in teachers]
    probs = [teacher.probs.to(scaled.dtype) for teacher in teachers]
    ranked = options.divergence == "uld"
    if ranked:
        pairs = [by_rank(scaled, *said) for said in zip(ids, probs, strict=True)]
        ids, probs = ids + [pair[0] for pair in pairs], probs + [pair[1] for pair in pairs]
    named = _name(labels, ids)
    z = scaled.gather(1, named.index).masked_fill_(~named.real, -torch.inf)
    tail = _Tail(scaled.scatter_(1, named.index, -torch.inf), space, z.shape[1], options.temperature)

    log_all = torch.logaddexp(tail.log_mass, z.logsumexp(1))
    log_q, log_tail = z - log_all[:, None], tail.log_mass - log_all
    at_one = z * options.temperature
    log_all_at_one = torch.logaddexp(tail.log_mass_at_one, at_one.logsumexp(1))
    ce = (log_all_at_one - at_one[:, 0]).sum()
    others = torch.cat([z[:, 1:], tail.highest[:, None]], 1).amax(1)
    correct = (z[:, 0] > others).sum()
    grad_named = options.sft_weight * (at_one - log_all_at_one[:, None]).exp()
    grad_named[:, 0] -= options.sft_weight
    a = options.sft_weight * (tail.log_mass_at_one - log_all_at_one).exp()
    b = torch.zeros_like(a)

    views, start = [], 1
    for said, its_ids, its_probs in zip([*teachers, *teachers], ids, probs, strict=False):
        place = slice(start, start + its_ids.shape[1])
        events = None if its_ids is not said.ids else said.events  # ranks are no sets
        views.append(_View(named, place, its_ids >= 0, its_probs, events, said, log_q, log_tail))
        start = place.stop
    trained = kd = reverse = torch.zeros_like(ce)
    own = []
    for view in views[: len(teachers)]:
        forward = view.masked(view.compare(forward_kl, 0.0)[0])
        own.append(forward.sum())
        kd = kd + (view.weight * forward).sum()
        reverse = reverse + (view.weight * view.masked(view.compare(reverse_kl, 0.0)[0])).sum()
    for view in views[len(teachers) :] if ranked else views:
        divergence, grad = view.compare(DIVERGENCES[options.divergence], options.jsd_beta)
        trained = trained + (view.weight * view.masked(divergence)).sum()
        if with_grad:
            scale = options.alpha * options.temperature * view.masked(view.weight)
            to_named, to_tail = view.spread(grad * scale[:, None])
            grad_named += to_named
            b += to_tail
    sums = torch.stack([ce, trained, kd, reverse, correct.to(ce.dtype), *own])
    if not with_grad:
        return sums, None
    return sums, tail.weigh(a, b).scatter_add_(1, named.index, grad_named)


def spaces(temperature: float) -> int:
    """Blocks of the size of the logits that `chunk_loss` needs beside them."""
    return 1 if temperature in (1, 2) else 2


def _name(labels: Tensor, ids: Sequence[Tensor]) -> _Named:
    listed = torch.cat([labels[:, None], *ids], 1)
    same = listed[:, :, None] == listed[:, None, :]
    columns = same.to(torch.uint8).argmax(2)  # the first of equal ones
    real = (columns == torch.arange(listed.shape[1], device=labels.device)) & (listed >= 0)
    return _Named(real, torch.where(real, listed, labels[:, None]), columns)


class _View:
    """The row as one teacher divides it: its K events and its rest."""

    def __init__(
        self,
        named: _Named,
        place: slice,
        valid: Tensor,
        p: Tensor,
        events: Tensor | None,
        said: Said,
        log_q: Tensor,
        log_tail: Tensor,
    ) -> None:
        self.weight, self.has_target = said.weight.to(p.dtype), said.has_target
        self._columns, self._events = named.columns[:, place], events
        listed = log_q.gather(1, self._columns).masked_fill(~valid, -torch.inf)  # [C, K]
        log_events = listed if events is None else _logsumexp_by(listed, events)
        present = log_events > -torch.inf
        # Empty entries are equal to each other: all of them add nothing to the column of the first.
        mine = torch.zeros_like(log_q).scatter_add_(1, self._columns, valid.to(log_q.dtype)) > 0
        others = log_q.masked_fill(mine, -torch.inf)
        log_rest = torch.logaddexp(log_tail, others.logsumexp(1))
        # No token is left over where the events cover the vocabulary; what a rest holds there is rounding.
        left = log_rest > -torch.inf
        log_rest = log_rest.masked_fill(~left, 0.0)
        self.log_q = torch.cat([log_events.masked_fill(~present, 0.0), log_rest[:, None]], 1)
        self.q = self.log_q.exp() * torch.cat([present, left[:, None]], 1)
        rest = said.rest.to(p.dtype).masked_fill(~left, 0.0)
        self.p = torch.cat([p.masked_fill(~present, 0.0), rest[:, None]], 1)
        of_event = log_events if events is None else log_events.gather(1, events)
        self._share_listed = (listed - of_event).exp().masked_fill(~valid, 0.0)
        self._share_named = (others - log_rest[:, None]).exp()
        self._share_tail = (log_tail - log_rest).exp()

    def compare(self, divergence: Divergence, beta: float) -> tuple[Tensor, Tensor]:
        return divergence(self.p, self.q, self.log_q, beta)

    def masked(self, values: Tensor) -> Tensor:
        """[C], 0 where this teacher has no target."""
        return values.masked_fill(~self.has_target, 0.0)

    def spread(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of the gradient [C, K + 1] by events and rest: what each named token [C, E] and the whole tail [C] get."""
        by_event, by_rest = grad[:, :-1], grad[:, -1]
        if self._events is not None:
            by_event = by_event.gather(1, self._events)
        to_named = by_rest[:, None] * self._share_named
        to_named.scatter_add_(1, self._columns, by_event * self._share_listed)
        return to_named, by_rest * self._share_tail


def _logsumexp_by(values: Tensor, groups: Tensor) -> Tensor:
    """[C, K]: of the values [C, K] of each group 0..K-1; -inf where it has none."""
    highest = torch.full_like(values, -torch.inf).scatter_reduce_(1, groups, values, "amax")
    finite = highest.masked_fill(highest == -torch.inf, 0.0)
    total = torch.zeros_like(values).scatter_add_(1, groups, (values - finite.gather(1, groups)).exp())
    return highest + total.log().masked_fill(highest == -torch.inf, 0.0)


class _Tail:
    """The sweeps over the vocabulary. Each goes over a few rows at once, so that a CPU's cache holds them."""

    def __init__(self, scaled: Tensor, space: Tensor, named: int, temperature: float) -> None:
        """scaled: logits / T with -inf at the named tokens; `named`: at most so many of a row."""
        rows, vocabulary = scaled.shape
        self._scaled, self._temperature = scaled, temperature
        step = max(1, CACHED // vocabulary) if scaled.device.type == "cpu" else max(rows, 1)
        self._blocks = [slice(start, start + step) for start in range(0, rows, step)]
        covered = None
        if named >= vocabulary:
            covered = scaled.amax(1) == -torch.inf
            scaled[:, 0].masked_fill_(covered, 0.0)  # a softmax needs something; its weight will be zero
        self._shape, self._shape_at_one = space[0], space[-1]  # s, c
        self.highest, peak, peak_at_one = scaled.new_empty(3, rows)
        for block in self._blocks:
            z, s, c = scaled[block], self._shape[block], self._shape_at_one[block]
            torch.amax(z, 1, out=self.highest[block])
            if spaces(temperature) == 2:
                torch.mul(z, temperature, out=s)
                torch.softmax(s, 1, out=c)
                torch.amax(c, 1, out=peak_at_one[block])
            torch.softmax(z, 1, out=s)
            torch.amax(s, 1, out=peak[block])
            if temperature == 2:
                torch.linalg.vector_norm(s, 2, 1, out=peak_at_one[block])
        if covered is not None:
            self.highest.masked_fill_(covered, -torch.inf)
        # The softmax's largest value is one over the sum of exp(z - highest).
        self.log_mass = self.highest - peak.log()
        if temperature == 1:
            self.log_mass_at_one = self.log_mass
        elif temperature == 2:
            self._squares = peak_at_one.square()
            self.log_mass_at_one = 2 * self.log_mass + self._squares.log()
        else:
            self.log_mass_at_one = temperature * self.highest - peak_at_one.log()

    def weigh(self, a: Tensor, b: Tensor) -> Tensor:
        """a c + b s [C, V], in the place of the logits; 0 at the named tokens."""
        a, b = a[:, None], b[:, None]
        if self._temperature == 2:
            a = a / self._squares[:, None]
        for block in self._blocks:
            z, s = self._scaled[block], self._shape[block]
            if self._temperature == 1:
                torch.mul(s, a[block] + b[block], out=z)
            elif self._temperature == 2:
                torch.mul(s, a[block], out=z).add_(b[block]).mul_(s)
            else:
                torch.mul(self._shape_at_one[block], a[block], out=z).addcmul_(s, b[block])
        return self._scaled
