"""Which questions a page shows, and their pictures."""

from embervlm.data.record import Record
from embervlm.evaluate.pages.cards import Album, choose, make_card
from embervlm.evaluate.pages.report_inputs import Said
from embervlm.evaluate.questions import Answered


def test_wrong_answers_are_drawn_with_four_times_the_weight():
    def questions(name: str, scores: list[float]) -> list[Answered]:
        return [Answered(Record(f"{name}-{at}", None, "?", "x"), "y", score) for at, score in enumerate(scores)]

    many = questions("many", [0.0] * 1000 + [1.0] * 1000)
    chosen = choose({"many": many, "few": questions("few", [1.0, 0.0])}, 202, seed=1)
    assert chosen == choose({"many": many, "few": questions("few", [1.0, 0.0])}, 202, seed=1)
    assert sum(name == "few" for name, _ in chosen) == 2 and len(chosen) == 202
    wrong = sum(question.score == 0 for name, question in chosen if name == "many")
    assert 145 < wrong < 175  # 160 of 200
    scores = [question.score for _, question in chosen]
    assert scores == sorted(scores)


def test_a_picture_is_embedded_once_and_a_missing_one_counted(prepared):
    album = Album(prepared.image_root)
    assert album.add("red.png") == album.add("red.png") != album.add("blue.png")
    assert album.css.count("url(data:image/") == 2 and album.css.count("pixelated") == 2
    assert album.add(None) == "" and album.missing == 0
    assert album.add("gone.png") == "" == album.add("gone.png") and album.missing == 1


def test_a_card_says_what_people_answered(prepared):
    said = (Said("Student", "student", "red", 1.0), Said("Other", "other", "blue", 0.0))
    records = {record.id: record for record in prepared.records("val")}
    card = make_card("vqa", records["vqa-0"], said, Album(prepared.image_root))
    assert card.humans == (("red", 9), ("pink", 1)) and card.verdict == "right" and card.question_type == "what color"
    card = make_card("instruct", records["llava-3"], said[1:], Album(prepared.image_root))
    assert card.answer_type == card.question_type == "free text" and card.verdict == "wrong" and not card.humans
