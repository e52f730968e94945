"""Tiny byte vocabularies and a teacher with known distributions, for the brute-force tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from embervlm.distill.branch import Branches
from embervlm.distill.token_map import TokenMap
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.tokens import Spans


@dataclass(frozen=True)
class Vocabulary:
    """Words by id, and one more id that ends a text. Spells by the longest match from the left."""

    words: tuple[bytes, ...]

    @property
    def end(self) -> int:
        return len(self.words)

    def encode(self, text: bytes) -> list[int]:
        ids = []
        while text and (fitting := [w for w in self.words if text.startswith(w)]):
            word = max(fitting, key=len)
            ids.append(self.words.index(word))
            text = text[len(word) :]
        return ids

    def spans(self, text: bytes, end: bool) -> Spans:
        ids = self.encode(text)
        stops = np.cumsum([len(self.words[i]) for i in ids], dtype=np.int32)
        starts = np.concatenate([[0], stops[:-1]]) if ids else stops
        if end:
            ids, starts, stops = [*ids, self.end], np.append(starts, len(text)), np.append(stops, len(text))
        return Spans(*(np.asarray(column, dtype=np.int32) for column in (ids, starts, stops)))


class TinySpeller:
    """A vocabulary as `Branches` asks for one. Nothing parts words here: every continuation is looked at."""

    blank_opens_word = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.alphabet = [*vocabulary.words, None]

    def together(self, texts: list[bytes]) -> list[list[int]]:
        return [self.vocabulary.encode(text) for text in texts]

    def parts(self, character: str, word: bytes) -> bool:
        return False

    def longest_prefix(self, word: bytes) -> int:
        return next(iter(self.vocabulary.encode(word)), -1)


def make_map(teacher: Vocabulary, student: Vocabulary) -> TokenMap:
    """As `build_token_map` makes it; the same object twice are equal tokenizers."""
    plain = [student.encode(word) for word in teacher.words] + [[student.end]]
    cut = [student.encode(word[1:] if word[:1] == b" " else word) for word in teacher.words] + [[student.end]]
    words = [*teacher.words, None]
    branches = None if teacher is student else Branches(words, TinySpeller(student))
    return replace(TokenMap.from_spellings(plain, cut, words), branches=branches)


def make_outputs(spans: Spans, logits: np.ndarray, k: int) -> TeacherOutputs:
    """What a teacher with these logits [n, V] says, cut to its top k."""
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logp, axis=1, kind="stable")[:, :k]
    return TeacherOutputs(
        record_id="r",
        turn=0,
        token_ids=spans.ids,
        starts=spans.starts,
        ends=spans.ends,
        top_ids=order.astype(np.int32),
        top_logprobs=np.take_along_axis(logp, order, 1).astype(np.float32),
        log_normalisers=np.stack([np.log(np.exp(logp / t).sum(1)) for t in TEMPERATURE_GRID], 1).astype(np.float32),
        realised_logprobs=logp[np.arange(len(spans.ids)), spans.ids].astype(np.float32),
    )
