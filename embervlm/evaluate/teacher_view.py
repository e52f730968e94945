"""The teacher of a cache as an evaluation needs it: its projected targets, and its own words for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embervlm.batch.targets import LookUp, TeacherTargets, from_cache
from embervlm.distill.targets import build_token_map
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
    words = cache.token_bytes()
    token_map = build_token_map(
        words, cache.tokenizer_fingerprint, cache.end_of_turn_id, student_tokenizer, cache.folder
    )
    outputs = from_cache(cache, cache.folder)
    return TeacherView(
        name=cache.info["teacher"]["name"],
        targets=TeacherTargets(outputs, token_map, student_tokenizer),
        outputs=outputs,
        token_bytes=words,
        end_of_turn_id=cache.end_of_turn_id,
        bytes_per_token=cache.info["totals"]["bytes_per_token"],
    )
