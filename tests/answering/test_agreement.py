"""Agreement is what the evaluation would give."""

from __future__ import annotations

import pytest

from embervlm.answering.agreement import agreement
from embervlm.data.record import Record
from embervlm.evaluate.instruct import instruction_score

TURNS = (("What is it?", "A red star."), ("Sure?", ""), ("Where is it?", "It is at the top."))


def test_people_who_answered_are_asked_by_vqa_accuracy() -> None:
    record = Record("a", None, "What?", "red", None, ("red",) * 8 + ("pink", "rose"))
    assert [agreement(record, [said]) for said in ("red", "pink", "blue")] == pytest.approx([1, 0.3, 0])


def test_texts_are_compared_turn_by_turn_where_there_is_a_reference() -> None:
    record = Record("a", None, *TURNS[0], TURNS)
    assert agreement(record, [answer for _, answer in TURNS]) == 1
    wrong = "It is at the left."
    expected = (1 + instruction_score(wrong, TURNS[2][1], TURNS[2][0]).score) / 2
    assert agreement(record, ["A red star.", "whatever", wrong]) == pytest.approx(expected)
    assert 0 < expected < 1


def test_without_a_reference_there_is_nothing_to_agree_with() -> None:
    assert agreement(Record("a", "1.png", "What?", ""), ["red"]) is None
