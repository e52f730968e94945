"""How inputs are damaged: bytes of any file, and values inside JSON. Seeded, pure, no files.

A mutation of bytes takes (bytes, rng) and returns bytes. A mutation of a tree takes the parsed JSON and returns one in
which some values are `Raw` bytes, since much that is hostile (1e400, NaN, duplicate keys) is no Python value.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any


class Raw(bytes):
    """Written into the JSON as it is."""


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may repeat."""


def _positions(data: bytes, rng: Random, most: int = 64) -> list[int]:
    return [rng.randrange(len(data)) for _ in range(rng.choice((1, 1, 2, 4, 16, most)))] if data else []


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 7, 64, 1024, len(data) // 3)))


def flip(data: bytes, rng: Random) -> bytes:
    """Some bits."""
    changed = bytearray(data)
    for at in _positions(data, rng):
        changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def header(data: bytes, rng: Random) -> bytes:
    """Bytes of the first 64, where formats keep their sizes."""
    changed = bytearray(data)
    for at in _positions(data[:64], rng, 8):
        changed[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(changed)


def noise(data: bytes, rng: Random) -> bytes:
    """Other bytes in some places, half of them such as mean something."""
    changed = bytearray(data)
    for at in _positions(data, rng):
        changed[at] = rng.choice((0, 255, rng.randrange(256), *b'"\\{}[],:\n'))
    return bytes(changed)


def insert(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 3, 16, 4096))) + data[at:]


def delete(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def repeat(data: bytes, rng: Random) -> bytes:
    """A part of it twice."""
    start, end = _span(data, rng)
    return data[:end] + data[start:]


def blank(data: bytes, rng: Random) -> bytes:
    """A stretch of one byte, as a disk leaves it."""
    start, end = _span(data, rng)
    return data[:start] + bytes([rng.choice((0, 0, 255))]) * (end - start) + data[end:]


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    function.__name__: function for function in (flip, noise, insert, delete, truncate, repeat, blank)
}


def encoding(data: bytes, rng: Random) -> bytes:
    """A text file as other programs save it, or not at all."""
    text = data.decode("utf-8", "replace")
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: b"\xef\xbb\xbf" + data,
        lambda: b"\xef\xbb\xbf" * 2 + data,
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32"),
        lambda: text.replace("?", "\xe9").encode("latin-1", "replace"),
        lambda: text.replace("e", "\ud800").encode("utf-8", "surrogatepass"),
        lambda: text.replace("\n", "\r\n").encode(),
        lambda: text.replace("\n", "\r").encode(),
        lambda: data.replace(b'"', b"'"),
        lambda: data.replace(b" ", b"\0"),
        lambda: data.replace(b",", b",,"),
        lambda: data + b"\0" * rng.randrange(5000),
        lambda: data + data,
        lambda: b"",
        lambda: b" \n\t " * rng.randrange(100),
        lambda: b"\0" * rng.randrange(1, 5000),
        lambda: rng.randbytes(rng.randrange(1, 5000)),
        lambda: b"[" * 100_000,
        lambda: b"[" * 100_000 + b"]" * 100_000,
        lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        lambda: b'[{"conversations":' * 50_000,
        lambda: rng.choice((b"[]", b"{}", b"null", b"3", b'"x"', b"[[]]", b"[null]", b"[{}]", b"1e400", b"NaN")),
        lambda: b"\x1f\x8b\x08\x00" + data,
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
        lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    )
    return rng.choice(ways)()


