"""Between two reports: sums of the loss's parts over micro-batches and ranks, and the time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from embervlm.distill.loss import LossOptions, LossParts

Batch = TypeVar("Batch")

_SUMS = ("ce_sum", "distill_sum", "n_correct", "n_labels", "n_targets")


class Meter:
    """Adds up what `LossParts` counts. Means are made only after the sums have met across ranks."""

    def __init__(self, device: torch.device, teachers: Sequence[str] = ()) -> None:
        """teachers: the names of those that are followed one by one."""
        self._teachers = teachers
        self._sums = torch.zeros(len(_SUMS) + 2 + 2 * len(teachers), dtype=torch.float64, device=device)

    def add(self, parts: LossParts, tokens: Tensor, options: LossOptions) -> None:
        """options: the weights of this step."""
        trained = options.sft_weight * parts.ce_sum + options.alpha * options.temperature**2 * parts.distill_sum
        counted = [*(getattr(parts, name) for name in _SUMS), tokens, trained]
        if self._teachers:
            counted += [*parts.kd_sums, *parts.n_targets_each]
        self._sums += torch.stack([value.detach().to(self._sums) for value in counted])

    def drain(self, over_ranks: Callable[[Tensor], Tensor], temperature: float) -> dict[str, float]:
        """The means since the last call, and `tokens` (input tokens read by all ranks). Starts anew.

        sft_loss: mean cross-entropy per labelled position, nats. distill_loss: T^2 times the divergence at T summed
        over the positions with a target, per *labelled* position, so that total_loss = sft_weight * sft_loss + alpha *
        distill_loss holds, where alpha moves on the average; divided by target_share it is the mean where there is a
        target. kl_NAME: each teacher's own KL(teacher || student) at T, nats per position where it has a target.
        """
        ce, kd, correct, labels, targets, tokens, trained, *each = over_ranks(self._sums).tolist()
        count = len(self._teachers)
        own = {
            f"kl_{name}": total / max(positions, 1.0)
            for name, total, positions in zip(self._teachers, each[:count], each[count:], strict=True)
        }
        self._sums.zero_()
        per_label = 1 / max(labels, 1.0)
        return {
            "total_loss": trained * per_label,
            "sft_loss": ce * per_label,
            "distill_loss": temperature**2 * kd * per_label,
            "token_accuracy": correct * per_label,
            "target_share": targets * per_label,
            "tokens": tokens,
            **own,
        }


class WaitClock:
    """How long the loop stood still because the next batch was not there yet, in this process."""

    def __init__(self) -> None:
        self._waited = self._waited_before = 0.0
        self._seconds_before = 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; asking for one is waiting."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - began
            yield batch

    def drain(self, seconds: float) -> float:
        """The share of the last `seconds`, since the last call, that was spent waiting."""
        waited, self._waited = self._waited, 0.0
        self._waited_before += waited
        self._seconds_before += seconds
        return waited / seconds

    @property
    def overall(self) -> float:
        """The share of all seconds that were drained."""
        return self._waited_before / max(self._seconds_before, 1e-9)
