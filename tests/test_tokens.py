"""Bytes of tokens, for one tiny tokenizer of each family."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, PythonBackend

from embervlm.errors import UserError
from embervlm.model.tokenizer import student_tokenizer
from embervlm.tokens import encode_spans, fingerprint, token_bytes

SENTENCES = [
    "The quick brown fox jumps over the lazy dog in 2019.",
    "A café by the river, naïve façades, 12 tables and 3 cats.",
    "The lazy dogs jump; the foxes were quick and brown.",
] * 4
TEXTS = ["The quick dog", " leading and  double blanks ", "café 2019\n\tcats", "🎉 日本 fox", "x", ""]


def wrap(backend: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **options)


def byte_level(
    normalizer: Any = None, trim_offsets: bool = False, add_prefix_space: bool = False
) -> PreTrainedTokenizerFast:
    """GPT-2's and Qwen2's family; Qwen2 normalises to NFC."""
    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, initial_alphabet=alphabet, special_tokens=["<|end|>"]
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return wrap(backend, eos_token="<|end|>")


def llama(prepend: str) -> PreTrainedTokenizerFast:
    """LLaMA's family, in its older form (normalizer) and its newer one (Metaspace)."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prepend == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    trained = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁"],
    )
    backend.train_from_iterator(SENTENCES, trained)
    # The byte tokens were only "special" to give them ids; in LLaMA they are ordinary ones.
    told = json.loads(backend.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if not token["content"].startswith("<0x")]
    backend = Tokenizer.from_str(json.dumps(told))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's family: lower case, no accents, blanks belong to no token."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=120, show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]"])
    backend.train_from_iterator(SENTENCES, trainer)
    return wrap(backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def covered(tokenizer: Any, text: str) -> list[bytes | None]:
    spans, data = encode_spans(tokenizer, text), text.encode()
    assert spans.ids.dtype == spans.starts.dtype == spans.ends.dtype == np.int32
    return [None if a < 0 else data[a:b] for a, b in zip(spans.starts, spans.ends, strict=True)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "tokenizer",
    [byte_level(), byte_level(trim_offsets=True), byte_level(add_prefix_space=True), student_tokenizer(300)]
    + [llama("normalizer"), llama("metaspace")],
    ids=["byte level", "trimmed offsets", "prefix blank", "student", "llama old", "llama new"],
)
def test_spans_of_faithful_tokenizers_tile_the_text(tokenizer: Any, text: str) -> None:
    """Every byte is covered once and in order, also where a token ends inside a character."""
    spans = encode_spans(tokenizer, text)
    assert b"".join(covered(tokenizer, text)) == text.encode()
    if len(spans.ids):
        assert spans.starts[0] == 0 and spans.ends[-1] == len(text.encode())
        assert (spans.starts[1:] == spans.ends[:-1]).all()
    assert spans.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


FAITHFUL = [byte_level(), student_tokenizer(300)]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_tiled_by_byte_level_tokens(text: str) -> None:
    for tokenizer in FAITHFUL:
        assert b"".join(covered(tokenizer, text)) == text.encode()


def test_token_bytes_of_byte_level_and_special_tokens() -> None:
    tokenizer = byte_level()
    table = token_bytes(tokenizer)
    assert len(table) == len(tokenizer)
    assert table[tokenizer.eos_token_id] is None
    assert {bytes([byte]) for byte in range(256)} <= set(table)
    text = "The café, 2019 🎉"
    assert b"".join(table[i] for i in tokenizer(text)["input_ids"]) == text.encode()


def test_added_tokens_that_are_text_keep_their_bytes() -> None:
    """Qwen's <tool_call> is an added token but ordinary text; it must not be mistaken for a control token."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["<tool>"])
    assert token_bytes(tokenizer)[-1] == b"<tool>"
    assert covered(tokenizer, "a<tool>b") == [b"a", b"<tool>", b"b"]


def test_names_of_special_tokens_inside_a_text_stay_text() -> None:
    tokenizer = byte_level()
    assert tokenizer.eos_token_id not in encode_spans(tokenizer, "a <|end|> b").ids
    assert b"".join(covered(tokenizer, "a <|end|> b")) == b"a <|end|> b"


def test_llamas_own_blank_covers_nothing() -> None:
    """The dummy blank would otherwise shift every span by one byte."""
    for prepend in ("normalizer", "metaspace"):
        spans = encode_spans(llama(prepend), "ß")  # not in the vocabulary: "▁" alone, then two byte tokens
        assert (spans.starts.tolist(), spans.ends.tolist()) == ([0, 0, 1], [0, 1, 2])


def test_llama_byte_tokens_are_bytes_and_controls_are_none() -> None:
    tokenizer = llama("metaspace")
    table = token_bytes(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["<0x0A>", "<s>", "▁"])
    assert [table[i] for i in ids] == [b"\n", None, b" "]


def test_word_piece_spans_are_checked_offsets_with_gaps_at_blanks() -> None:
    tokenizer = word_piece()
    assert all(not word.startswith(b"##") for word in token_bytes(tokenizer) if word)
    text = "The Café, FOX"
    pieces = covered(tokenizer, text)
    assert b"".join(pieces) == text.replace(" ", "").encode()
    assert len(pieces) > 3


def test_unknown_words_are_not_placed() -> None:
    """[UNK] says nothing about its bytes: -1, and its neighbours keep their places."""
    pieces = covered(word_piece(), "fox 日 dog")
    assert None in pieces
    assert b"".join(piece for piece in pieces if piece) == b"foxdog"


def test_a_normaliser_that_changes_characters_gives_unknown_not_wrong_places() -> None:
    """NFC joins "e" and its accent: the tokens of that character have no place of their own; the others do."""
    tokenizer = byte_level(normalizer=normalizers.NFC())
    text = unicodedata.normalize("NFD", "the café by the dog")
    spans, data = encode_spans(tokenizer, text), text.encode()
    table = token_bytes(tokenizer)
    known = [(table[i], data[a:b]) for i, a, b in zip(spans.ids, spans.starts, spans.ends, strict=True) if a >= 0]
    assert all(word == place for word, place in known)
    assert len(known) < len(spans.ids) and known[-1][1].endswith(b"g")


def test_trimmed_offsets_get_their_blank_back() -> None:
    """GPT-2's fast tokenizer can leave a token's blank out of its offsets; the spans would have false gaps."""
    tokenizer = byte_level(normalizer=normalizers.Lowercase(), trim_offsets=True)
    assert b"".join(covered(tokenizer, "The Quick DOG")) == b"The Quick DOG"


def test_clip_like_word_ends_are_not_text() -> None:
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), behavior="removed")
    trainer = trainers.BpeTrainer(
        vocab_size=120, show_progress=False, end_of_word_suffix="</w>", special_tokens=["<unk>"]
    )
    backend.train_from_iterator(SENTENCES, trainer)
    assert b"".join(covered(wrap(backend, unk_token="<unk>"), "quick brown")) == b"quickbrown"


class Bytes(PythonBackend):
    """A tiktoken-like tokenizer of remote code: its tokens are bytes, and it knows no offsets."""

    vocab_files_names: dict[str, str] = {}
    words = [bytes([byte]) for byte in range(256)] + [b" fox", b"caf\xc3"]

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def get_vocab(self) -> dict[Any, int]:
        return {word: i for i, word in enumerate(self.words)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[bytes]:
        return [bytes([byte]) for byte in text.encode()]

    def _convert_token_to_id(self, token: bytes) -> int:
        return self.words.index(token)

    def _convert_id_to_token(self, index: int) -> bytes:
        return self.words[index]


class Lower(Bytes):
    """A slow tokenizer that changes the text."""

    def _tokenize(self, text: str, **kwargs: Any) -> list[bytes]:
        return super()._tokenize(text.lower())


class Strange(Bytes):
    """Pieces spelled nobody knows how."""

    words = ["<unk>", "▁the", "▁c", "af", "<0xC3>", "<0xA9>"]  # type: ignore[assignment]

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:  # type: ignore[override]
        return {"the café": self.words[1:]}[text]


class Pieces(Strange):
    """SentencePiece without the fast backend."""

    sp_model = object()


def test_slow_tokenizers_of_bytes_and_pieces() -> None:
    assert token_bytes(Bytes())[256:] == [b" fox", b"caf\xc3"]
    assert covered(Bytes(), "é x") == [b"\xc3", b"\xa9", b" ", b"x"]
    assert covered(Pieces(), "the café") == [b"the", b" c", b"af", b"\xc3", b"\xa9"]


def test_what_cannot_be_followed_is_refused() -> None:
    """A guess here would train the student on the wrong bytes without a word."""
    with pytest.raises(UserError, match="do not join"):
        encode_spans(Lower(), "ABC")
    with pytest.raises(UserError, match="surrogate"):
        encode_spans(byte_level(), "a\ud83d")


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UserError, match="Strange"):
        token_bytes(Strange())


def test_fingerprint_survives_saving_and_sees_every_difference(tmp_path: Any) -> None:
    """A cache made with another tokenizer must be refused, and one made with this one accepted after a restart."""
    tokenizer = student_tokenizer(300)
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == fingerprint(tokenizer)
    assert len(fingerprint(tokenizer)) == 16
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=5)
    assert fingerprint(tokenizer) == fingerprint(student_tokenizer(300))
    more = student_tokenizer(300)
    more.add_tokens(["<tool>"])
    others = [
        more,
        student_tokenizer(301),
        byte_level(),
        byte_level(add_prefix_space=True),
        llama("metaspace"),
        Bytes(),
    ]
    prints = [fingerprint(other) for other in [tokenizer, *others]]
    assert len(set(prints)) == len(prints)
