"""Several teachers by name: `NAME` or `NAME:WEIGHT`, and where the cache of each lies.

outputs/stage2/teacher_outputs/             the cache of one teacher, or
outputs/stage2/teacher_outputs/NAME/        one of several, side by side
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

from embervlm.errors import UserError
from embervlm.teachers.registry import REDIRECTED, TEACHERS
from embervlm.teachers.store import MANIFEST, read_manifest

_WEIGHTED = re.compile(r"(.+):([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf))", re.IGNORECASE)
_HOST = re.compile(r"\w+://[^/:]+")
"""What stands before a port: http://host:8000 has no weight."""

_LONGEST = 120
"""Of a folder's name, in characters."""


def parse_teachers(given: Sequence[str] | str, weights: Sequence[float] | None = None) -> list[tuple[str, float]]:
    """Names with weights that sum to 1, in the order given; equal weights where none are.

    Args:
        given: `NAME` or `NAME:WEIGHT` each. Only a number behind the last colon is a weight: C:\\teacher and
            http://host:8000/v1 are names.
        weights: one for each name, instead of those behind the names.

    Raises:
        UserError: a weight that is no positive number, weights for some names only, a teacher that is named twice.
    """
    pairs = [_split(word) for word in ([given] if isinstance(given, str) else given)]
    names = [name for name, _ in pairs]
    own = [weight for _, weight in pairs if weight is not None]
    for at, name in enumerate(names):
        if twice := [other for other in names[:at] if same_teacher(other, name)]:
            also = "" if twice[0] == name else f" (as {twice[0]}, too)"
            raise UserError(f"--teacher_model names {name} twice{also}; name each teacher once, with its whole weight.")
    if own and weights is not None:
        raise UserError(
            "Weights stand behind the names of --teacher_model and in --teacher_weights; give them in one of the two."
        )
    if own and len(own) < len(names):
        bare = next(name for name, weight in pairs if weight is None)
        raise UserError(
            f"--teacher_model gives {bare} no weight, but others have one; write {bare}:0.5, or none at all."
        )
    return list(zip(names, shares(names, own or weights, "teachers"), strict=True))


def shares(names: Sequence[str], weights: Sequence[float] | None, what: str) -> list[float]:
    """The weights, scaled to sum to 1; equal where there are none. UserError as `parse_teachers`."""
    every = [1.0] * len(names) if weights is None else list(weights)
    if len(every) != len(names):
        raise UserError(f"--teacher_weights has {len(every)} numbers for {len(names)} {what}; it takes one for each.")
    for name, weight in zip(names, every, strict=True):
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(f"The weight of {name} is {weight:g}; it takes a number above 0. Leave it out?")
    return [weight / sum(every) for weight in every]


def _split(word: str) -> tuple[str, float | None]:
    found = None if Path(word).expanduser().is_dir() else _WEIGHTED.fullmatch(word)
    if found is None or _HOST.fullmatch(found[1]):
        return word, None
    return found[1], float(found[2])


def same_teacher(one: str, other: str) -> bool:
    """Whether two names mean one teacher: a registered name and its id on the hub do."""
    return _source(one) == _source(other)


def _source(name: str) -> str:
    name = REDIRECTED.get(name, name)
    return TEACHERS[name].source if name in TEACHERS else name


def caches_in(folder: Path) -> list[Path]:
    """The folder, if it is a cache; else the caches that lie in it, by name."""
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")) or [folder]


def find_cache(folder: Path, teacher: str) -> Path | None:
    """The cache of that teacher: the folder itself, or one that lies in it. None where there is none.

    Raises:
        UserError: a manifest that cannot be read.
    """
    for place in (folder, *sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))):
        if (place / MANIFEST).is_file() and same_teacher(read_manifest(place)["teacher"]["name"], teacher):
            return place
    return None


def cache_home(folder: Path, teacher: str, several: bool) -> Path:
    """Where a cache of that teacher is built: its own one goes on; else the folder, or one in it beside others'."""
    found = find_cache(folder, teacher)
    if found is not None:
        return found
    beside_others = not (folder / MANIFEST).is_file() and any(folder.glob(f"*/{MANIFEST}"))
    return folder / folder_name(teacher) if several or beside_others else folder


def folder_name(teacher: str) -> str:
    """The teacher's name as the name of a folder."""
    name = re.sub(r"[^\w.-]+", "--", teacher).strip("-.") or "teacher"
    if len(name) > _LONGEST:
        name = f"{name[-_LONGEST:].strip('-.')}-{hashlib.sha256(teacher.encode()).hexdigest()[:8]}"
    return name
