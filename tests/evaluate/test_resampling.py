"""Pictures are drawn whole: against every resample there is, and against drawing them one by one."""

import itertools

import numpy as np
import pytest

from embervlm.data.record import Record
from embervlm.evaluate.paired import paired_bootstrap
from embervlm.evaluate.resampling import drawn_means, interval_of, pictures_by_id, pictures_of
from embervlm.evaluate.vqa import score_vqa


def test_against_every_resample_of_unequal_pictures():
    """A picture with three questions weighs three times when it is drawn: the mean is over questions."""
    values = np.array([1.0, 0.3, 0.0, 1.0, 0.6, 0.9, 0.0])
    pictures = ["a", "b", "b", "b", "c", "c", "d"]
    groups = [values[[p == name for p in pictures]] for name in "abcd"]
    every = [np.concatenate([groups[at] for at in chosen]).mean() for chosen in itertools.product(range(4), repeat=4)]
    drawn = drawn_means(values, pictures, 200_000, np.random.default_rng(0))
    found, times = np.unique(np.round(drawn, 9), return_counts=True)
    expected, counts = np.unique(np.round(every, 9), return_counts=True)
    assert np.array_equal(found, expected)
    assert np.allclose(times / len(drawn), counts / len(every), atol=0.005)


def test_without_pictures_every_question_is_drawn_by_itself():
    values = np.random.default_rng(0).choice([0, 0.3, 0.6, 0.9, 1.0], 200)
    alone = drawn_means(values, None, 500, np.random.default_rng(1))
    assert np.array_equal(alone, drawn_means(values, [str(n) for n in range(200)], 500, np.random.default_rng(1)))


def test_ten_questions_that_share_their_fate_are_worth_one():
    """Counted one by one they would make an interval three times too narrow."""
    fate = np.random.default_rng(0).choice([0.0, 1.0], 60)
    records = [
        Record(f"{p}-{q}", f"{p}.jpg", f"{q}?", "yes", answers=("yes",) * 10, metadata={"question_type": "is"})
        for p in range(60)
        for q in range(10)
    ]
    said = ["yes" if value else "no" for value in np.repeat(fate, 10)]
    low, high = score_vqa(records, said).overall.interval
    expected = interval_of(drawn_means(fate, None, 4000, np.random.default_rng(0)))
    assert (low, high) == pytest.approx(expected, abs=0.02)
    scores = np.stack([np.repeat(fate, 10), np.zeros(600)])
    paired = paired_bootstrap(scores, pictures=pictures_of(records)).differences[0].interval
    assert paired == pytest.approx((-expected[1], -expected[0]), abs=0.02)
    naive = paired_bootstrap(scores).differences[0].interval
    assert naive[1] - naive[0] < 0.4 * (paired[1] - paired[0])


def test_one_picture_under_two_names_is_one_and_text_is_alone():
    names = ("COCO_val2014_000000000007.jpg", "000000000007.jpg", None, None)
    records = [Record(str(at), name, "?", "!") for at, name in enumerate(names)]
    first, second, *texts = pictures_of(records)
    assert first == second and len({first, *texts}) == 3
    assert pictures_by_id(records) == dict(zip("0123", (first, second, *texts), strict=True))
