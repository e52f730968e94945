"""Schedules: the first and the last step are the ones that go wrong."""

import pytest

from embervlm.errors import UserError
from embervlm.train.schedules import alpha_at, capped_warmup, loss_weights


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_alpha_starts_and_ends_where_it_says(schedule):
    values = [alpha_at(step, 11, schedule, 0.5, 0.2) for step in range(11)]
    assert values[0] == 0.5
    assert values[-1] == pytest.approx(0.2)
    assert values[5] == pytest.approx(0.35)
    assert values == sorted(values, reverse=True)
    assert alpha_at(99, 11, schedule, 0.5, 0.2) == pytest.approx(0.2)


def test_constant_alpha_ignores_the_end():
    assert {alpha_at(step, 5, "constant", 0.3, 0.0) for step in range(5)} == {0.3}


def test_one_step_run_does_not_divide_by_zero():
    assert alpha_at(0, 1, "linear", 0.5, 0.2) == 0.5


def test_unknown_schedule_is_named():
    with pytest.raises(UserError, match="'sawtooth'.*linear"):
        alpha_at(0, 1, "sawtooth", 0.5, 0.2)


def test_the_missing_weight_is_the_complement():
    assert loss_weights(0.3, None) == (0.3, pytest.approx(0.7))
    assert loss_weights(None, 0.8) == (pytest.approx(0.2), 0.8)
    assert loss_weights(0.5, 0.9) == (0.5, 0.9)


@pytest.mark.parametrize("weights", [(1.5, None), (-0.1, 1.0), (0.0, 0.0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(UserError):
        loss_weights(*weights)


def test_warmup_never_eats_the_run():
    """The guide's 1,000 warm-up steps on a 200-step run would end at a fifth of the peak learning rate."""
    assert capped_warmup(1000, 200) == 20
    assert capped_warmup(10, 200) == 10
    assert capped_warmup(1000, 50_000) == 1000
