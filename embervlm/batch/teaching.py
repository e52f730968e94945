"""A teacher at work for one student: projected targets for training, its own words for people to look at.

Whether it is a cache or a live model is decided here, once; nobody further on can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm import tokens
from embervlm.batch.targets import LookUp, TeacherTargets, from_cache, from_teacher
from embervlm.distill.targets import build_token_map


@dataclass(frozen=True)
class Teaching:
    """One source of targets."""

    name: str
    targets: TeacherTargets  # resolved: what is measured and shown, whatever is trained on
    outputs: LookUp
    token_bytes: list[bytes | None]  # of each teacher token, None = special
    tokenizer_fingerprint: str
    live: bool  # asked during training, not read from a cache
    tail: str = ""  # how far the mass of what is not kept is an estimate; empty: it is exact
    told: str = ""  # what a teacher that only reads is told in the place of pictures


def cached_teaching(cache: Any, student_tokenizer: Any, alone: bool = True) -> Teaching:
    """From an opened `TeacherCache`; the spellings of its tokens are kept in the cache's folder.

    Args:
        alone: a record that is not in the cache is an error; beside other teachers it is not.
    """
    words = cache.token_bytes()
    token_map = build_token_map(
        words, cache.tokenizer_fingerprint, cache.end_of_turn_id, student_tokenizer, cache.folder
    )
    outputs = from_cache(cache, cache.folder, alone)
    return Teaching(
        name=cache.info["teacher"]["name"],
        targets=TeacherTargets(outputs, token_map, student_tokenizer),
        outputs=outputs,
        token_bytes=words,
        tokenizer_fingerprint=cache.tokenizer_fingerprint,
        live=False,
        tail=cache.info["settings"].get("tail", ""),
        told=cache.info["teacher"].get("told", ""),
    )


def live_teaching(
    teacher: Any, image_root: Path, student_tokenizer: Any, top_k: int, folder: Path | None = None
) -> Teaching:
    """From a `Teacher` that is asked for every batch; `folder` keeps the spellings of its tokens between runs."""
    words = tokens.token_bytes(teacher.tokenizer)
    fingerprint = teacher.fingerprint()["tokenizer"]
    token_map = build_token_map(words, fingerprint, teacher.end_of_turn_id, student_tokenizer, folder)
    outputs = from_teacher(teacher, image_root, top_k)
    return Teaching(
        name=teacher.name,
        targets=TeacherTargets(outputs, token_map, student_tokenizer),
        outputs=outputs,
        token_bytes=words,
        tokenizer_fingerprint=fingerprint,
        live=True,
        tail=getattr(teacher, "tail", ""),
        told=getattr(teacher, "told", ""),
    )
