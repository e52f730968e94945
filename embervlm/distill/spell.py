"""How the student's tokenizer writes any bytes: words of the teacher, and several of them in a row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from embervlm import tokens

MEMORY = 500_000
"""Texts whose spelling `Speller.together` remembers; about 100 bytes each."""

_PROBES = ("ab cd", "ab 12", "12 ab", "ab. cd", "ab, 12", "ab (cd", ") cd")


class Speller:
    """Student ids of byte strings, as the student's tokenizer would read them from a boundary of its own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend = copy.deepcopy(self._backend)  # padding and truncation are state of the backend
            self._backend.no_padding()
            self._backend.no_truncation()
        self.alphabet = tokens.token_bytes(tokenizer)
        self.by_bytes = {word: token_id for token_id, word in enumerate(self.alphabet) if word}
        self._longest = max(map(len, self.by_bytes), default=0)
        self._kept: dict[bytes, list[int]] = {}
        whole = [self([text.encode()])[0] for text in _PROBES]
        cuts = [text.rindex(" ") for text in _PROBES]
        apart = [sum(self([t[:cut].encode(), t[cut:].encode()]), []) for t, cut in zip(_PROBES, cuts, strict=True)]
        self.blank_opens_word = whole == apart
        """A blank after anything else begins a new word: what follows it does not change what stands before it."""

    def __call__(self, words: Sequence[bytes | None]) -> list[list[int]]:
        """Student ids for each byte string; None and the empty string have none.

        Bytes that are no text (a part of a character), and text that the tokenizer would change, are spelled by the
        longest student tokens that match, as far as they match.
        """
        texts: list[str | None] = []
        for word in words:
            try:
                texts.append(word.decode("utf-8") if word else None)
            except UnicodeDecodeError:
                texts.append(None)
        encoded = iter(self._encode([text for text in texts if text is not None]))
        spellings: list[list[int]] = []
        for word, text in zip(words, texts, strict=True):
            ids = next(encoded) if text is not None else None
            # A tokenizer may add a blank, normalise, or read a special token into the text: then the bytes differ.
            if word and (ids is None or b"".join(self.alphabet[i] or b"\xff\xff" for i in ids) != word):
                ids = self._longest_match(word)
            spellings.append(list(ids or ()))
        return spellings

    def together(self, texts: Sequence[bytes]) -> list[list[int]]:
        """The same, remembered: for the texts of several teacher tokens, which come again and again."""
        if len(self._kept) > MEMORY:
            self._kept.clear()
        new = list({text for text in texts if text not in self._kept})
        self._kept.update(zip(new, self(new), strict=True))
        return [self._kept[text] for text in texts]

    def parts(self, character: str, word: bytes) -> bool:
        """Whether the tokenizer's splitting, whatever its vocabulary, parts `word` from a `character` before it."""
        splitter = None if self._backend is None else self._backend.pre_tokenizer
        try:
            text = character + word.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if splitter is None:
            return False
        pieces = splitter.pre_tokenize_str(text)
        return bool(pieces) and pieces[0][1] == (0, 1)

    def longest_prefix(self, word: bytes) -> int:
        """The longest student token whose bytes begin `word`; -1: there is none."""
        for size in range(min(self._longest, len(word)), 0, -1):
            if (token_id := self.by_bytes.get(word[:size])) is not None:
                return token_id
        return -1

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is None:
            return self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _longest_match(self, word: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(word) and (token_id := self.longest_prefix(word[at:])) >= 0:
            ids.append(token_id)
            at += len(self.alphabet[token_id] or b"")
        return ids
