"""Tempering, and the batch: every target must lie beside the label it speaks about."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embervlm.distill.align import ANCHORED, NONE
from embervlm.distill.project import ResponseTargets
from embervlm.distill.targets import Targets, collate_targets, tail_at
from embervlm.teachers.outputs import TEMPERATURE_GRID

GRID = np.array(TEMPERATURE_GRID)


def one_hot(token: int, size: int = 1, kind: int = ANCHORED) -> ResponseTargets:
    """`size` positions that each say `token + position` with certainty."""
    ids = np.stack([np.arange(token, token + size), np.full(size, -1)], 1).astype(np.int32)
    if kind == NONE:
        ids[:] = -1
    logprobs = np.where(ids >= 0, 0.0, -np.inf).astype(np.float32)
    return ResponseTargets(np.full(size, kind, np.int8), ids, logprobs, np.full((size, len(GRID)), -np.inf, np.float32))


@pytest.mark.parametrize("temperature", [1.0, 1.1, 1.4, 1.8, 2.0, 2.5, 3.5, 4.0])
def test_off_the_grid_the_tail_is_interpolated_within_one_percent(temperature: float):
    rng = np.random.default_rng(0)
    for spread in (1.0, 2.0, 4.0):
        logits = rng.normal(0, spread, 50_000)
        logp = np.sort(logits - np.log(np.exp(logits).sum()))[::-1]
        for tail in (logp[8:], logp[64:], logp[1000:]):
            grid = np.log(np.exp(tail[:, None] / GRID).sum(0)).astype(np.float32)
            exact = np.log(np.exp(tail / temperature).sum())
            assert abs(tail_at(grid, temperature) - exact) < 0.01


def test_tail_that_is_nothing_somewhere_does_not_spread_nan():
    assert tail_at(np.full(len(GRID), -np.inf), 1.7) == -np.inf
    partly = np.array([-np.inf, -12.0, -9.0, -7.0, -4.0, -3.0])
    assert tail_at(partly, 1.7) == -9.0
    assert tail_at(partly, 1.05) == -np.inf


@pytest.mark.parametrize("temperature", [0.5, 4.5])
def test_temperature_outside_the_grid_is_refused(temperature: float):
    with pytest.raises(ValueError, match="between 1 and 4"):
        tail_at(np.zeros(len(GRID)), temperature)


def test_project_at_one_then_temper():
    """Tempering before the projection would over-weight student tokens that collect many teacher words (DESIGN 4.2)."""
    p, tail = np.array([0.5, 0.3]), np.array([0.1, 0.1])
    targets = ResponseTargets(
        np.array([ANCHORED], np.int8),
        np.array([[4, 2]], np.int32),
        np.log(p)[None].astype(np.float32),
        np.log((tail[:, None] ** (1 / GRID)).sum(0))[None].astype(np.float32),
    )
    batch = collate_targets([(0, 0, targets)], torch.tensor([[4]]), 2.0)
    normaliser = (p**0.5).sum() + (tail**0.5).sum()
    np.testing.assert_allclose(batch.probs[0], p**0.5 / normaliser, rtol=1e-6)
    assert batch.rest.item() == pytest.approx((tail**0.5).sum() / normaliser, rel=1e-6)


def test_every_target_lies_beside_its_label():
    """Off by one here, and the student learns to say each word one step late while every loss still falls."""
    labels = torch.full((3, 7), -100)
    labels[0, 1:3] = 5
    labels[1, 0:1] = 5
    labels[1, 4:7] = 5
    labels[2, 6:7] = 5
    responses = [(1, 4, one_hot(30, 3)), (0, 1, one_hot(10, 2)), (2, 6, one_hot(40, kind=NONE))]
    batch = collate_targets(responses, labels, 2.0)
    assert batch.ids[:, 0].tolist()[:6] == [10, 11, -1, 30, 31, 32]
    assert batch.has_target.tolist() == [True, True, False, True, True, True, False]
    assert batch.ids.shape == (7, 1), "K is cut to the events that occur"
    torch.testing.assert_close(batch.probs.sum(1) + batch.rest, batch.has_target.float())


def test_targets_where_no_label_is_are_refused():
    labels = torch.full((1, 4), -100)
    labels[0, 2:] = 1
    for first, size in ((1, 2), (3, 2)):
        with pytest.raises(ValueError, match="not all have a label"):
            collate_targets([(0, first, one_hot(1, size))], labels, 2.0)


def test_batch_without_targets():
    batch = collate_targets([], torch.full((2, 3), -100), 2.0)
    assert batch.ids.shape == (0, 1) and isinstance(batch.to("cpu"), Targets)
