"""Means, intervals and steps against what is computed the slow way."""

import numpy as np
import pytest

from benchmarks.learning.stats import compare, mean_curve, over_pictures, over_seeds, read, steps_to, written


def cell(tenths: list[int], curve: list[tuple[int, float]] = ()) -> dict:
    accuracy = sum(tenths) / len(tenths) / 10
    return {
        "tenths": written(tenths),
        "report": {"accuracy": accuracy, "without_yes_no": accuracy, "by_answer_type": {"other": accuracy}},
        "unseen": {"unseen_pairs": accuracy},
        "curve": [{"step": step, "vqa_accuracy": value} for step, value in curve],
    }


def test_the_interval_over_seeds_is_students_t():
    """A normal interval would be a third as wide for two seeds."""
    low, high = over_seeds([1.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(12.706 * 1.0, rel=1e-3)  # s = sqrt 2, / sqrt 2
    low, high = over_seeds([1.0, 2.0, 3.0])
    assert (high - low) / 2 == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert over_seeds([1.0]) is None


def test_questions_of_one_picture_are_drawn_together():
    """Ten equal questions of a picture are not ten independent ones: the interval must not shrink."""
    rng = np.random.default_rng(0)
    of_pictures = rng.integers(0, 2, 40).astype(float)
    alone = over_pictures(of_pictures, [str(i) for i in range(40)])
    tenfold = over_pictures(np.repeat(of_pictures, 10), [str(i) for i in range(40) for _ in range(10)])
    assert tenfold == pytest.approx(alone)
    naive = over_pictures(np.repeat(of_pictures, 10), [str(i) for i in range(400)])
    assert naive[1] - naive[0] < 0.5 * (alone[1] - alone[0])


def test_the_interval_over_pictures_is_that_of_drawing_them_one_by_one():
    rng = np.random.default_rng(1)
    pictures = [str(i) for i in rng.integers(0, 30, 200)]
    scores = rng.normal(3, 2, 200)
    by_picture = {name: scores[[p == name for p in pictures]] for name in set(pictures)}
    names = sorted(by_picture)
    means = []
    for _ in range(4000):
        drawn = [by_picture[names[i]] for i in rng.integers(0, len(names), len(names))]
        means.append(np.concatenate(drawn).mean())
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose(over_pictures(scores, pictures, draws=4000), expected, atol=0.05)


def test_the_gain_is_paired_by_seed():
    """Seeds that only one side has would make two different means look like a gain."""
    arm = {0: cell([10, 10]), 1: cell([10, 0]), 2: cell([0, 0])}
    sft = {0: cell([10, 0]), 1: cell([0, 0])}
    row = compare(arm, sft, ["a", "b"])
    assert row["accuracy"] == pytest.approx(50) and row["seeds"] == 3
    assert row["gain"]["mean"] == pytest.approx(50)
    assert row["gain"]["over_seeds"] == pytest.approx((50, 50))
    low, high = row["gain"]["over_pictures"]
    assert low == pytest.approx(50) and high == pytest.approx(50)  # both pictures gained 50


def test_the_curve_is_the_mean_at_the_steps_that_all_cells_have():
    first, second = cell([0], [(10, 0.2), (20, 0.4)]), cell([0], [(10, 0.4), (20, 0.6), (30, 0.9)])
    assert mean_curve([first, second]) == [(10, pytest.approx(30)), (20, pytest.approx(50))]


def test_steps_to_an_accuracy():
    curve = [(100, 30.0), (200, 50.0), (300, 40.0)]
    assert steps_to(curve, 40) == pytest.approx(150)
    assert steps_to(curve, 20) == 100  # before the first look nothing is known
    assert steps_to(curve, 50) == pytest.approx(200)
    assert steps_to(curve, 60) is None


def test_scores_are_read_as_they_were_written():
    assert read(written(list(range(11)))).tolist() == [10.0 * tenth for tenth in range(11)]
