"""The file of all that was said: it goes on where it was, and is never about something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from embervlm.answering.said import Key, Said, SaidFile
from embervlm.errors import UserError

ABOUT = {"teacher": {"name": "a", "weights": "1"}, "data": {"train": "x"}, "settings": {"seed": 0}}
ANSWERS = {
    Key("train", "one", 0): Said(("déjà\nvu 😀",), True),
    Key("train", "one", 1): Said(("red", ""), True),
    Key("val", "one", 0): Said(("a long",), False),
}


def test_what_is_read_is_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "new" / "said.jsonl"
    SaidFile(path, ABOUT).add(ANSWERS)
    again = SaidFile(path, ABOUT)
    assert again.answers == ANSWERS
    assert [said.empty for said in again.answers.values()] == [False, True, False]
    assert path.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("left", range(0, 400, 7))
def test_a_torn_end_costs_one_line_at_most(tmp_path: Path, left: int) -> None:
    """A process dies between any two bytes, also in the first line and inside a letter."""
    path = tmp_path / "said.jsonl"
    SaidFile(path, ABOUT).add(ANSWERS)
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    opened = SaidFile(path, ABOUT)
    assert opened.answers.items() <= ANSWERS.items()
    opened.add({key: said for key, said in ANSWERS.items() if key not in opened.answers})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("what, fact", [("teacher", "weights"), ("data", "train"), ("settings", "seed")])
def test_another_run_is_refused_by_name(tmp_path: Path, what: str, fact: str) -> None:
    path = tmp_path / "said.jsonl"
    SaidFile(path, ABOUT).add(ANSWERS)
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"another run \\({what} {fact} {ABOUT[what][fact]} there, new now\\)"):
        SaidFile(path, {**ABOUT, what: {**ABOUT[what], fact: "new"}})
    assert path.read_bytes() == before


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    SaidFile(path, ABOUT).add(ANSWERS)
    path.write_bytes(path.read_bytes() + b'{"split": "train"}\n')
    with pytest.raises(UserError, match="line 5: not an answer"):
        SaidFile(path, ABOUT)
    path.write_text("mine\n")
    with pytest.raises(UserError, match="line 1: not one of ours"):
        SaidFile(path, ABOUT)
