"""e(w): how the student would spell each teacher token. Computed once for a pair of tokenizers, kept by fingerprint."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embervlm import tokens
from embervlm.distill.branch import Branches
from embervlm.distill.spell import Speller


@dataclass(frozen=True)
class TokenMap:
    """Spellings of V teacher tokens in student tokens, ragged: row w is `flat[offsets[w]:offsets[w + 1]]`.

    Rows 0..V-1 spell the token itself, rows V..2V-1 the token without one leading blank (a template that ends in a
    blank leaves it to the first token of the answer), row 2V is empty: ids beyond the tokenizer have no spelling.
    """

    flat: np.ndarray  # int32
    offsets: np.ndarray  # int64 [2V + 2]
    sizes: np.ndarray  # int32 [V], bytes of each teacher token, 0 for special ones
    blank: np.ndarray  # bool [V], the token's first byte is a blank
    branches: Branches | None = field(default=None, compare=False)  # None: the realised branch is not resolved

    @classmethod
    def from_spellings(
        cls, plain: Sequence[list[int]], without_blank: Sequence[list[int]], teacher_bytes: Sequence[bytes | None]
    ) -> TokenMap:
        """Pack the two lists of V spellings."""
        rows = [*plain, *without_blank, []]
        return cls(
            flat=np.array([token_id for row in rows for token_id in row], dtype=np.int32),
            offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
            sizes=np.array([len(word or b"") for word in teacher_bytes], dtype=np.int32),
            blank=np.array([(word or b"").startswith(b" ") for word in teacher_bytes], dtype=bool),
        )

    def rows(self, ids: np.ndarray, without_blank: np.ndarray) -> np.ndarray:
        """Row of each teacher id; `without_blank` (bool, broadcast) asks for the spelling after a leading blank."""
        size = len(self.sizes)
        return np.where((ids >= 0) & (ids < size), ids + size * without_blank, 2 * size)

    def token(self, rows: np.ndarray, place: np.ndarray | int) -> np.ndarray:
        """int32: the student token at `place` of each row's spelling, -1 past its end."""
        at = self.offsets[rows] + place
        inside = at < self.offsets[rows + 1]
        return np.where(inside, self.flat[np.where(inside, at, 0)] if len(self.flat) else -1, -1)

    def spelling(self, token_id: int) -> list[int]:
        """The student tokens of one teacher token; empty where it has none."""
        row = int(self.rows(np.asarray(token_id), np.asarray(False)))
        return self.flat[self.offsets[row] : self.offsets[row + 1]].tolist()


_KEPT = ("flat", "offsets", "sizes", "blank")


def build_token_map(
    teacher_bytes: Sequence[bytes | None],
    teacher_fingerprint: str,
    end_of_turn_id: int,
    student_tokenizer: Any,
    folder: Path | None = None,
) -> TokenMap:
    """Spell every teacher token with the student's tokenizer.

    Args:
        teacher_bytes: `embervlm.tokens.token_bytes` of the teacher's tokenizer; None = special.
        teacher_fingerprint: `embervlm.tokens.fingerprint` of the same; equal tokenizers map by identity.
        end_of_turn_id: the teacher token that ends an answer; it maps to the student's EOS.
        folder: where maps are kept between runs, under the two fingerprints.

    Special tokens have no spelling, so their probability goes to the rest. A token that is no text by itself (a part of
    a character) is spelled by the longest student tokens that match its bytes.
    """
    student_fingerprint = tokens.fingerprint(student_tokenizer)
    equal = teacher_fingerprint == student_fingerprint
    spell = Speller(student_tokenizer)
    # With equal tokenizers the target is the teacher's own distribution, also where it splits a word unusually.
    branches = None if equal else Branches(teacher_bytes, spell)
    path = None
    if folder is not None:
        words = hashlib.sha256(repr((teacher_fingerprint, end_of_turn_id, teacher_bytes)).encode()).hexdigest()[:16]
        path = Path(folder) / f"token-map-{words}-{student_fingerprint}.npz"
        kept = _load(path)
        if kept is not None:
            return replace(kept, branches=branches)
    if equal:
        plain = [[token_id] for token_id in range(len(teacher_bytes))]
    else:
        plain = spell(teacher_bytes)
    tails = [word[1:] if word and word.startswith(b" ") else None for word in teacher_bytes]
    stripped = spell(tails)
    without = [cut if tail is not None else whole for tail, cut, whole in zip(tails, stripped, plain, strict=True)]
    eos = [int(student_tokenizer.eos_token_id)]
    plain[end_of_turn_id], without[end_of_turn_id] = eos, eos
    built = TokenMap.from_spellings(plain, without, teacher_bytes)
    if path is not None:
        _save(path, built)
    return replace(built, branches=branches)


def _load(path: Path) -> TokenMap | None:
    try:
        with np.load(path) as kept:
            return TokenMap(*(kept[name] for name in _KEPT))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # absent, or torn by something that is not us: it is made again


def _save(path: Path, token_map: TokenMap) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with partial.open("wb") as file:
        np.savez(file, **{name: getattr(token_map, name) for name in _KEPT})
    os.replace(partial, path)
