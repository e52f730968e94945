"""Lengths must be the student's own, or the report promises what training does not keep."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.batch.encode import encode
from embervlm.data.measure import join, measure, token_counter
from embervlm.data.record import Record
from embervlm.model.processing import build_processor

PROCESSOR = build_processor("37m")
TEXTS = st.text() | st.text(alphabet=st.sampled_from("abXY 019'\n\t.,?!-<|>\x1c\x0b\x00"))


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_tokens_are_counted_as_the_student_cuts_them(text: str) -> None:
    ids = PROCESSOR.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert token_counter()(text) == len(ids)


def _records() -> list[Record]:
    return [
        Record("a", "1.jpg", "What is it?", "a dog"),
        Record("b", None, "Hello", "x " * 40, (("Hello", "x " * 40), ("And 2019?", "<image>"))),
        Record("c", "1.jpg", "What is it?\nAnswer.", "a dog", metadata={"question": "What is it?"}),
    ]


def test_positions_and_first_labels_are_those_of_the_row_that_is_trained() -> None:
    numbers = measure(_records(), PROCESSOR.num_image_tokens)
    for record, positions, first in zip(_records(), numbers.positions, numbers.first_label, strict=True):
        encoded = encode(record, PROCESSOR, 10_000)
        assert (len(encoded.input_ids), encoded.responses[0].first) == (positions, first)
        assert encode(record, PROCESSOR, int(first) + 1).has_labels
        assert not encode(record, PROCESSOR, int(first)).has_labels


def test_questions_are_counted_without_the_prompt_and_the_same_question_is_the_same() -> None:
    numbers = measure(_records(), 49)
    assert numbers.turns.tolist() == [1, 2, 1] and numbers.question_words.tolist() == [3, 1, 2, 3]
    assert numbers.asked[0] == numbers.asked[3] != 0 and numbers.asked[1] == 0
    assert len(set(numbers.same.tolist())) == 3  # the prompt differs, so the samples do


def test_taking_some_records_takes_their_turns() -> None:
    whole = measure(_records(), 49)
    alone = join([measure([_records()[i]], 49) for i in (2, 1)])
    taken = whole.take(np.array([2, 1]))
    for name in ("turns", "positions", "same", "question_words", "answer_tokens", "asked"):
        assert getattr(taken, name).tolist() == getattr(alone, name).tolist()
    assert len(join([])) == 0 and len(whole.take(np.zeros(0, dtype=np.int64))) == 0
