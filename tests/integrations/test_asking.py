"""What all harnesses share: generation arguments, batches, ends of answers, pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from embervlm import EmberVLM
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.evaluate.answerers import StudentAnswerer
from embervlm.integrations.asking import Decoding, Question, answer_all, cut, one_picture, read_decoding, without_places

PROMPTS = ["What is it?", "Is there a red ball on the table, or a blue one behind it?", "How many?", "Where?", "Why?"]


def questions(pictures: list[Image.Image], decoding: Decoding) -> list[Question]:
    shown = [*pictures, None, pictures[0]]
    return [Question(p, lambda image=image: image, decoding) for p, image in zip(PROMPTS, shown, strict=True)]


def test_any_batch_size_answers_as_our_own_evaluation(student: EmberVLM, pictures: list, tmp_path: Path) -> None:
    """A harness that decodes otherwise, or hands answers to the wrong questions, gives other people other numbers."""
    records = []
    for at, (prompt, image) in enumerate(zip(PROMPTS, [*pictures, None, pictures[0]], strict=True)):
        if image is not None:
            image.save(tmp_path / f"{at}.png")
        records.append(Record(str(at), image and f"{at}.png", prompt, "x"))
    own = StudentAnswerer(student).answers(records, tmp_path, 8)
    assert len(set(own)) > 1, "the test would not see a mix-up"
    for batch_size in (1, 2, 5):
        assert answer_all(student, questions(pictures, Decoding(8)), batch_size) == own


def test_each_question_has_its_own_decoding(student: EmberVLM, pictures: list) -> None:
    long, short = (questions(pictures, Decoding(length)) for length in (9, 2))
    mixed = [q for pair in zip(long, short, strict=True) for q in pair]
    done: list[int] = []
    answers = answer_all(student, mixed, 3, done.append)
    assert answers[::2] == answer_all(student, long, 3) and answers[1::2] == answer_all(student, short, 3)
    assert answers[::2] != answers[1::2] and sum(done) == len(mixed)


def test_until_cuts_the_answer(student: EmberVLM, pictures: list) -> None:
    whole = answer_all(student, questions(pictures, Decoding(8)))
    end = next(text[len(text) // 2] for text in whole if len(text) > 3)
    ended = answer_all(student, questions(pictures, Decoding(8, until=(end,))), 5)
    assert ended == [text.split(end)[0].strip() for text in whole] and ended != whole
    assert cut("red\nor blue. Q: why", ["Q:", "\n"]) == "red"


def test_a_question_that_is_too_long_is_answered_with_nothing_and_said(student, pictures, caplog) -> None:
    """One such question in a benchmark must neither end the run nor pass unnoticed."""
    asked = questions(pictures, Decoding(4))
    long = Question("why " * 5000, lambda: pictures[0], Decoding(4))
    with caplog.at_level(logging.WARNING):
        answers = answer_all(student, [asked[0], long, *asked[1:]], 3)
    assert answers[1] == "" and [answers[0], *answers[2:]] == answer_all(student, asked, 3)
    assert "1 of 6 questions are longer" in caplog.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Decoding(100)),
        ({"max_new_tokens": 16, "until": "\n", "do_sample": False, "temperature": 0.7}, Decoding(16, ("\n",))),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "until": None}, Decoding(100, (), (("num_beams", 1),))),
        ({"do_sample": True, "temperature": 0}, Decoding(100)),
        ({"max_gen_toks": 7, "until": ["", "Q:"], "image_aspect_ratio": "pad"}, Decoding(7, ("Q:",))),
        ({"temperature": 0.5}, Decoding(100, (), (("do_sample", True), ("temperature", 0.5)))),
        (
            {"do_sample": True, "top_p": 0.9, "top_k": None},
            Decoding(100, (), (("do_sample", True), ("temperature", 1.0), ("top_p", 0.9))),
        ),
    ],
)
def test_generation_arguments_of_tasks(given: dict, expected: Decoding) -> None:
    assert read_decoding(given) == expected


def test_odd_generation_arguments_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_decoding({"num_crops": 4})
    assert "num_crops" in caplog.text
    for given in ({"max_new_tokens": 0}, {"temperature": -1}, {"max_new_tokens": "many"}, {"num_return_sequences": 2}):
        with pytest.raises(UserError):
            read_decoding(given)


def test_one_picture_or_a_sentence(pictures: list, tmp_path: Path) -> None:
    """Dropping all pictures but one, or a video, would score an answer to another question."""
    pictures[1].save(tmp_path / "p.PNG")
    assert one_picture(None, "q") is None and one_picture([[]], "q") is None
    assert one_picture([pictures[0]], "q") is pictures[0]
    opened = one_picture(str(tmp_path / "p.PNG"), "q")
    assert opened is not None and opened.tobytes() == pictures[1].tobytes()
    with pytest.raises(UserError, match="Question 3 shows 2 pictures"):
        one_picture([pictures[0], [pictures[1]]], "Question 3")
    assert one_picture(pictures, "q", first=True) is pictures[0]
    with pytest.raises(UserError, match="clip.mp4'; EmberVLM reads pictures only"):
        one_picture(["clip.mp4"], "q", first=True)
    with pytest.raises(UserError, match="dict"):
        one_picture([{"array": [0.0], "sampling_rate": 16000}], "q")


def test_the_harness_s_mark_for_the_picture_is_no_part_of_the_question() -> None:
    assert without_places("<image>\nWhat is it?") == "What is it?"
    assert without_places(" What is it? ") == " What is it? "
