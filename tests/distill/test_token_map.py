"""e(w): the student's spelling of every teacher token."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from embervlm import tokens
from embervlm.distill.token_map import TokenMap, build_token_map

TEXT = ["the cat sat on the mat, 12 cats and 345 mats", "déjà vu, 東京 and 😀"] * 20


def byte_level(vocabulary: int = 320, text: list[str] = TEXT) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<eos>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="module")
def student() -> PreTrainedTokenizerFast:
    return byte_level()


def test_every_word_is_spelled_as_the_student_would(student: PreTrainedTokenizerFast):
    words = [b"the", b" cats", b" 2019", "東京".encode(), None, b"<end>"]
    token_map = build_token_map(words, "teacher", 5, student)
    for token_id, word in enumerate(words[:4]):
        assert token_map.spelling(token_id) == student(word.decode(), add_special_tokens=False)["input_ids"]
    assert token_map.spelling(4) == []
    assert token_map.spelling(5) == [student.eos_token_id]
    assert token_map.spelling(99) == [] and token_map.spelling(-1) == []


def test_part_of_a_character_is_spelled_by_bytes(student: PreTrainedTokenizerFast):
    alphabet = tokens.token_bytes(student)
    for word in ("東".encode()[:2], "😀".encode()[1:], b"a\xf0\x9f", b"\xff"):
        token_map = build_token_map([word, b""], "teacher", 1, student)
        assert b"".join(alphabet[i] for i in token_map.spelling(0)) == word


def test_text_that_looks_like_a_special_token_stays_text(student: PreTrainedTokenizerFast):
    token_map = build_token_map([b"<pad>", b"x"], "teacher", 1, student)
    assert student.pad_token_id not in token_map.spelling(0)
    assert b"".join(tokens.token_bytes(student)[i] for i in token_map.spelling(0)) == b"<pad>"


def test_spelling_without_the_leading_blank(student: PreTrainedTokenizerFast):
    token_map = build_token_map([b" cats", b"cats", b" ", b"</s>"], "teacher", 3, student)
    rows = token_map.rows(np.arange(4), np.array([True]))
    cats = student("cats", add_special_tokens=False)["input_ids"]
    assert token_map.token(rows, 0).tolist() == [cats[0], cats[0], -1, student.eos_token_id]


def test_padding_left_switched_on_in_the_tokenizer_is_not_read_as_text(student: PreTrainedTokenizerFast):
    student(["the", "the cat sat"], padding=True)
    token_map = build_token_map([b" cats", b" 2", None], "teacher", 2, student)
    assert token_map.spelling(1) == student(" 2", add_special_tokens=False)["input_ids"]


def test_equal_tokenizers_map_by_identity(student: PreTrainedTokenizerFast):
    words = tokens.token_bytes(student)
    token_map = build_token_map(words, tokens.fingerprint(student), student.eos_token_id, student)
    assert [token_map.spelling(i) for i in range(len(words))] == [[i] for i in range(len(words))]


def test_map_is_kept_by_fingerprints_and_a_torn_file_is_made_again(
    student: PreTrainedTokenizerFast, tmp_path, monkeypatch
):
    words = [b"the", b" cat", None]
    made = build_token_map(words, "teacher", 2, student, tmp_path)
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(TokenMap, "from_spellings", lambda *_: pytest.fail("the kept map was not used"))
        again = build_token_map(words, "teacher", 2, student, tmp_path)
    np.testing.assert_array_equal(made.flat, again.flat)
    kept.write_bytes(kept.read_bytes()[:100])
    torn = build_token_map(words, "teacher", 2, student, tmp_path)
    np.testing.assert_array_equal(made.flat, torn.flat)
    build_token_map(words, "other", 2, student, tmp_path)
    build_token_map([b"the", b" dog", None], "teacher", 2, student, tmp_path)  # a cache that has grown
    assert len(list(tmp_path.iterdir())) == 3


def test_a_large_vocabulary_takes_seconds(student: PreTrainedTokenizerFast):
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 122, rng.integers(1, 9), dtype=np.uint8)) for _ in range(30_000)]
    begin = time.perf_counter()
    token_map = build_token_map(words, "teacher", 0, student)
    assert time.perf_counter() - begin < 30, "Qwen's 151,936 tokens would take minutes"
    assert len(token_map.sizes) == 30_000
