"""What a case is, how it is run, and what counts as a failure."""

from __future__ import annotations

import io
import os
import random
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from embervlm.errors import UserError

OUTSIDE = "outside"
"""Folder beside the image root that nothing may read."""
SECRETS = ("secret.png", "secret.jpg", "000000000001.jpg")
"""Good pictures in it, so that only the rule keeps them from being read."""
LONGEST_REASON = 2000
"""Characters of a reason: a sentence, not the input again."""
READ, REJECTED = "read", "rejected"
CRASHED, HUNG, MEMORY = "crashed", "hung", "memory"
OUTCOMES = (READ, REJECTED, CRASHED, HUNG, MEMORY)
FAILURES = (CRASHED, HUNG, MEMORY)
_FORBIDDEN = ("/dev/zero", "/dev/urandom", "/dev/random", "/dev/stdin", "/etc/passwd", "/proc/self/")


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


_SECRET = _png()


class Broken(Exception):
    """A promise that was not kept, though nothing was raised."""


@dataclass(frozen=True)
class Place:
    """Where a case works: an empty folder, and its own chance."""

    folder: Path
    rng: random.Random
    number: int = 0  # of the case in its group

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


Run = Callable[[Place], list[str]]
"""Runs one input. Returns reasons for what was rejected, [] when all was read; UserError rejects the whole."""


@dataclass(frozen=True)
class Group:
    """Cases of one kind: `count` of them in a full run, keys `name/0`, `name/1`, ..."""

    name: str
    count: int
    run: Run


@dataclass(frozen=True)
class Result:
    key: str
    outcome: str
    reasons: list[str] = field(default_factory=list)
    detail: str = ""  # traceback, or what killed it
    seconds: float = 0.0
    peak: int = 0  # bytes above what the process held before

    @property
    def part(self) -> str:
        return self.key.partition("/")[0]


def run_case(run: Run, key: str, seed: int, folder: Path, raises: bool = False) -> Result:
    """One case in this process, judged. `raises`: let what crashes out, for a traceback."""
    outside = folder / OUTSIDE
    outside.mkdir()
    for name in SECRETS:
        (outside / name).write_bytes(_SECRET)
    guard = _guard()
    guard.begin(folder)
    try:
        reasons = run(Place(folder, random.Random(f"{seed}/{key}"), int(key.rpartition("/")[2])))
        outcome = REJECTED if reasons else READ
    except UserError as problem:
        reasons, outcome = [str(problem)], REJECTED
    except MemoryError:
        if raises:
            raise
        return Result(key, MEMORY, detail=traceback.format_exc())
    except BaseException:
        if raises:
            raise
        return Result(key, CRASHED, detail=traceback.format_exc())
    finally:
        opened = guard.end()
    wrong = [f"opened {path}, which is outside the image root" for path in opened]
    wrong += ["a reason is empty" for reason in reasons if not reason.strip()]
    wrong += [f"a reason has {len(r):,} characters: {r[:200]}" for r in reasons if len(r) > LONGEST_REASON]
    if wrong:
        if raises:
            raise Broken("; ".join(wrong))
        return Result(key, CRASHED, detail="; ".join(wrong))
    return Result(key, outcome, [shape_of(reason, folder) for reason in reasons[:3]])


def shape_of(reason: str, folder: Path) -> str:
    """A reason without what differs from case to case, so that alike ones can be counted."""
    said = reason.replace(str(folder), "DIR")
    said = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "'...'", said)
    said = re.sub(r"DIR[^ :;,)]*", "FILE", said)
    said = re.sub(r"\d[\d,.]*", "N", said)
    return said[:160]


class _Guard:
    """Notes every file outside the image root that Python opens while a case runs (an audit hook, PEP 578)."""

    def __init__(self) -> None:
        self._forbidden: tuple[str, ...] = ()
        self._opened: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self, folder: Path) -> None:
        self._opened = []
        self._forbidden = (os.path.realpath(folder / OUTSIDE) + os.sep, *_FORBIDDEN)

    def end(self) -> list[str]:
        self._forbidden = ()
        return self._opened

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self._forbidden or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        forbidden, self._forbidden = self._forbidden, ()
        try:
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith(forbidden):
                self._opened.append(path)
        except ValueError:  # no name of a file
            pass
        finally:
            self._forbidden = forbidden


_the_guard: _Guard | None = None


def _guard() -> _Guard:
    """A hook cannot be taken away again, so there is one a process."""
    global _the_guard
    _the_guard = _the_guard or _Guard()
    return _the_guard
