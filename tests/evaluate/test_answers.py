"""The normaliser against golden values of the official methods (run under Python 2.7)."""

import pytest

from embervlm.evaluate.answers import CONTRACTIONS, normalise, strip_blanks

GOLDEN = {
    "Yes.": "yes", "yes!": "yes", "A": "", "the cat": "cat", "t-shirt": "t shirt", "black, white": "black white",
    "black,white": "black white", "1,000": "1000", "1,000 a-b": "1000 ab", "none": "0", "Two dogs": "2 dogs",
    "dont": "don't", "Im": "im", "3.5": "3.5", "St. Louis": "st louis", "u.s.": "us", "5:30": "5:30", "a/b": "b",
    "#1": "#1", "50%": "50%", "'yes'": "'yes'", "somebody'd": "somebodyd", "10 feet.": "10 feet",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOLDEN.items())
def test_golden_values_of_the_official_methods(text: str, expected: str):
    assert normalise(text) == expected


def test_only_32_periods_are_removed():
    """The official call passes re.UNICODE (32) where the count belongs; a mended version gives other numbers."""
    assert normalise("x." * 40) == "x" * 32 + "x." * 8


def test_the_contraction_table_is_whole():
    """The official table has 120 entries: four with capitals can never match, two map a word to itself."""
    assert len(CONTRACTIONS) == 120 - 4 - 2
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["ow's'at"] == "'ow's'at" and CONTRACTIONS["yall'll"] == "y'all'll"
    assert "lets" not in CONTRACTIONS and "shes" not in CONTRACTIONS


def test_blanks_are_stripped_after_they_are_replaced():
    assert strip_blanks("\tred\tball\n") == "red ball"
