"""A record in numbers: its turns, lengths of questions and answers in words and tokens, hashes of its texts.

Exact token counts of 11 million tokens take the tokenizer a minute. A byte-level BPE joins nothing across the pieces
that its pattern cuts, so the count of a text is the sum of its pieces', and the pieces repeat: 4 times faster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from embervlm.bpe import student_bpe
from embervlm.data.official import image_key
from embervlm.data.record import Record

# embervlm.bpe.SPLIT for texts of ASCII, where \p{L} and \p{N} are these letters and digits.
_PIECES = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
_KEPT = 200_000


class TokenCounter:
    """How many tokens of the student a text has."""

    def __init__(self) -> None:
        self._bpe = student_bpe()
        self._pieces = _Pieces(self._encode)

    def __call__(self, text: str) -> int:
        if not text.isascii():
            return self._encode(text)
        return sum(map(self._pieces.__getitem__, _PIECES.findall(text)))

    def _encode(self, text: str) -> int:
        return len(self._bpe.encode(text, add_special_tokens=False).ids)


class _Pieces(dict[str, int]):
    """Piece -> its tokens, counted at the first look; the first so many are kept."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count

    def __missing__(self, piece: str) -> int:
        count = self._count(piece)
        if len(self) < _KEPT:
            self[piece] = count
        return count


@lru_cache(maxsize=1)
def token_counter() -> TokenCounter:
    """The one of this process."""
    return TokenCounter()


@dataclass(frozen=True)
class Numbers:
    """Of some records, one after the other. Arrays over records [n] or over their turns [sum of turns]."""

    turns: np.ndarray  # uint32 [n]
    positions: np.ndarray  # uint32 [n], of the row as the student reads it (batch/encode.py)
    first_label: np.ndarray  # uint32 [n], positions before the first answer
    same: np.ndarray  # uint64 [n], equal for records of the same picture and the same turns
    question_words: np.ndarray  # uint32 [turns], without the prompt template
    question_tokens: np.ndarray  # uint32 [turns], with it
    answer_words: np.ndarray  # uint32 [turns]
    answer_tokens: np.ndarray  # uint32 [turns]
    asked: np.ndarray  # uint64 [turns], equal for the same question about the same picture; 0 without a picture

    def __len__(self) -> int:
        return len(self.turns)

    def take(self, records: np.ndarray) -> Numbers:
        """Those of some records, by index."""
        starts = np.cumsum(self.turns, dtype=np.int64) - self.turns
        counts = self.turns[records].astype(np.int64)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        turns = np.repeat(starts[records], counts) + offsets
        return Numbers(
            **{name: getattr(self, name)[records] for name in _OF_RECORDS},
            **{name: getattr(self, name)[turns] for name in _OF_TURNS},
        )


_OF_RECORDS = ("turns", "positions", "first_label", "same")
_OF_TURNS = ("question_words", "question_tokens", "answer_words", "answer_tokens", "asked")
_TYPES = {"same": np.uint64, "asked": np.uint64}


def join(parts: Sequence[Numbers]) -> Numbers:
    """One after the other."""
    names = _OF_RECORDS + _OF_TURNS
    empty = {name: [np.zeros(0, _TYPES.get(name, np.uint32))] for name in names}
    return Numbers(**{name: np.concatenate([getattr(part, name) for part in parts] or empty[name]) for name in names})


def measure(records: Sequence[Record], image_tokens: int) -> Numbers:
    """The numbers of records. `image_tokens`: places that a picture takes in the student's row."""
    count = token_counter()
    found: dict[str, list[int]] = {name: [] for name in _OF_RECORDS + _OF_TURNS}
    for record in records:
        picture = None if record.image is None else image_key(record.image)
        turns = record.turns()
        bare = record.metadata.get("question")
        positions, first_label = -1 + image_tokens * (picture is not None), 0
        for i, (question, answer) in enumerate(turns):
            plain = bare if i == 0 and isinstance(bare, str) else question
            tokens = count(question), count(answer)
            # <|user|> question <|assistant|> answer <|endoftext|>
            first_label = first_label or positions + 2 + tokens[0]
            positions += tokens[0] + tokens[1] + 3
            found["question_words"].append(len(plain.split()))
            found["answer_words"].append(len(answer.split()))
            found["question_tokens"].append(tokens[0])
            found["answer_tokens"].append(tokens[1])
            found["asked"].append(0 if picture is None else _hash(picture, _bare(plain)))
        found["turns"].append(len(turns))
        found["positions"].append(positions)
        found["first_label"].append(first_label)
        found["same"].append(_hash(picture or "", *(part for turn in turns for part in turn)))
    return Numbers(**{name: np.array(values, dtype=_TYPES.get(name, np.uint32)) for name, values in found.items()})


def _bare(question: str) -> str:
    """Without a prompt's second line ("Answer the question using a single word or phrase."), case and end mark."""
    return question.partition("\n")[0].strip().rstrip("?").strip().lower()


def _hash(*texts: str) -> int:
    """64 bits, the same in every process and never 0."""
    data = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1