WRONG_TYPES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, "", " ", "x", "0", "null", [], {}, [[]], [None], [{}], {"": None}, ["x", 1],
    {"bytes": "x", "path": "y"}, {"value": 1}, [1, "a", None, [], {}],
)  # fmt: skip
HUGE: tuple[Callable[[], bytes], ...] = (
    lambda: b"1e400",
    lambda: b"-1e400",
    lambda: b"1e-400",
    lambda: b"1e300",
    lambda: b"NaN",
    lambda: b"-Infinity",
    lambda: b"-0",
    lambda: b"9" * 400,
    lambda: b"-" + b"9" * 400,
    lambda: b"9" * 5000,
    lambda: b"18446744073709551616",
    lambda: b"-9223372036854775809",
    lambda: b"123456789012345678901234567890",
    lambda: b'"' + b"9" * 5000 + b'"',
    lambda: b'"' + b"x" * 1_000_000 + b'"',
    lambda: b'"' + b"word " * 100_000 + b'"',
    lambda: b'"' + b"\\u00e9" * 50_000 + b'"',
    lambda: b"[" + b"1," * 50_000 + b"1]",
    lambda: b"{" + b",".join(b'"%d":1' % i for i in range(10_000)) + b"}",
)
TEXTS: tuple[bytes, ...] = (
    rb'"\ud800"', rb'"\udc00x"', rb'"a\ud83d"', rb'"\u0000"', rb'"a\u0000b"', b'"\xff\xfe"', b'"\xc3"',
    b'"\xed\xa0\x80"',
    b'"\0"', b'"a\nb"', rb'"\x41"', rb'"\u12"', b"'x'", b'"', b"", b"tru", b"nul", b"0x10", b"01", b".5", b"+1", b"1.",
    rb'"\u202egnp"', rb'"\ufeff"', rb'"<image><image><image>"', rb'"<|endoftext|><|user|><image>"', rb'"\n\n\r\t"',
    b'"[red]bold[/] {question} %s {{7*7}}"', b'"</script><script>alert(1)</script>"', rb'"\u2028\u0085"',
    b'"\xf4\x90\x80\x80"',
)  # fmt: skip
DEPTHS = (3, 30, 150, 300, 450, 700, 900, 950, 985, 1000, 1100, 3000, 100_000)


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from slots(value[key])


def _change(content: Any, rng: Random, new: Callable[[Any], Any], most: int = 3) -> Any:
    """Some values replaced; once in a while the whole."""
    if rng.random() < 0.03:
        return new(content)
    changed = copy.deepcopy(content)
    for _ in range(rng.randint(1, most)):
        places = list(slots(changed))
        if places:
            container, key = rng.choice(places)
            container[key] = new(container[key])
    return changed


def types(content: Any, rng: Random) -> Any:
    return _change(content, rng, lambda _: copy.deepcopy(rng.choice(WRONG_TYPES)))


def huge(content: Any, rng: Random) -> Any:
    return _change(content, rng, lambda _: Raw(rng.choice(HUGE)()))


def texts(content: Any, rng: Random) -> Any:
    return _change(content, rng, lambda _: Raw(rng.choice(TEXTS)))


def deep(content: Any, rng: Random) -> Any:
    depth = rng.choice(DEPTHS)
    start, end = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"from":"human","value":', b"}]")))
    return _change(content, rng, lambda _: Raw(start * depth + b"1" + end * depth), most=1)


def drop(content: Any, rng: Random) -> Any:
    """Some keys or elements away, or an element twice."""
    changed = copy.deepcopy(content)
    for _ in range(rng.randint(1, 6)):
        places = list(slots(changed))
        if not places:
            break
        container, key = rng.choice(places)
        if isinstance(container, list) and rng.random() < 0.3:
            container.append(copy.deepcopy(container[key]))
        else:
            del container[key]
    return changed


def duplicate(content: Any, rng: Random) -> Any:
    """An object in which a key stands twice, with two values."""
    changed = copy.deepcopy(content)
    objects = [(c, k) for c, k in slots(changed) if isinstance(c[k], dict) and c[k]]
    for container, key in rng.sample(objects, min(len(objects), 3)):
        if not isinstance(container[key], dict):  # one around it has changed
            continue
        pairs = Pairs(container[key].items())
        again, value = rng.choice(pairs)
        pairs.insert(rng.randrange(len(pairs) + 1), (again, rng.choice((value, *WRONG_TYPES))))
        container[key] = pairs
    return changed


TREES: dict[str, Callable[[Any, Random], Any]] = {
    function.__name__: function for function in (types, huge, texts, deep, drop, duplicate)
}


def named(content: Any, rng: Random, keys: tuple[str, ...], names: list[Any]) -> Any:
    """Hostile values under some of these keys, wherever they stand."""
    changed = copy.deepcopy(content)
    places = [(container, key) for container, key in slots(changed) if key in keys]
    for container, key in rng.sample(places, min(len(places), rng.randint(1, 4))):
        container[key] = rng.choice(names)
    return changed


def written(value: Any) -> bytes:
    """As JSON, `Raw` and `Pairs` as they are."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Pairs):
        return b"{" + b", ".join(json.dumps(key).encode() + b": " + written(v) for key, v in value) + b"}"
    if isinstance(value, dict):
        return written(Pairs((str(key), v) for key, v in value.items()))
    if isinstance(value, list):
        return b"[" + b", ".join(map(written, value)) + b"]"
    return json.dumps(value).encode()


def lines(value: Any) -> bytes:
    """A list as JSONL; anything else as it is."""
    return b"".join(written(row) + b"\n" for row in value) if isinstance(value, list) else written(value)
