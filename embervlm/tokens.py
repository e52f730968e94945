"""Any tokenizer as bytes: what each id adds to a text, and which bytes of a text each token covers.

Read from the tokens themselves, by the family that the tokenizer belongs to:

    byte-level BPE      GPT-2, Qwen2, LLaMA-3: one printable character a byte
    SentencePiece       LLaMA, T5: "▁" is a blank, <0x0A> a byte
    WordPiece and "</w>" BPE    BERT, CLIP: a word's pieces; the blanks between words belong to no token
    bytes               tiktoken-like tokenizers of remote code (Qwen-VL), whose tokens are bytes already
"""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from collections.abc import Callable, Sequence
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
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_tables: weakref.WeakKeyDictionary[Any, tuple[int, list[bytes | None]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Spans:
    """Tokens of one text with the bytes each covers; both offsets -1 where that is not known for sure.

    A token that adds nothing to the text (the blank that LLaMA puts before it) covers an empty span.
    """

    ids: np.ndarray  # int32 [n]
    starts: np.ndarray  # int32 [n], byte offsets in text.encode("utf-8")
    ends: np.ndarray  # int32 [n]


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """The bytes that each id adds to a text; None = special, control, unknown or unused.

    SentencePiece's "▁" is a blank wherever it stands, also at the start of a text, where the tokenizer has added it.

    Raises:
        UserError: a tokenizer of no known family.
    """
    return list(_table(tokenizer))


def encode_spans(tokenizer: Any, text: str) -> Spans:
    """`encode_spans_of` one text."""
    return encode_spans_of(tokenizer, [text])[0]


def encode_spans_of(tokenizer: Any, texts: Sequence[str]) -> list[Spans]:
    """Tokenize each text without adding special tokens, and lay the tokens over the text's bytes.

    Where the tokens' bytes join to the text, its start and nothing else decides: a token may end inside a character,
    and one blank that the tokenizer put before the text covers nothing. Otherwise (a tokenizer that lowers case,
    strips accents or drops blanks) the tokenizer's own offsets hold for each token whose bytes are those of its place
    in the text, or what the tokenizer's normalizer makes of them; any other token gets -1 and is never guessed.

    Raises:
        UserError: no token can be placed, or the text is no Unicode (half a surrogate pair).
    """
    if not texts:
        return []
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"The text {text[:40]!r} holds half a surrogate pair, which is no character: mend it."
            ) from error
    fast = getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=fast)
    offsets = encoded["offset_mapping"] if fast else [None] * len(texts)
    return [
        _lay(tokenizer, text, np.array(ids, dtype=np.int32), offset)
        for text, ids, offset in zip(texts, encoded["input_ids"], offsets, strict=True)
    ]


def _lay(tokenizer: Any, text: str, ids: np.ndarray, offsets: list[tuple[int, int]] | None) -> Spans:
    table = _table(tokenizer)
    pieces = [table[token_id] if token_id < len(table) else None for token_id in ids.tolist()]
    known = [piece for piece in pieces if piece is not None]
    spans = _join(known, text.encode("utf-8")) if len(known) == len(pieces) else None
    if spans is None and offsets is not None:
        spans = _from_offsets(tokenizer, text, pieces, offsets)
    if spans is None or (len(ids) and (spans[0] < 0).all()):
        raise UserError(
            f"The tokens that {type(tokenizer).__name__} makes of {text[:40]!r} do not join to the text, and it does "
            "not say where they lie: it changes the text in a way that cannot be followed."
        )
    return Spans(ids, *spans)


def lay_over(tokenizer: Any, ids: Sequence[int], text: str) -> Spans | None:
    """Spans of tokens that somebody else made of the text; None where their bytes do not join to it."""
    table = _table(tokenizer)
    pieces = [table[token_id] if 0 <= token_id < len(table) else None for token_id in ids]
    spans = _join([piece for piece in pieces if piece is not None], text.encode("utf-8"))
    return Spans(np.array(ids, dtype=np.int32), *spans) if spans is not None and None not in pieces else None


