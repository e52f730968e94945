"""Large JSON files as rows: the file is memory-mapped and cut into rows in one pass; a row is parsed when it is used.

VQA-v2's annotations are 350 MB and 4.4 million answers: as Python objects 2 GB, as uncut rows the file and a list.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from embervlm.data.official import BadRow
from embervlm.errors import UserError

_BOM = b"\xef\xbb\xbf"
_BYTE = re.compile(r"\(byte (\d+)\)")
_decode = msgspec.json.Decoder().decode
_array = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def scan_json(path: Path, what: str) -> list[msgspec.Raw] | dict[str, msgspec.Raw]:
    """The rows of an array, or the values of an object by key, unparsed.

    Raises:
        UserError: the file is missing, not JSON, or neither array nor object; `what` says what was expected.
    """
    buffer = _open(path, what)
    start = re.search(rb"\S", buffer)
    first = start[0] if start else b""
    if first not in (b"[", b"{"):
        if first and _parses(buffer):
            raise UserError(f"{path} holds one value; expected {what}")
        raise _not_json(path, buffer, 0 if start is None else start.start(), "expected a value")
    return _scan(path, buffer, _array if first == b"[" else _object)


def scan_array(path: Path, what: str) -> list[msgspec.Raw]:
    """The rows of an array; UserError when the file holds an object."""
    rows = scan_json(path, what)
    if isinstance(rows, dict):
        raise UserError(f"{path} holds an object; expected {what}")
    return rows


def scan_object(path: Path, what: str) -> dict[str, msgspec.Raw]:
    """The values of an object; UserError when the file holds an array."""
    values = scan_json(path, what)
    if isinstance(values, list):
        raise UserError(f"{path} holds an array; expected {what}")
    return values


def list_of(values: dict[str, msgspec.Raw], key: str) -> list[msgspec.Raw] | None:
    """The rows of the list under `key`; None where there is none."""
    try:
        return _array.decode(values[key])
    except (KeyError, msgspec.ValidationError):
        return None


def scan_lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of a JSONL file, blank lines left out."""
    buffer = _open(path, what)
    start, number = 0, 0
    while start < len(buffer):
        number += 1
        end = buffer.find(b"\n", start)
        end = len(buffer) if end < 0 else end
        line = bytes(buffer[start:end])
        if line.strip():
            yield number, line
        start = end + 1


def parse(raw: bytes | msgspec.Raw) -> Any:
    """One row as Python values; BadRow where it cannot be parsed."""
    try:
        return _decode(raw)
    except msgspec.DecodeError as problem:
        raise BadRow(f"not JSON ({problem})") from None
    except UnicodeDecodeError:
        raise BadRow("not UTF-8 text") from None
    except RecursionError:
        raise BadRow("nested too deeply") from None


def is_jsonl(path: Path) -> bool:
    """Told from the name, as people name them."""
    return path.suffix.lower() in (".jsonl", ".ndjson")


def _open(path: Path, what: str) -> Any:
    """The file as bytes with `find`, without a byte-order mark."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe waits for someone who writes
            raise UserError(f"cannot read {path} (it is a pipe or a device, not a file); expected {what}")
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return b""
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except UserError:
        raise
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise UserError(f"cannot read {path} ({reason}); expected {what}") from problem
    return mapped[3:] if mapped[:3] == _BOM else mapped


def _scan(path: Path, buffer: Any, decoder: Any) -> Any:
    try:
        return decoder.decode(buffer)
    except msgspec.DecodeError as problem:
        place = _BYTE.search(str(problem))
        raise _not_json(path, buffer, int(place[1]) if place else len(buffer), str(problem)) from problem
    except UnicodeDecodeError as problem:
        raise UserError(f"cannot read {path} (not UTF-8 text); download it again") from problem
    except RecursionError as problem:
        raise UserError(f"{path} is nested too deeply; is it the right file?") from problem


def _parses(buffer: Any) -> bool:
    try:
        _decode(buffer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _not_json(path: Path, buffer: Any, place: int, said: str) -> UserError:
    before = bytes(buffer[:place])
    line, column = before.count(b"\n") + 1, place - (before.rfind(b"\n") + 1) + 1
    said = _BYTE.sub("", said).replace("JSON is malformed:", "").strip()
    return UserError(f"{path} is not JSON: {said} at line {line}, column {column}; download it again")
