"""The instruction score cannot be gamed, and hurts where an answer is wrong."""

from pathlib import Path
from statistics import mean

import pytest

from benchmarks import gaming
from embervlm.data.record import Record
from embervlm.evaluate.instruct import instruction_score, score_instruct

QUESTION = "What is the dog doing?"
REFERENCE = "The brown dog is catching a red frisbee on the beach while two children watch."
ANSWERS = {
    "empty": "",
    "question": QUESTION,
    "word": "dog",
    "yes": "yes yes yes",
    "constant": "The image shows a dog.",
    "other picture": "A man in a blue shirt is riding a bicycle down a busy city street.",
    "shuffled": "on brown watch a the children red beach catching. The while frisbee dog is two",
    "short": "It is catching a red frisbee on the beach.",
    "contradiction": "The black dog is catching a blue frisbee on the beach while two children watch.",
    "denial": "The brown dog is not catching a red frisbee on the beach while two children watch.",
    "loop": " ".join([REFERENCE] * 3),
    "paraphrase": "On the beach, a brown dog is catching a red frisbee as two children watch it.",
    "reference": REFERENCE,
}
SCORES = {name: instruction_score(answer, REFERENCE, QUESTION) for name, answer in ANSWERS.items()}


def test_the_reference_scores_one_and_nothing_scores_nothing():
    assert SCORES["reference"].score == SCORES["reference"].coherence == 1
    assert SCORES["empty"].score == SCORES["empty"].coherence == 0


@pytest.mark.parametrize("name", ["empty", "question", "word", "yes", "constant", "other picture", "shuffled"])
def test_answers_that_know_nothing_stay_below_a_third(name: str):
    assert SCORES[name].score < 0.3
    assert SCORES[name].coherence < 0.3, "fluency alone must earn nothing"


@pytest.mark.parametrize("name", ["short", "contradiction", "denial", "loop"])
def test_partly_right_answers_lie_between(name: str):
    assert 0.3 < SCORES[name].score < 0.8 < SCORES["paraphrase"].score < 1


def test_order():
    order = ["yes", "word", "shuffled", "short", "contradiction", "paraphrase", "reference"]
    values = [SCORES[name].score for name in order]
    assert values == sorted(values)


def test_the_order_is_the_one_that_a_person_would_give():
    """Over six questions, and shuffles as they come: one example, or one lucky shuffle, shows nothing."""
    means = {kind: mean(row.score for row in rows) for kind, rows in gaming.by_kind().items()}
    assert set(means) == {kind for group in gaming.ORDER for kind in group} | {"the same in quite other words"}
    for worse, better in zip(gaming.ORDER, gaming.ORDER[1:], strict=False):
        assert max(means[kind] for kind in worse) < min(means[kind] for kind in better)
    for kind in (*gaming.ORDER[0], *gaming.ORDER[1]):
        assert means[kind] < 0.3, "who knows nothing, or says nothing, gets next to nothing"
    for kind in gaming.ORDER[0]:
        assert all(row.score < 0.1 and row.coherence < 0.1 for row in gaming.by_kind()[kind])
    assert gaming.by_kind()["right but short"][2].score == pytest.approx(0.10, abs=0.005), "the weakness, as documented"
    assert means["a paraphrase"] > 0.8 and all(row.score == 1 for row in gaming.by_kind()["the reference"])


def test_constant_answers_earn_little_on_a_whole_split():
    """The embedded world's sentences are alike: who always says one of them must not pass for somebody who looks."""
    found = gaming.on_the_world()
    constants = {kind: score for kind, score in found.items() if kind.startswith("always")}
    assert len(constants) >= 8 and max(constants.values()) < 0.3
    assert found["the question repeated"] < 0.1 and found["the reference shuffled"] < 0.3
    assert found["the answer to the same question about another picture"] < 0.35
    assert found["the reference"] == 1


def test_the_documentation_holds_the_table_as_it_is():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert gaming.between_marks(text) == gaming.render(), "run python -m benchmarks.gaming --write docs/evaluation.md"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (
            "There are two shapes: a green heart and a red circle.",
            "There are two shapes: a red circle and a green heart.",
        ),
        ("At the top left is a big red circle.", "A big red circle is at the top left."),
        (" ".join(REFERENCE.split()[:8]) + ".", REFERENCE),
    ],
)
def test_an_answer_may_be_turned_around_or_cut_short_without_being_a_shuffle(answer: str, reference: str):
    same_words = instruction_score(answer, reference, "")
    scrambled = [instruction_score(gaming.shuffled(answer, seed), reference, "") for seed in range(30)]
    assert same_words.relevance > 1.4 * mean(row.relevance for row in scrambled)
    assert same_words.score > 0.3 + mean(row.score for row in scrambled)


def test_each_part_answers_its_own_question():
    assert SCORES["loop"].completeness == 1 and SCORES["loop"].coherence < 0.3
    assert SCORES["short"].relevance > SCORES["short"].completeness
    assert SCORES["short"].coherence > 0.8
    assert SCORES["denial"].relevance < SCORES["contradiction"].relevance


def test_swapped_attributes_hurt_though_every_word_is_right():
    """A bag of words would give this 1."""
    scores = instruction_score("There is a red square and a blue circle.", "There is a blue square and a red circle.")
    assert scores.relevance < 0.6


def test_a_cut_off_answer_is_less_coherent():
    cut = instruction_score("The small red circle is at the top left of", "The small red circle is at the top left.")
    assert cut.coherence < 0.5


@pytest.mark.parametrize("reference", ["red", "Yes.", "2", "No, it is not.", "the", "très bien.", "...", "a b a b a b"])
def test_any_reference_scores_one(reference: str):
    assert instruction_score(reference, reference, "Is it red or blue?").score == 1


def test_number_words_and_plurals_are_one_fact():
    assert instruction_score("There are 2 cats.", "There are two cats.", "").score == 1


def test_corpus_means():
    records = [Record(f"llava-{at}", None, QUESTION, REFERENCE) for at in range(4)]
    result = score_instruct(records, [REFERENCE, REFERENCE, "", ""])
    assert (result.n, result.score, result.coherence) == (4, 0.5, 0.5)
    assert result.interval[0] < 0.5 < result.interval[1]
