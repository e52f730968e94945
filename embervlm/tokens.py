"""Any tokenizer as bytes: what each id adds to a text, and which bytes of a text each token covers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from embervlm.errors import UserError


def _byte_alphabet() -> dict[int, str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(shifted)}


BYTE_ALPHABET: dict[int, str] = _byte_alphabet()
"""Byte -> the printable character that byte-level BPE (GPT-2) writes for it."""
_BYTE_OF = {character: byte for byte, character in BYTE_ALPHABET.items()}


@dataclass(frozen=True)
class Spans:
    """Tokens of one text with the bytes each covers; -1 where that is not known for sure."""

    ids: np.ndarray  # int32 [n]
    starts: np.ndarray  # int32 [n], byte offsets in text.encode("utf-8")
    ends: np.ndarray  # int32 [n]


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """The bytes that each id adds to a text; None = special, control or unknown."""
    size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
    table: list[bytes | None] = [None] * size
    for word, token_id in tokenizer.get_vocab().items():
        if all(character in _BYTE_OF for character in word):
            table[token_id] = bytes(_BYTE_OF[character] for character in word)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        table[token_id] = None if token.special else token.content.encode("utf-8")
    return table


def encode_spans(tokenizer: Any, text: str) -> Spans:
    """Tokenize without special tokens and lay the tokens' bytes over the text."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    table = token_bytes(tokenizer)
    pieces = [table[token_id] for token_id in ids]
    if b"".join(piece or b"\xff" for piece in pieces) != text.encode("utf-8"):
        raise UserError(f"the tokens of {text[:40]!r} do not join to the text")
    ends = np.cumsum([len(piece or b"") for piece in pieces], dtype=np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32) if len(ends) else ends
    return Spans(np.array(ids, dtype=np.int32), starts, ends)


def fingerprint(tokenizer: Any) -> str:
    """16 hex digits over vocabulary, model and special tokens."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {key: told[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
