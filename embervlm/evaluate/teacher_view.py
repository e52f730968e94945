"""The teacher of a cache as an evaluation needs it: its projected targets, and its own words for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embervlm.batch.targets import LookUp, TeacherTargets
from embervlm.batch.teaching import cached_teaching
from embervlm.teachers.store import TeacherCache

if TYPE_CHECKING:
    from embervlm.data.prepared import PreparedSet


@dataclass(frozen=True)
class TeacherView:
    name: str
    targets: TeacherTargets
    outputs: LookUp
    token_bytes: list[bytes | None]  # of each teacher token, None = special
    end_of_turn_id: int
    bytes_per_token: float  # of the whole cache on disk


def view_cache(folder: Path, prepared: PreparedSet, split: str, student_tokenizer: Any) -> TeacherView:
    """Open a cache about this split; UserError where it is about other data or not whole."""
    cache = TeacherCache(folder)
    cache.require(data={split: prepared.fingerprint(split)})
    teaching = cached_teaching(cache, student_tokenizer)
    return TeacherView(
        name=teaching.name,
        targets=teaching.targets,
        outputs=teaching.outputs,
        token_bytes=teaching.token_bytes,
        end_of_turn_id=cache.end_of_turn_id,
        bytes_per_token=cache.info["totals"]["bytes_per_token"],
    )
