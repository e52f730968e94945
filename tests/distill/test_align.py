"""Alignment on bytes: which teacher tokens speak about which student token."""

from __future__ import annotations

import numpy as np
import pytest

from embervlm.distill.align import ANCHORED, INTERIOR, NONE, align
from embervlm.tokens import Spans


def spans(*pairs: tuple[int, int]) -> Spans:
    starts, ends = (np.array([pair[side] for pair in pairs], dtype=np.int32) for side in (0, 1))
    return Spans(np.arange(len(pairs), dtype=np.int32), starts, ends)


def test_three_kinds():
    # Teacher: [abcd][ef][gh] END. Student: [a][bc][de][f][gh] END.
    teacher = spans((0, 4), (4, 6), (6, 8), (8, 8))
    student = spans((0, 1), (1, 3), (3, 5), (5, 6), (6, 8), (8, 8))
    aligned = align(student, teacher)
    # [f] starts inside [ef], but the student has no boundary where [ef] starts.
    assert aligned.kinds.tolist() == [ANCHORED, INTERIOR, INTERIOR, NONE, ANCHORED, ANCHORED]
    assert aligned.first.tolist() == [0, 0, 0, -1, 2, 3]
    assert aligned.last.tolist() == [1, 1, 2, -1, 3, 4]
    assert aligned.boundary.tolist() == [0, 0, 0, -1, 4, 5]


def test_end_of_turn_is_anchored_to_the_end_of_turn():
    aligned = align(spans((0, 2), (2, 2)), spans((0, 1), (1, 2), (2, 2)))
    assert aligned.kinds.tolist() == [ANCHORED, ANCHORED]
    assert aligned.first.tolist() == [0, 2]
    assert aligned.last.tolist() == [2, 3]


def test_empty_answer_is_only_the_end_of_turn():
    aligned = align(spans((0, 0)), spans((0, 0)))
    assert aligned.kinds.tolist() == [ANCHORED] and aligned.first.tolist() == [0]


def test_unknown_spans_are_never_guessed():
    teacher = spans((0, 2), (-1, -1), (-1, -1))
    aligned = align(spans((0, 2), (2, 4), (4, 4)), teacher)
    assert aligned.kinds.tolist() == [ANCHORED, NONE, NONE]
    unknown_student = align(spans((0, 2), (-1, -1), (4, 4)), spans((0, 2), (2, 4), (4, 4)))
    assert unknown_student.kinds.tolist() == [ANCHORED, NONE, ANCHORED]
    assert unknown_student.boundary.tolist() == [0, -1, 2]
    assert align(spans((0, 1)), spans((-1, -1))).kinds.tolist() == [NONE]


def test_spans_out_of_order_are_refused():
    with pytest.raises(ValueError, match="teacher's spans"):
        align(spans((0, 1)), spans((3, 4), (0, 3)))
