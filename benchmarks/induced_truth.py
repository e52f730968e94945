"""The distribution that a teacher really induces on the next token of a student with another tokenizer.

A tree over the teacher's continuations: each leaf is a text that settles the student's token, because the student's
splitting into words has gone past it. What is not opened (less than `OPEN`, or the budget is spent) is given to the
token that the text so far spells, and reported as `unopened`: an upper bound of the truth's own error.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from embervlm.distill.spell import Speller

OPEN = 3e-4
"""Texts of less probability are not followed further."""

SPELL = 3e-5
"""Words of less probability are not looked at one by one."""


@dataclass(frozen=True)
class Truth:
    """Probability of each student token after `read`; what no student token can take is missing from the sum."""

    probs: dict[int, float]
    unopened: float
    opened: float  # mass of the texts that were opened,
    moved: float  # and how much of it went to another student token than the text by itself spells


@dataclass(frozen=True)
class _Node:
    text: bytes
    tokens: tuple[int, ...]
    mass: float


class InducedTruth:
    """Args: a causal language model, the bytes of its tokens, and the student's tokenizer."""

    def __init__(self, model: Any, words: Sequence[bytes | None], student: Any, budget: int) -> None:
        self.model = model
        self.words = list(words)
        self.budget = budget
        self.spell = Speller(student)
        self.splitter = copy.deepcopy(student.backend_tokenizer).pre_tokenizer
        self.eos = int(student.eos_token_id)
        size = len(words)
        self.silent = np.array([not word for word in words])
        self.blank = np.array([(word or b"")[:1] == b" " for word in words])
        assert size and self.spell.blank_opens_word

    @torch.inference_mode()
    def at(self, context: Any, length: int, first: np.ndarray, read: list[int], read_bytes: bytes) -> Truth:
        """The truth of one position.

        Args:
            context: key-value pairs of a text, whose first `length` tokens stand before the boundary.
            first: float [V], the teacher's probabilities right at the boundary.
            read: the student's tokens since the boundary, and their bytes.
        """
        found: dict[int, float] = defaultdict(float)
        queue, unopened = self._children(_Node(b"", (), 1.0), first, read, read_bytes, found)
        nodes, opened, moved = 0, 0.0, 0.0
        while queue and nodes < self.budget:
            queue.sort(key=lambda node: -node.mass)
            depth = len(queue[0].tokens)
            batch = [node for node in queue if len(node.tokens) == depth][:32]
            queue = [node for node in queue if node not in batch]
            nodes += len(batch)
            ids = torch.tensor([node.tokens for node in batch])
            logits = self.model(ids, cache=_repeat(context, length, len(batch)), use_cache=True).logits[:, -1]
            for node, p in zip(batch, logits.float().softmax(-1).numpy(), strict=True):
                own = self._next(self.spell.together([node.text])[0], read)
                before = found[own]
                more, left = self._children(node, p, read, read_bytes, found)
                queue += more
                unopened += left
                opened += node.mass
                stays = sum(
                    child.mass for child in more if self._next(self.spell.together([child.text])[0], read) == own
                )
                moved += node.mass - (found[own] - before) - stays
        for node in queue:
            self._settle(node.text, node.mass, read, found)
            unopened += node.mass
        found.pop(-2, None)
        total = sum(found.values())
        return Truth({token: mass / total for token, mass in found.items() if token >= 0}, unopened, opened, moved)

    def _children(
        self, node: _Node, p: np.ndarray, read: list[int], read_bytes: bytes, found: dict[int, float]
    ) -> tuple[list[_Node], float]:
        p = p[: len(self.words)].astype(np.float64) * node.mass
        spelled = self.spell.together([node.text])[0]
        ends = float(p[self.silent].sum())
        if ends:  # the teacher stops: no more text
            self._add([*spelled, self.eos], ends, read, found)
        rest = np.where(self.silent, 0.0, p)
        if len(spelled) > len(read) and not node.text[-1:].isspace():
            self._settle(node.text, float(rest[self.blank].sum()), read, found)
            rest = np.where(self.blank, 0.0, rest)
        big = np.flatnonzero(rest >= SPELL)
        small = float(rest.sum() - rest[big].sum())
        opened: list[_Node] = []
        if node.text:
            self._settle(node.text, small, read, found)
        else:
            for w in np.flatnonzero((rest > 0) & (rest < SPELL)).tolist():
                self._settle(self.words[w] or b"", float(rest[w]), read, found)
        unopened = small
        texts = [node.text + (self.words[w] or b"") for w in big]
        for text, w, spelling in zip(texts, big.tolist(), self.spell.together(texts), strict=True):
            mass = float(rest[w])
            if not (text.startswith(read_bytes) or read_bytes.startswith(text)):
                continue
            if self._settled(text, spelling) > len(read):
                self._add(spelling, mass, read, found)
            elif mass >= OPEN * (1.0 if not read else 0.1):
                opened.append(_Node(text, (*node.tokens, w), mass))
            else:
                self._settle(text, mass, read, found)
                unopened += mass
        return opened, unopened

    def _settled(self, text: bytes, spelling: list[int]) -> int:
        """How many of the spelled tokens no continuation can change: those of all words but the last."""
        try:
            pieces = self.splitter.pre_tokenize_str(text.decode())
        except UnicodeDecodeError:
            return 0
        if len(pieces) < 2:
            return 0
        # The pieces are in the byte alphabet, one character a byte.
        fixed, at, count = sum(len(piece) for piece, _ in pieces[:-1]), 0, 0
        for token in spelling:
            at += len(self.spell.alphabet[token] or b"")
            if at > fixed:
                break
            count += 1
        return count

    def _settle(self, text: bytes, mass: float, read: list[int], found: dict[int, float]) -> None:
        if mass > 0:
            self._add(self.spell.together([text])[0], mass, read, found)

    def _add(self, ids: list[int], mass: float, read: list[int], found: dict[int, float]) -> None:
        found[self._next(ids, read)] += mass

    @staticmethod
    def _next(ids: list[int], read: list[int]) -> int:
        """What follows `read`: -1 unknown, -2 the text is another one."""
        if ids[: len(read)] != read:
            return -2
        return ids[len(read)] if len(ids) > len(read) else -1


def _repeat(cache: Any, length: int, count: int) -> DynamicCache:
    """The cache of the beginning of one text as that of `count` equal ones; the original stays as it is."""
    copied = DynamicCache()
    for number, layer in enumerate(cache.layers):
        copied.update(*(part[:, :, :length].expand(count, -1, -1, -1) for part in (layer.keys, layer.values)), number)
    return copied
