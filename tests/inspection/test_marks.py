"""A text must not hide anything from a person, nor turn a page or a terminal around."""

import pytest

from embervlm.inspection.marks import END, Names, legible, spell, visible
from embervlm.model.processing import build_processor


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a b\n\tc", "a·b↵⇥c"),
        ("\x1b[31mred\x07", "␛[31mred␇"),
        ("safe\u202egnp.exe", "safe⟨U+202E⟩gnp.exe"),
        ("in\u200bvisible\ufeff", "in⟨U+200B⟩visible⟨U+FEFF⟩"),
        ("no\u00a0break\u2028", "no⟨U+00A0⟩break⟨U+2028⟩"),
        ("half \ud800", "half·⟨U+D800⟩"),
        ("déjà 東京 😀 <b>", "déjà·東京·😀·<b>"),
    ],
)
def test_what_does_not_show_is_made_visible(text, seen):
    assert visible(text) == seen
    seen.encode("utf-8")


def test_a_sentence_keeps_its_blanks():
    assert legible("two words\x7f") == "two words␡"


def test_every_token_of_the_student_has_a_name_that_can_be_written():
    tokenizer = build_processor("tiny").tokenizer
    names = Names(tokenizer)
    assert names(tokenizer.eos_token_id) == END
    assert names(tokenizer("yellow")["input_ids"][0]) == "y"
    for token in range(len(tokenizer)):
        assert names(token).encode("utf-8")
    assert spell(b"\xe6\x9d") == "\\xe6\\x9d"