def fingerprint(tokenizer: Any) -> str:
    """16 hex digits over what decides how a text is split: vocabulary, merges, splitting, special tokens."""
    added = [(i, token.content, token.special) for i, token in sorted(tokenizer.added_tokens_decoder.items())]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = {"added": added, "vocabulary": sorted(tokenizer.get_vocab().items(), key=str)}
    if backend is not None:
        told = json.loads(backend.to_str())
        parts |= {key: told[key] for key in ("model", "normalizer", "pre_tokenizer")}
        # Written as pairs or as one string, by version.
        merges = told["model"].get("merges") or []
        parts["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
        parts["model"].pop("vocab", None)
    else:
        parts["kind"] = type(tokenizer).__name__
        parts["merges"] = sorted(getattr(tokenizer, "bpe_ranks", {}).items(), key=str)
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _table(tokenizer: Any) -> list[bytes | None]:
    """token_bytes, made once for a tokenizer of the same size."""
    kept = _tables.get(tokenizer)
    if kept is None or kept[0] != len(tokenizer):
        kept = (len(tokenizer), _make_table(tokenizer))
        _tables[tokenizer] = kept
    return kept[1]


def _make_table(tokenizer: Any) -> list[bytes | None]:
    vocabulary = tokenizer.get_vocab()
    table: list[bytes | None] = [None] * max(len(tokenizer), max(vocabulary.values(), default=-1) + 1)
    read = _reader(tokenizer)
    for word, token_id in vocabulary.items():
        table[token_id] = word if isinstance(word, bytes) else read(word)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        table[token_id] = None if token.special else token.content.encode("utf-8")
    for token_id in tokenizer.all_special_ids:
        table[token_id] = None
    return table


def _reader(tokenizer: Any) -> Callable[[str], bytes | None]:
    """A token's spelling -> its bytes, by the family of the tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if hasattr(tokenizer, "sp_model"):
            return lambda word: _sentence_piece(word, "▁", True)
        if hasattr(tokenizer, "byte_decoder"):
            return _byte_level
        if isinstance(tokenizer.convert_ids_to_tokens(0), bytes):
            return lambda word: None  # get_vocab names bytes by bytes; what is spelled otherwise is a control token
        raise UserError(f"It is not known how {type(tokenizer).__name__} spells its tokens; use a fast tokenizer.")
    told = json.loads(backend.to_str())
    model, steps = told["model"], json.dumps([told["decoder"], told["pre_tokenizer"]], ensure_ascii=False)
    suffix = model.get("end_of_word_suffix") or ""
    prefix = model.get("continuing_subword_prefix") or ""
    if '"ByteLevel"' in steps:
        return lambda word: _byte_level(word.removesuffix(suffix))
    if '"Metaspace"' in steps or "▁" in steps or model.get("byte_fallback"):
        return lambda word: _sentence_piece(word, "▁", bool(model.get("byte_fallback")))
    return lambda word: word.removeprefix(prefix).removesuffix(suffix).encode("utf-8")


def _byte_level(word: str) -> bytes | None:
    try:
        return bytes(_BYTE_OF[character] for character in word)
    except KeyError:
        return None  # not written in the byte alphabet: never made from text


def _sentence_piece(word: str, blank: str, fallback: bool) -> bytes:
    if fallback and (byte := _FALLBACK.fullmatch(word)):
        return bytes([int(byte[1], 16)])
    return word.replace(blank, " ").encode("utf-8")


def _join(pieces: list[bytes], data: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Spans by adding up lengths, when the pieces join to the text or to a blank and the text."""
    joined = b"".join(pieces)
    shift = len(joined) - len(data)
    if joined != b" " * shift + data or shift not in (0, 1):
        return None
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
    starts = np.concatenate([np.zeros(1, np.int32), ends[:-1]]) if len(ends) else ends
    return np.maximum(starts - shift, 0).astype(np.int32), np.maximum(ends - shift, 0).astype(np.int32)


def _from_offsets(
    tokenizer: Any, text: str, pieces: list[bytes | None], offsets: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Spans from the tokenizer's character offsets, each one checked against the token's bytes."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    at = np.cumsum([0, *(len(character.encode("utf-8")) for character in text)])
    starts, ends = np.full((2, len(pieces)), -1, dtype=np.int32)
    last = 0
    for i, (piece, (start, end)) in enumerate(zip(pieces, offsets, strict=True)):
        if piece is None or start < last or end <= start:
            continue
        place = text[start:end]
        normal = normalizer.normalize_str(place).replace("▁", " ") if normalizer is not None else place
        word = piece.decode("utf-8", errors="replace")
        if word not in (place, normal) and (not word.strip(" ") or word.strip(" ") not in (place, normal.strip(" "))):
            continue
        # Offsets may leave out the blank that the token begins with.
        if word.startswith(" ") and not place.startswith(" ") and start > last and text[start - 1] == " ":
            start -= 1
        starts[i], ends[i], last = at[start], at[end], end
    return starts, ends
