"""The overlay picture: geometry, what is chosen, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.errors import UserError
from embervlm.model.attention import Look, PictureAttention
from embervlm.model.heatmap import WORDS, check_place, draw_heatmap, most_looking, spread


def looks(count: int) -> tuple[Look, ...]:
    rng = np.random.default_rng(0)
    cells = rng.random((count, 3, 3))
    names = ["$x^", "[b]", "東京", "a" * 60, "\N{GRINNING FACE}"]
    return tuple(
        Look(names[at] if at < len(names) else f"word{at}", cells[at] / cells[at].sum(), float(rng.random()))
        for at in range(count)
    )


def test_a_grid_that_reaches_beyond_the_picture_is_cut_where_the_picture_ends() -> None:
    """100 pixels at stride 32 make 4 cells that cover 128: stretching them over the picture would shift every place."""
    field = spread(np.eye(4)[[3]].repeat(4, 0), (1000, 100), covered=1.28)
    assert field.argmax(1).tolist() == [999] * 100, "the middle of the last cell (112 of 100 pixels) lies outside"
    third = spread(np.eye(4)[[2]].repeat(4, 0), (1000, 100), covered=1.28)
    assert third[0].argmax() == pytest.approx(800, abs=2), "the middle of the third, 80 of 100 pixels, does not"


def test_no_value_is_made_up() -> None:
    """A bicubic kernel swings beyond its values: attention below 0, or a hotter place than any token."""
    cells = np.random.default_rng(0).random((6, 6)) ** 8
    field = spread(cells, (600, 300))
    assert cells.min() <= field.min() and field.max() <= cells.max() + 1e-9
    middles = field[25::50, 50::100]
    assert middles == pytest.approx(cells, abs=0.03)


def test_long_answers_show_the_words_that_look_most_in_their_order() -> None:
    words = looks(12)
    shown = most_looking(words)
    assert len(shown) == WORDS and [words.index(look) for look in shown] == sorted(words.index(look) for look in shown)
    assert min(look.on_picture for look in shown) >= max(look.on_picture for look in words if look not in shown)


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("size", [(30, 700), (700, 30), (5, 5)])
def test_any_picture_and_any_words_are_drawn(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    """Formulas, foreign letters and slim pictures stop no drawing."""
    words = looks(count)
    found = PictureAttention(words[0], words, 0.5, (3, 4), 4, 1.0)
    draw_heatmap(tmp_path / "a.png", Image.new("RGB", size, "green"), "What is $this_{?}\nReally? " * 9, found)
    drawn = Image.open(tmp_path / "a.png")
    assert min(drawn.size) > 200 and max(drawn.size) < 2500
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_place_is_checked_without_touching_it(tmp_path: Path) -> None:
    check_place(tmp_path / "new" / "deep" / "a.PNG")
    assert not list(tmp_path.iterdir())
    for bad in ("a", "a.txt"):
        with pytest.raises(UserError, match="no ending of a picture"):
            check_place(tmp_path / bad)
