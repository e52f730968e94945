"""Whether a model looks at the picture is said in one sentence, and only as surely as the questions allow."""

import pytest

from embervlm.evaluate.sight import Sight, measure_sight, sight_of
from tests.evaluate.synthetic import result


def scores(right: int, of: int) -> dict[str, float]:
    return {str(at): float(at < right) for at in range(of)}


def test_a_model_that_sees():
    found = measure_sight(scores(300, 400), scores(200, 400))
    assert found.verdict == "looks" and found.gain == pytest.approx(0.25)
    assert found.interval[0] < 0.25 < found.interval[1]
    assert found.sentence().startswith("The student gains 25.0 points from seeing (95% interval 20.8 to 29.2)")
    assert found.sentence().endswith("75.0% with the picture, 50.0% without it, on the same 400 questions.")


def test_a_model_that_does_not_look_is_called_so():
    found = measure_sight(scores(2000, 4000), scores(1990, 4000), "with another's picture")
    assert found.verdict == "ignores"
    assert found.sentence("Run B").startswith("Run B ignores the picture: 50.0% with the picture, 49.8% with another's")
    assert "(+0.3 points, 95% interval +0.1 to +0.4, on the same 4,000 questions)" in found.sentence()


def test_few_questions_prove_nothing():
    """Twelve questions must not call a model blind."""
    mixed = {str(at): float(at % 2) for at in range(12)}, {str(at): float(at % 3 == 0) for at in range(12)}
    found = measure_sight(*mixed)
    assert found.verdict == "unknown" and found.sentence().startswith("Whether the student looks at the picture cannot")


def test_only_common_questions_count():
    seeing = {"a": 1.0, "b": 0.0, "only here": 1.0}
    assert measure_sight(seeing, {"a": 0.0, "b": 0.0, "other": 1.0}).n == 2
    assert measure_sight(seeing, {"other": 1.0}) is None


def test_without_single_answers_the_means_are_compared():
    found = sight_of(result("student", 0.68), result("blind", 0.67), {}, {})
    assert found == Sight(2000, 0.68, 0.67, "without it", None) and found.verdict == "ignores"
    assert "interval" not in found.sentence()
    paired = sight_of(result("student", 0.68), result("shuffled_pictures", 0.4), *2 * [{"vqa": scores(3, 5)}])
    assert paired.n == 5 and paired.how == "with another's picture"
