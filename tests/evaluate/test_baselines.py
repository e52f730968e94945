"""Baselines see what they may see, and no more."""

from embervlm.evaluate.answerers import MeanImage, ShuffledImages, StudentAnswerer, WithoutImage
from embervlm.evaluate.baselines import majority_per_question, majority_per_template


class Looker:
    """Answers with the name of the picture."""

    def answers(self, records, image_root, max_new_tokens):
        return [str(record.image) for record in records]


def test_majority_per_template_and_per_question(prepared):
    train, val = prepared.records("train"), prepared.records("val")
    by_template = majority_per_template(train).answers(val, prepared.image_root, 8)
    # "is it": red yes, blue no, green no; "what color": a tie of three, the first by alphabet.
    assert by_template[1] == "no" and by_template[0] == "blue" and by_template[2] == "apple"
    by_question = majority_per_question(train).answers(val, prepared.image_root, 8)
    assert by_question == by_template, "one question a template here"


def test_an_unseen_question_falls_back_to_its_template_then_to_its_source(prepared):
    import dataclasses

    train = prepared.records("train")
    record = dataclasses.replace(train[1], instruction="Is it really red?")
    other = dataclasses.replace(record, metadata={"source": "vqa_v2", "question_type": "never seen"})
    strange = dataclasses.replace(record, metadata={"source": "elsewhere"})
    answers = majority_per_question(train).answers([record, other, strange], prepared.image_root, 8)
    assert answers == ["no", "no", ""]


def test_without_image_takes_it_away(prepared):
    assert set(WithoutImage(Looker()).answers(prepared.records("val"), prepared.image_root, 8)) == {"None"}


def test_shuffled_images_never_leave_a_picture_in_place(prepared):
    records = prepared.records("val")
    answers = ShuffledImages(Looker(), records, seed=3).answers(records, prepared.image_root, 8)
    assert all(answer != record.image for answer, record in zip(answers, records, strict=True))
    assert set(answers) == {record.image for record in records}


def test_the_mean_image_is_the_same_for_all(student, prepared):
    records = prepared.records("val")[:1] + prepared.records("val")[4:5]  # one question, two pictures
    mean = MeanImage(StudentAnswerer(student), prepared.records("train"), prepared.image_root)
    assert mean.image.getpixel((3, 3)) == (90, 73, 97)
    first, second = mean.answers(records, prepared.image_root, 4)
    assert (
        first
        == second
        == StudentAnswerer(student).model.generate(image=mean.image, prompt=records[0].instruction, max_length=4)
    )
