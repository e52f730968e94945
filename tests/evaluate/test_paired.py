"""The paired bootstrap against one that resamples question by question."""

import itertools

import numpy as np
import pytest

from embervlm.evaluate.paired import paired_bootstrap, points, span


def brute_force(scores: np.ndarray) -> np.ndarray:
    """Every resample there is of a few questions: means [n ** n, systems]."""
    n = scores.shape[1]
    return np.array([scores[:, list(chosen)].mean(1) for chosen in itertools.product(range(n), repeat=n)])


def test_against_every_resample_there_is():
    """Grouping equal questions must not change the distribution, and all systems must see the same resamples."""
    scores = np.array([[1.0, 0.3, 0.0, 1.0, 0.6], [0.9, 0.3, 0.3, 1.0, 0.0], [0.9, 0.3, 0.3, 1.0, 0.0]])
    found = paired_bootstrap(scores, draws=200_000, seed=3)
    means = brute_force(scores)
    assert np.allclose(found.means, scores.mean(1))
    for system, interval in enumerate(found.intervals):
        assert np.allclose(interval, np.percentile(means[:, system], [2.5, 97.5]), atol=0.021)
    exact = means[:, 1] - means[:, 0]
    difference = found.differences[0]
    assert difference.mean == pytest.approx(exact.mean())
    assert np.allclose(difference.interval, np.percentile(exact, [2.5, 97.5]), atol=0.021)
    exact = np.where(np.abs(exact) < 1e-12, 0, exact)
    assert difference.above == pytest.approx((exact > 0).mean(), abs=0.005)
    assert difference.p == pytest.approx(2 * min((exact <= 0).mean(), (exact >= 0).mean()), abs=0.01)
    assert found.differences[1] == difference


def test_two_systems_are_compared_alike_whoever_else_is_there():
    """A third run on the command line must not change what is said of the first two."""
    scores = np.random.default_rng(0).choice([0, 0.3, 0.6, 0.9, 1.0], (3, 80))
    two, three = paired_bootstrap(scores[:2]), paired_bootstrap(scores)
    assert three.differences[0] == two.differences[0] and three.intervals[:2] == two.intervals


def test_pairing_takes_out_what_is_hard_for_both():
    """Two systems that differ by little on questions that differ by much: unpaired, the difference would drown."""
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    first = hard.astype(float)
    second = first.copy()
    second[np.flatnonzero(~hard)[:12]] = 1.0
    found = paired_bootstrap(np.stack([first, second]))
    low, high = found.differences[0].interval
    assert found.differences[0].mean == pytest.approx(0.03) and 0.01 < low < 0.03 < high < 0.05
    assert found.intervals[0][1] > found.intervals[1][0]  # the systems' own intervals overlap


def test_equal_systems_differ_by_nothing():
    scores = np.tile(np.random.default_rng(0).choice([0, 0.3, 0.6, 0.9, 1.0], 50), (2, 1))
    (difference,) = paired_bootstrap(scores).differences
    assert difference.interval == (0, 0) and difference.p == 1 and difference.above == 0


def test_many_different_scores_are_drawn_in_parts(monkeypatch):
    """Instruction scores are hardly ever equal; drawing in parts must give as many draws as asked for."""
    scores = np.random.default_rng(1).random((2, 300))
    whole = paired_bootstrap(scores, draws=1000)
    monkeypatch.setattr("embervlm.evaluate.resampling._AT_ONCE", 300 * 64)
    parts = paired_bootstrap(scores, draws=1000)
    assert parts == whole


def test_no_questions_are_an_error():
    with pytest.raises(ValueError, match="one question at least"):
        paired_bootstrap(np.zeros((2, 0)))


def test_points_read_well():
    assert points(-0.0123, sign=True) == "−1.2" and points(-0.0001) == "0.0" and points(0.5, sign=True) == "+50.0"
    assert span((-0.01, 0.034)) == "−1.0 to 3.4"
