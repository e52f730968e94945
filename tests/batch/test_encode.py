"""Labels: shifted once, on every answer and its EOS, on nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm.batch.encode import IGNORE, encode, surely_fits
from embervlm.data.record import Record
from embervlm.model.processing import build_processor
from embervlm.tokens import encode_spans

PROCESSOR = build_processor("tiny")
TOKENIZER = PROCESSOR.tokenizer
USER, ASSISTANT, EOS = TOKENIZER.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|endoftext|>"])
IMAGES = PROCESSOR.num_image_tokens


def ids(text):
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def record(*turns, image="a.png"):
    (question, answer), more = turns[0], turns if len(turns) > 1 else None
    return Record(id="r", image=image, instruction=question, response=answer, conversations=more)


def asked(encoded):
    """The labels that are asked for, in order."""
    return encoded.shift_labels[encoded.shift_labels != IGNORE].tolist()


def test_every_token_of_a_one_turn_row():
    """Token by token: what each position reads and what it is asked for."""
    encoded = encode(record(("What colour is it?", "dark red")), PROCESSOR, 256)
    prompt = [USER, *[PROCESSOR.image_token_id] * IMAGES, *ids("What colour is it?"), ASSISTANT]
    answer = ids("dark red")
    assert len(answer) >= 2
    assert encoded.input_ids.tolist() == prompt + answer
    assert encoded.shift_labels.tolist() == [IGNORE] * (len(prompt) - 1) + answer + [EOS]
    assert not encoded.truncated


def test_first_and_last_answer_token():
    """An off-by-one here would train "repeat this token", or never train the first word or the end."""
    encoded = encode(record(("Why?", "because of the rain")), PROCESSOR, 256)
    (response,) = encoded.responses
    answer = ids("because of the rain")
    assert encoded.input_ids[response.first] == ASSISTANT
    assert encoded.shift_labels[response.first] == answer[0]
    assert encoded.shift_labels[response.first - 1] == IGNORE
    last = response.first + len(answer)
    assert encoded.input_ids[last] == answer[-1]
    assert encoded.shift_labels[last] == EOS
    assert last == len(encoded.input_ids) - 1


def test_every_turn_of_a_conversation_is_trained_and_no_question():
    turns = (("What is it?", "a cat"), ("And its colour?", "grey"), ("Sure?", "Yes, I am."))
    encoded = encode(record(*turns), PROCESSOR, 256)
    assert asked(encoded) == [token for _, answer in turns for token in [*ids(answer), EOS]]
    assert [response.turn for response in encoded.responses] == [0, 1, 2]
    for response, (_, answer) in zip(encoded.responses, turns, strict=True):
        assert response.text == answer
        span = encoded.shift_labels[response.first : response.first + len(response.ids)]
        assert span.tolist() == response.ids.tolist() == [*ids(answer), EOS]
    # The EOS of an earlier turn is read before the next question; the last one is not read.
    assert (encoded.input_ids == EOS).sum() == 2
    # The picture is in the first turn only.
    assert (encoded.input_ids == PROCESSOR.image_token_id).sum() == IMAGES


def test_text_only():
    encoded = encode(record(("Say hi.", "hi"), image=None), PROCESSOR, 256)
    assert encoded.input_ids.tolist() == [USER, *ids("Say hi."), ASSISTANT, *ids("hi")]
    assert asked(encoded) == [*ids("hi"), EOS]


def test_names_of_special_tokens_in_text_do_not_inject():
    """A question that says "<image>" would otherwise ask for a picture that is not there, one that says "<|assistant|>"
    would be trained as an answer."""
    bad = "a <image> b <|assistant|> c <|endoftext|> <|user|> <|pad|>"
    encoded = encode(record((bad, bad)), PROCESSOR, 512)
    row = encoded.input_ids.tolist()
    assert row.count(PROCESSOR.image_token_id) == IMAGES
    assert (row.count(USER), row.count(ASSISTANT), row.count(EOS)) == (1, 1, 0)
    assert asked(encoded).count(EOS) == 1
    assert TOKENIZER.decode(asked(encoded)[:-1]) == bad


def test_response_ids_are_the_spans_the_teacher_is_projected_on():
    text = "There are 12 cats on the <image>, déjà vu 東京."
    (response,) = encode(record(("q", text)), PROCESSOR, 512).responses
    assert response.ids[:-1].tolist() == encode_spans(TOKENIZER, text).ids.tolist()


@pytest.mark.parametrize("cut", [1, 2])
def test_truncation_cuts_the_end_and_says_so(cut):
    whole = encode(record(("Why?", "because of the heavy rain")), PROCESSOR, 256)
    length = len(whole.input_ids)
    assert not encode(record(("Why?", "because of the heavy rain")), PROCESSOR, length).truncated
    short = encode(record(("Why?", "because of the heavy rain")), PROCESSOR, length - cut)
    assert short.truncated
    assert short.input_ids.tolist() == whole.input_ids[:-cut].tolist()
    assert short.shift_labels.tolist() == whole.shift_labels[:-cut].tolist()
    (response,) = short.responses
    assert response.ids.tolist() == whole.responses[0].ids.tolist()
    assert response.kept(len(short.input_ids)) == len(response.ids) - cut


def test_a_turn_that_is_cut_off_whole_is_no_response():
    turns = (("q", "yes"), ("And why is that so?", "no"))
    first = encode(record(turns[0]), PROCESSOR, 256)
    both = encode(record(*turns), PROCESSOR, len(first.input_ids) + 3)
    assert [response.turn for response in both.responses] == [0]
    assert both.truncated


def test_a_row_without_labels_is_told():
    long = record(("word " * 300, "yes"))
    encoded = encode(long, PROCESSOR, 128)
    assert encoded.truncated and not encoded.has_labels and asked(encoded) == []
    assert not surely_fits(long, PROCESSOR, 128)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=3),
    st.booleans(),
    st.integers(1, 120),
)
def test_any_text_any_length(turns, image, max_length):
    item = record(*turns, image="a.png" if image else None)
    encoded = encode(item, PROCESSOR, max_length)
    assert len(encoded.input_ids) == len(encoded.shift_labels) <= max_length
    labelled = encoded.shift_labels != IGNORE
    # Inside the row a label is the next token that is read.
    inner = np.flatnonzero(labelled[:-1])
    assert np.array_equal(encoded.shift_labels[inner], encoded.input_ids[inner + 1])
    assert labelled.sum() == sum(response.kept(len(encoded.input_ids)) for response in encoded.responses)
    assert encoded.has_labels == bool(labelled.any())
    if surely_fits(item, PROCESSOR, max_length):
        assert encoded.has_labels
