"""Drawing the next token: the right distribution, and each row by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.outputs import Sampling
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.sampling import Draw
from tests.tiny_teacher import make_tiny_teacher

PROBS = torch.tensor([0.05, 0.4, 0.15, 0.1, 0.3])


def drawn(temperature: float, top_p: float, count: int = 4000) -> np.ndarray:
    """float [5]: how often each token was drawn, a row each."""
    draw = Draw(Sampling(temperature, top_p, range(count)))
    scores = draw(torch.zeros(count, 1), PROBS.log().expand(count, 5))
    assert (scores > -torch.inf).sum(1).eq(1).all()
    counts = Counter(scores.argmax(1).tolist())
    return np.array([counts[token] / count for token in range(5)])


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, PROBS.tolist()),
        (2.0, 1.0, (PROBS.sqrt() / PROBS.sqrt().sum()).tolist()),
        (1.0, 0.65, [0, 4 / 7, 0, 0, 3 / 7]),  # 0.4 does not hold 65%, 0.4 + 0.3 does
        (1.0, 0.75, [0, 0.4 / 0.85, 0.15 / 0.85, 0, 0.3 / 0.85]),
        (1.0, 0.0, [0, 1, 0, 0, 0]),
        (0.01, 1.0, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float, top_p: float, expected: list[float]) -> None:
    """4,000 draws: 0.03 is 3.8 standard deviations at most."""
    found = drawn(temperature, top_p)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert not found[np.array(expected) == 0].any()


def test_a_row_does_not_see_its_batch() -> None:
    """A record's answer would change with the batch size, and with where a run was stopped."""
    torch.manual_seed(0)
    scores = torch.randn(3, 6, 50)  # [steps, rows, V]
    whole, alone = Draw(Sampling(1.0, 1.0, range(6))), Draw(Sampling(1.0, 1.0, [4]))
    for step in scores:
        assert whole(step[:, :1], step)[4].argmax() == alone(step[4:5, :1], step[4:5])[0].argmax()


def test_logits_that_are_none_are_refused(tmp_path: Path) -> None:
    """argmax takes NaN for the largest, and the answer would be one word again and again."""
    broken = load_teacher(str(make_tiny_teacher(tmp_path)))
    broken.model.get_output_embeddings().weight.data[7] = float("nan")
    with pytest.raises(UserError, match="record mute: .*not numbers"):
        broken.generate([Record(id="mute", image=None, instruction="Say red.", response="red")], tmp_path, 3)
