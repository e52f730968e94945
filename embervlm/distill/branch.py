"""The realised branch: where the mass of the teacher's realised token goes, told by what the teacher says next.

The teacher said t1, and at the next position of the same text it gave p(. | t1). So the share of p(t1) that goes on in
another word w2 belongs to the student's spelling of t1 + w2, which need not begin as that of t1: " cat" + "alog" may be
one token of the student. Where t1 alone does not settle the student's token yet, the branch goes on over t2, t3 ...
along the text, each time with the cached distribution after it, until the realised student token is the one that the
text so far spells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.distill.spell import Speller

FLOOR = 1e-3
"""Continuations of less probability are not spelled: they stay with the text before them."""

DEEPER = 3
"""How many tokens beyond the realised student token are read, where it is still not settled."""

LOST, OUT = -1, -2
"""No event: spelled, but nothing is known at this place (the rest); or not what the student has read."""


class Branches:
    """How the student spells several teacher tokens in a row.

    Args:
        words: bytes of each teacher token, None = special: the text ends there.
        spell: the student's tokenizer.
        floor: continuations of less probability are not spelled.
    """

    def __init__(self, words: Sequence[bytes | None], spell: Speller, floor: float = FLOOR) -> None:
        self.words = [word or b"" for word in words]
        self.spell = spell
        self.floor = floor
        self._silent = np.array([not word for word in self.words], dtype=bool)
        self._blank = np.array([spell.blank_opens_word and word[:1] == b" " for word in self.words], dtype=bool)
        self._line_parts = spell.parts("\n", b"a")
        self._parted = np.zeros(128 * len(self.words), dtype=np.int8)  # by last character; 0: not looked at yet

    def join(self, ids: np.ndarray, texts: Sequence[bytes]) -> np.ndarray:
        """bool [n, k]: which of the words [n, k] can change how the text [n] before them is spelled. A blank after
        anything but white space does not, nor does what the student's splitting parts from the last character."""
        inside = (ids >= 0) & (ids < len(self.words))
        known = np.where(inside, ids, 0)
        after_white = np.array([text[-1:].isspace() for text in texts], dtype=bool)[:, None]
        last = np.array([_last_character(text) for text in texts], dtype=np.int64)[:, None]
        joins = inside & ~self._silent[known] & (~self._blank[known] | after_white)
        key = np.where(joins & (last >= 0), last * len(self.words) + known, -1)
        new = np.unique(key[(key >= 0) & (self._parted[key] == 0)])
        for pair in new.tolist():
            character, word = divmod(pair, len(self.words))
            self._parted[pair] = 1 + self.spell.parts(chr(character), self.words[word])
        return joins & ~((key >= 0) & (self._parted[key] == 2))

    def spellings(self, texts: Sequence[bytes]) -> list[list[int]]:
        """Of texts that end in one more word, whatever may follow.

        Two tokens of white space that end in a line break are spelled as before a word: had white space followed, the
        teacher's own token for the run would have been due, and a student that splits as GPT-2 does takes the last
        character of a run away from it when a word follows ("\\n\\n" is two tokens there, not one).
        """
        runs = [self._line_parts and text[-2:].isspace() and text[-1:] in b"\n\r\t" for text in texts]
        spelled = self.spell.together([text + b"a" if run else text for text, run in zip(texts, runs, strict=True)])
        return [spelling[:-1] if run else spelling for spelling, run in zip(spelled, runs, strict=True)]


@dataclass(frozen=True)
class Said:
    """The teacher over a batch of joined responses: N positions, k words each."""

    ids: np.ndarray  # int32 [N], realised
    logp: np.ndarray  # float [N]
    head_ids: np.ndarray  # int32 [N, k]
    head_logp: np.ndarray  # float [N, k]
    group: np.ndarray  # int [N], equal where tokens follow each other without a gap


@dataclass(frozen=True)
class Places:
    """R student positions that have a target; `align` explains first, last and boundary."""

    rows: np.ndarray  # int [R], which of `student_ids`
    first: np.ndarray  # int [R]
    last: np.ndarray  # int [R]
    boundary: np.ndarray  # int [R]
    without_blank: np.ndarray  # bool [R], the template took the leading blank of token `first`
    student_ids: np.ndarray  # int32 [M]


@dataclass(frozen=True)
class Branch:
    """The realised token's mass p(t1) of R rows, at T = 1, not conditioned."""

    alike: np.ndarray  # bool [R], False: the teacher's token is not the text that the student reads there
    kept: np.ndarray  # float [R], with the realised student token
    row: np.ndarray  # int [E]
    ids: np.ndarray  # int [E], another student token, LOST or OUT
    mass: np.ndarray  # float [E]


