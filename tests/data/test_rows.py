"""Large JSON as rows: what is not JSON is named with its place, what is hostile is a reason and no crash."""

import os
from pathlib import Path

import pytest

from embervlm.data.official import BadRow
from embervlm.data.rows import list_of, parse, scan_array, scan_lines, scan_object
from embervlm.errors import UserError


def _file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "x.json").write_bytes(content)
    return tmp_path / "x.json"


def test_rows_are_cut_but_not_parsed(tmp_path: Path) -> None:
    rows = scan_array(_file(tmp_path, b' [{"a": "\xff"}, [1, 2], "x", 1e999]'), "rows")
    assert [bytes(row) for row in rows] == [b'{"a": "\xff"}', b"[1, 2]", b'"x"', b"1e999"]
    assert parse(rows[1]) == [1, 2]
    for bad in (rows[0], rows[3]):  # one row that cannot be read must not cost the file
        with pytest.raises(BadRow):
            parse(bad)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert len(scan_array(_file(tmp_path, b"\xef\xbb\xbf[1]"), "rows")) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON: expected a value at line 1, column 1"),
        (b"  \n ", "is not JSON"),
        (b"hello", "is not JSON: expected a value at line 1, column 1"),
        (b"3", "holds one value; expected rows"),
        (b"{}", "holds an object; expected rows"),
        (b'[{"a": 1},\n {"a": }]', "at line 2, column 8"),
        (b'[{"a": 1},\n {"a": "', "at line 2, column 9"),
        (b"[1] x", "is not JSON"),
        (b"[" * 100_000, "is nested too deeply|is not JSON"),
    ],
)
def test_what_is_not_the_file_is_named_with_its_place(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        scan_array(_file(tmp_path, content), "rows")


def test_deep_nesting_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(BadRow, match="nested too deeply"):
        parse(b"[" * 50_000 + b"]" * 50_000)


def test_numbers_too_large_for_64_bits_are_numbers() -> None:
    assert parse(b"123456789012345678901234567890") == 123456789012345678901234567890


def test_a_list_of_an_object(tmp_path: Path) -> None:
    values = scan_object(_file(tmp_path, b'{"a": [1, {}], "b": 3}'), "an object")
    assert [parse(row) for row in list_of(values, "a") or []] == [1, {}]
    assert list_of(values, "b") is None and list_of(values, "c") is None
    with pytest.raises(UserError, match="holds an array"):
        scan_object(_file(tmp_path, b"[]"), "an object")


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    assert list(scan_lines(_file(tmp_path, b'{"a":1}\r\n\n  \n{"b":2}'), "x")) == [(1, b'{"a":1}\r'), (4, b'{"b":2}')]


def test_a_folder_or_nothing_is_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="cannot read"):
            scan_array(path, "rows")


def test_a_pipe_that_nobody_writes_to_is_no_file(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / "x.json")
    for reader in (scan_array, lambda *words: list(scan_lines(*words))):
        with pytest.raises(UserError, match="x.json .it is a pipe or a device.*expected rows"):
            reader(tmp_path / "x.json", "rows")
