"""What a stopped run has finished is read again, and nothing else is."""

from pathlib import Path

import pytest

from embervlm.errors import UserError
from embervlm.journal import Journal, OtherJournal, read_journal

HEADER = {"about": "these", "n": 1}


def test_it_goes_on_where_it_was(tmp_path: Path):
    path = tmp_path / "deep" / "kept.jsonl"
    Journal(path, HEADER).add([{"id": "a"}, {"id": "b \u2028 \udcff"}])
    journal = Journal(path, HEADER)
    assert [row["id"] for row in journal.rows] == ["a", "b \u2028 \udcff"]
    journal.add([{"id": "c"}])
    assert [row["id"] for row in read_journal(path)[1]] == ["a", "b \u2028 \udcff", "c"]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_half_written_line_is_forgotten_and_the_next_one_whole(tmp_path: Path, cut: int):
    path = tmp_path / "kept.jsonl"
    Journal(path, HEADER).add([{"id": "first"}, {"id": "second"}])
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    journal = Journal(path, HEADER)
    there = len(journal.rows)
    journal.add([{"id": "third"}])
    _, rows = read_journal(path)
    assert len(rows) == there + 1 and rows[-1] == {"id": "third"}


def test_another_journal_is_refused_or_begun_anew(tmp_path: Path):
    path = tmp_path / "kept.jsonl"
    Journal(path, HEADER).add([{"id": "a"}])
    with pytest.raises(OtherJournal) as other:
        Journal(path, {"about": "those"})
    assert other.value.there == HEADER
    assert Journal(path, {"about": "those"}, restart=True).rows == []
    assert read_journal(path) == ({"about": "those"}, [])


@pytest.mark.parametrize("line", [b"mine\n", b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path, line: bytes):
    path = tmp_path / "kept.jsonl"
    Journal(path, HEADER).add([{"id": "a"}])
    path.write_bytes(path.read_bytes() + line + b'{"id": "b"}\n')
    with pytest.raises(UserError, match=r"kept.jsonl, line 3"):
        Journal(path, HEADER)
    assert Journal(path, HEADER, restart=True).rows == []
