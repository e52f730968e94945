"""e(w): how the student would spell each teacher token. Computed once for a pair of tokenizers, kept by fingerprint."""

from __future__ import annotations

import copy
import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from embervlm import tokens


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
    path = None
    if folder is not None:
        words = hashlib.sha256(repr((teacher_fingerprint, end_of_turn_id, teacher_bytes)).encode()).hexdigest()[:16]
        path = Path(folder) / f"token-map-{words}-{student_fingerprint}.npz"
        kept = _load(path)
        if kept is not None:
            return kept
    if teacher_fingerprint == student_fingerprint:
        plain = [[token_id] for token_id in range(len(teacher_bytes))]
    else:
        plain = _spell(teacher_bytes, student_tokenizer)
    tails = [word[1:] if word and word.startswith(b" ") else None for word in teacher_bytes]
    stripped = _spell(tails, student_tokenizer)
    without = [cut if tail is not None else whole for tail, cut, whole in zip(tails, stripped, plain, strict=True)]
    eos = [int(student_tokenizer.eos_token_id)]
    plain[end_of_turn_id], without[end_of_turn_id] = eos, eos
    built = TokenMap.from_spellings(plain, without, teacher_bytes)
    if path is not None:
        _save(path, built)
    return built


def _spell(words: Sequence[bytes | None], tokenizer: Any) -> list[list[int]]:
    """Student ids for each byte string; None and the empty string have none."""
    alphabet = tokens.token_bytes(tokenizer)
    texts: list[str | None] = []
    for word in words:
        try:
            texts.append(word.decode("utf-8") if word else None)
        except UnicodeDecodeError:
            texts.append(None)
    readable = [text for text in texts if text is not None]
    encoded = iter(_encode(readable, tokenizer))
    by_bytes = {word: token_id for token_id, word in enumerate(alphabet) if word}
    longest = max(map(len, by_bytes), default=0)
    spellings: list[list[int]] = []
    for word, text in zip(words, texts, strict=True):
        ids = next(encoded) if text is not None else None
        # A tokenizer may add a blank, normalise, or read a special token into the text: then the bytes differ.
        if word and (ids is None or b"".join(alphabet[token_id] or b"\xff\xff" for token_id in ids) != word):
            ids = _longest_match(word, by_bytes, longest)
        spellings.append(list(ids or ()))
    return spellings


def _encode(texts: list[str], tokenizer: Any) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    backend = copy.deepcopy(backend)  # a copy, because padding and truncation are state of the backend
    backend.no_padding()
    backend.no_truncation()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _longest_match(word: bytes, by_bytes: dict[bytes, int], longest: int) -> list[int]:
    """Greedy spelling from the left; stops where no student token matches."""
    ids, at = [], 0
    while at < len(word):
        for size in range(min(longest, len(word) - at), 0, -1):
            if (token_id := by_bytes.get(word[at : at + size])) is not None:
                ids.append(token_id)
                at += size
                break
        else:
            break
    return ids


def _load(path: Path) -> TokenMap | None:
    try:
        with np.load(path) as kept:
            return TokenMap(*(kept[field.name] for field in fields(TokenMap)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # absent, or torn by something that is not us: it is made again


def _save(path: Path, token_map: TokenMap) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with partial.open("wb") as file:
        np.savez(file, **{field.name: getattr(token_map, field.name) for field in fields(TokenMap)})
    os.replace(partial, path)
