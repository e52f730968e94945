"""VQA accuracy against results of the official scorer, and the sums over a set of questions."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from embervlm.data.record import Record
from embervlm.evaluate import vqa_accuracy
from embervlm.evaluate.answers import normalise, strip_blanks
from embervlm.evaluate.resampling import bootstrap_interval
from embervlm.evaluate.vqa import VARIANTS, score_vqa

CASES = json.loads(Path(__file__).with_name("vqa_vectors.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_official_scorer_is_reproduced(case: dict):
    assert vqa_accuracy(case["prediction"], case["answers"]) == pytest.approx(case["expected_accuracy"], abs=1e-12)


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_leave_one_out_goes_by_place_not_by_value(matches: int, expected: float):
    """Leaving out *equal* answers instead of one answer would score ten times yes as 0."""
    assert vqa_accuracy("yes", ["yes"] * matches + ["no"] * (10 - matches)) == expected


def test_closed_form_equals_the_definition():
    rng = random.Random(0)
    words = ["red", "Red.", "the red", "two", "2", "n/a", "1,000", " x ", ""]
    for _ in range(500):
        answers, given = rng.choices(words, k=10), rng.choice(words)
        humans, said = [strip_blanks(a) for a in answers], strip_blanks(given)
        if len(set(humans)) > 1:
            humans, said = [normalise(a) for a in humans], normalise(said)
        each = [min(1, sum(h == said for j, h in enumerate(humans) if j != i) / 3) for i in range(10)]
        assert vqa_accuracy(given, answers) == pytest.approx(sum(each) / 10, abs=1e-12)


def _record(at: int, answer_type: str, question_type: str, answers: list[str]) -> Record:
    metadata = {"source": "vqa_v2", "question_type": question_type}
    return Record(f"vqa-{at}", f"{at}.jpg", "?", answers[0], None, tuple(answers), answer_type, metadata)


def test_corpus_scores_by_type_and_without_yes_no():
    records = [
        _record(0, "yes/no", "is there", ["yes"] * 10),
        _record(1, "yes/no", "is there", ["no"] * 8 + ["yes"] * 2),
        _record(2, "other", "what color", ["red"] * 10),
        _record(3, "number", "how many", ["2"] * 10),
    ]
    scores = score_vqa(records, ["yes", "yes", "Red", "2"])
    assert scores.overall.accuracy == pytest.approx((1 + 0.6 + 0 + 1) / 4)
    assert scores.overall.exact_match == 0.5
    assert list(scores.by_answer_type) == ["yes/no", "number", "other"]
    assert scores.by_answer_type["yes/no"].accuracy == pytest.approx(0.8)
    assert scores.by_question_type["is there"].n == 2
    assert scores.without_yes_no is not None and scores.without_yes_no.accuracy == 0.5
    low, high = scores.overall.interval
    assert low < scores.overall.accuracy < high
    assert scores == score_vqa(records, ["yes", "yes", "Red", "2"]), "seeded: the same interval every time"


def test_the_interval_covers_what_theory_says():
    values = np.repeat([0.0, 1.0], [600, 400])
    low, high = bootstrap_interval(values, np.random.default_rng(0))
    half = 1.96 * np.sqrt(0.4 * 0.6 / 1000)
    assert low == pytest.approx(0.4 - half, abs=0.004) and high == pytest.approx(0.4 + half, abs=0.004)


def test_a_record_without_human_answers_is_compared_with_its_response():
    record = Record("caption-0", None, "What?", "a cat", metadata={"source": "vqa_v2"})
    assert score_vqa([record], ["a cat "]).overall.accuracy == 1
    assert score_vqa([record], ["a dog"]).overall.accuracy == 0


@pytest.mark.parametrize(
    "prediction, answers, official, lmms_eval, before_2021",
    [
        ("Yes.", ["yes"] * 10, 0.0, 1.0, 1.0),  # unanimous: the official scorer compares as written
        ("none", ["none"] * 10, 1.0, 1.0, 0.0),  # before 2021 only the prediction became "0"
        ("none", ["none"] * 9 + ["0"], 1.0, 1.0, 0.3),
        ("black, white", ["black, white"] * 6 + ["white"] * 4, 1.0, 1.0, 1.0),
        ("Two dogs", ["two dogs"] * 5 + ["dogs"] * 5, 1.0, 1.0, 0.0),
        ("cat", ["the cat"] * 10, 0.0, 1.0, 0.0),
    ],
)
def test_where_two_papers_disagree(prediction, answers, official, lmms_eval, before_2021):
    assert list(VARIANTS) == ["official", "lmms-eval", "pre-2021"]
    found = [vqa_accuracy(prediction, answers, variant) for variant in VARIANTS]
    assert found == pytest.approx([official, lmms_eval, before_2021])


def test_variants_stand_beside_the_official_score():
    records = [Record(f"{n}", None, "?", "yes", answers=("yes",) * 10) for n in range(4)]
    scores = score_vqa(records, ["yes", "Yes.", "no", "no"])
    assert scores.overall.accuracy == 0.25 and scores.variants == {"lmms-eval": 0.5, "pre-2021": 0.5}
