"""Tiny byte vocabularies and a teacher with known distributions, for the brute-force tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
        while text:
            word = max((w for w in self.words if text.startswith(w)), key=len)
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


def make_map(teacher: Vocabulary, student: Vocabulary) -> TokenMap:
    plain = [student.encode(word) for word in teacher.words] + [[student.end]]
    cut = [student.encode(word[1:] if word[:1] == b" " else word) for word in teacher.words] + [[student.end]]
    return TokenMap.from_spellings(plain, cut, [*teacher.words, None])


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