def resolve(branches: Branches | None, said: Said, places: Places, real_next: np.ndarray) -> Branch:
    """Share out p(t1) of every row. Without `branches` (equal tokenizers) all of it stays.

    real_next: int [R], the student token that t1's own spelling gives at the row's place, -1 for none.
    """
    kept = np.exp(said.logp[places.first])
    alike = np.ones(len(kept), dtype=bool)
    moves: list[tuple[int, int, float]] = []
    if branches is not None:
        wanted = places.student_ids[places.rows]
        settled = real_next == wanted
        moves = _next_words(branches, said, places, np.flatnonzero(settled))
        np.subtract.at(kept, [row for row, _, _ in moves], [mass for _, _, mass in moves])
        kept = np.maximum(kept, 0.0)
        for r in np.flatnonzero(~settled).tolist():
            alike[r] = _alike(branches, said, places, r)
            if not alike[r]:
                continue
            shares = _along(branches, said, places, r)
            kept[r] = shares.pop(int(wanted[r]), 0.0)
            moves.extend((r, token_id, mass) for token_id, mass in shares.items())
    row, ids, mass = (np.array([move[i] for move in moves]) for i in range(3))
    return Branch(alike, kept, row.astype(np.int64), ids.astype(np.int64), mass.astype(np.float64))


def _next_words(branches: Branches, said: Said, places: Places, rows: np.ndarray) -> list[tuple[int, int, float]]:
    """The rows whose realised student token t1 settles: only the word right after t1 can change it."""
    t1, after = said.ids[places.first[rows]], places.first[rows] + 1
    goes_on = after < len(said.ids)
    goes_on[goes_on] = said.group[after[goes_on]] == said.group[after[goes_on] - 1]
    rows, t1, after = rows[goes_on], t1[goes_on], after[goes_on]
    texts = [_text(branches, places, r, t) for r, t in zip(rows.tolist(), t1.tolist(), strict=True)]
    head = said.head_ids[after]
    mass = np.exp(said.logp[after - 1][:, None] + said.head_logp[after])
    other = (mass >= branches.floor) & (head != said.ids[after][:, None])
    other &= branches.join(np.where(other, head, -1), texts)
    at, column = np.nonzero(other)
    pairs = [(i, texts[i] + branches.words[w]) for i, w in zip(at.tolist(), head[at, column].tolist(), strict=True)]
    spelled = branches.spellings([text for _, text in pairs])
    wanted, moves = places.student_ids[places.rows[rows]].tolist(), []
    begins = (places.rows == places.boundary)[rows].tolist()
    for (i, _), spelling, share in zip(pairs, spelled, mass[at, column].tolist(), strict=True):
        if not (begins[i] and spelling[:1] == wanted[i : i + 1]):  # the usual case
            token_id = _place_in(spelling, places, int(rows[i]))
            if token_id != wanted[i]:
                moves.append((int(rows[i]), token_id, share))
    return moves


def _along(branches: Branches, said: Said, places: Places, r: int) -> dict[int, float]:
    """The whole of p(t1) for a row whose realised student token takes more than t1 to settle."""
    first, needed = int(places.first[r]), int(places.last[r] - places.first[r])
    wanted = int(places.student_ids[places.rows[r]])
    text, mass = _text(branches, places, r, int(said.ids[first])), float(np.exp(said.logp[first]))
    shares: dict[int, float] = {}
    for after in range(first + 1, first + needed + DEEPER + 1):
        if after >= len(said.ids) or said.group[after] != said.group[first]:
            break
        here = _place_in(branches.spell.together([text])[0], places, r)
        real, p_real = int(said.ids[after]), float(np.exp(said.logp[after]))
        head, p = said.head_ids[after], mass * np.exp(said.head_logp[after])
        other = (p >= branches.floor) & (head != real) & branches.join(head[None], [text])[0]
        spelled = branches.spellings([text + branches.words[w] for w in head[other].tolist()])
        for spelling, share in zip(spelled, p[other].tolist(), strict=True):
            token_id = _place_in(spelling, places, r)
            shares[token_id] = shares.get(token_id, 0.0) + share
        unread = max(mass * (1 - p_real) - float(p[other].sum()), 0.0)
        shares[here] = shares.get(here, 0.0) + unread
        mass *= p_real
        word = branches.words[real] if real < len(branches.words) else b""
        if not word or (here == wanted and after >= first + needed):
            break
        text += word
    shares[wanted] = shares.get(wanted, 0.0) + mass
    return shares


def _alike(branches: Branches, said: Said, places: Places, r: int) -> bool:
    """Whether the bytes that the student reads from the boundary are those of t1: not where a tokenizer lowers case."""
    word, read = _text(branches, places, r, int(said.ids[places.first[r]])), b""
    for token_id in places.student_ids[places.boundary[r] :].tolist():
        piece = branches.spell.alphabet[token_id] if token_id < len(branches.spell.alphabet) else None
        if len(read) >= len(word) or piece is None:
            break
        read += piece
    return read[: len(word)] == word[: len(read)]


def _last_character(text: bytes) -> int:
    """-1 where more than it decides: part of a longer character, or of a run of white space, which is split by what
    follows it."""
    run = text[-2:].isspace() and len(text) > 1
    return -1 if not text or text[-1] > 127 or run else text[-1]


def _text(branches: Branches, places: Places, r: int, token: int) -> bytes:
    word = branches.words[token] if token < len(branches.words) else b""
    return word[1:] if places.without_blank[r] else word


def _place_in(spelling: list[int], places: Places, r: int) -> int:
    """What a spelling says at the row's place, if it begins with what the student has read."""
    begin, place = int(places.boundary[r]), int(places.rows[r])
    depth = place - begin
    if depth and spelling[:depth] != places.student_ids[begin:place].tolist():
        return OUT
    return spelling[depth] if len(spelling) > depth else LOST
