"""What does not show in a text, made visible: nothing that data or models wrote may hide or turn a page around."""

from __future__ import annotations

import unicodedata
from typing import Any

from embervlm.tokens import token_bytes

END = "<end>"
"""The end-of-text token as people see it."""

_BLANKS = {" ": "·", "\n": "↵", "\t": "⇥"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def legible(text: str) -> str:
    """Control characters as ␛, those that turn the direction of writing or have no width as ⟨U+202E⟩; blanks stay."""
    return "".join(map(_mark, text))


def visible(text: str) -> str:
    """`legible`, and blanks and line breaks as marks, for single tokens."""
    return "".join(_BLANKS.get(character) or _mark(character) for character in text)


def _mark(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    return "␡" if code == 127 else f"⟨U+{code:04X}⟩"


def spell(piece: bytes) -> str:
    """The bytes of a token; a part of a character is written in hexadecimal."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in piece)


class Names:
    """Of each student token what to call it: its text, or the name of a special one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes = token_bytes(tokenizer)

    def __call__(self, token_id: int) -> str:
        if token_id == self._tokenizer.eos_token_id:
            return END
        piece = self._bytes[token_id] if token_id < len(self._bytes) else None
        return str(self._tokenizer.convert_ids_to_tokens(token_id)) if piece is None else spell(piece)
