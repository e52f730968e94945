"""A sentence stays a sentence, whatever the damaged file holds that it quotes."""

from embervlm.data.official import BadRow
from embervlm.errors import LONGEST, UserError


def test_what_a_file_holds_does_not_drown_the_sentence() -> None:
    """A name of a megabyte would fill the terminal, and rejects.jsonl for each row."""
    for kind in (UserError, BadRow):
        said = str(kind(f"x.json has {'word ' * 100_000!r}; download it again"))
        assert len(said) <= LONGEST and said.startswith("x.json has 'word") and said.endswith("; download it again")
        assert str(kind("short")) == "short"


def test_a_traceback_of_many_lines_stays_whole() -> None:
    """torch makes a UserError of the traceback of a loader's process; the sentence is its last line."""
    said = str(UserError("\n".join(["  File x, line 3, in f"] * 200 + ["embervlm.errors.UserError: mend it"])))
    assert said.count("line 3") == 200 and said.endswith("mend it")
