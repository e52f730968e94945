"""Finding answers in conversations as real templates and tokenizers write them."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from embervlm.errors import UserError
from embervlm.teachers.locate import find_answers, locate
from tests.tiny_teacher import make_tiny_tokenizer


def sentencepiece_like() -> tuple[PreTrainedTokenizerFast, list[bytes | None]]:
    """LLaMA's habit: the blank in front belongs to the word."""
    words = [
        "</s>",
        "<unk>",
        "▁",
        ":",
        "USER",
        "▁USER",
        "▁ASSISTANT",
        "▁red",
        "▁green",
        "red",
        "▁a",
        "?",
        ".\n",
        ".",
        "\n",
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="never"),
            pre_tokenizers.Split(":", "isolated"),
            pre_tokenizers.Split("?", "isolated"),
            pre_tokenizers.Split(".\n", "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    return fast, [None, None, *(word.replace("▁", " ").encode() for word in words[2:])]


def test_answers_are_found_behind_their_prompts():
    rendered = "U: red? A: red<e>U: again? A: red<e>"
    prompts = ["U: red? A:", "U: red? A: red<e>U: again? A:"]
    assert find_answers(rendered, prompts, ["red", "red"]) == [11, 30]


def test_a_template_that_rewrites_history_is_searched_in_order():
    rendered = "[think] red<e> red<e>"
    assert find_answers(rendered, ["U: A:", "U: A: red U: A:"], ["red", "red"]) == [8, 15]


def test_an_answer_that_the_template_changed_is_refused():
    with pytest.raises(UserError, match="does not stand in the conversation"):
        find_answers("U: A: RED", ["U: A:"], ["red"])
    with pytest.raises(UserError, match="does not stand in the conversation"):
        find_answers("U: A: really red", ["U: A:"], ["red"])


def test_the_blank_before_the_first_word_is_not_in_its_span():
    tokenizer, alphabet = sentencepiece_like()
    rendered = "USER: a? ASSISTANT: red green"
    ids, (answer,) = locate(tokenizer, alphabet, rendered, [20], ["red green"], 0, False)
    assert [alphabet[i] for i in answer.ids[:-1]] == [b" red", b" green"]
    assert answer.starts.tolist() == [0, 3, 9] and answer.ends.tolist() == [3, 9, 9]
    assert ids[len(ids) - answer.behind :] == answer.ids[:-1].tolist()


def test_a_token_that_reaches_over_the_end_is_unknown_and_so_is_the_end_of_turn():
    tokenizer, alphabet = sentencepiece_like()
    _, (answer,) = locate(tokenizer, alphabet, "USER: a? ASSISTANT: red.\n", [20], ["red."], 0, False)
    assert [alphabet[i] for i in answer.ids[:-1]] == [b" red", b".\n"]
    assert answer.starts.tolist() == [0, -1, -1] and answer.ends.tolist() == [3, -1, -1]


def test_an_answer_of_unknown_tokens_is_refused():
    tokenizer, alphabet = sentencepiece_like()
    with pytest.raises(UserError, match="cannot be told from their bytes"):
        locate(tokenizer, alphabet, "ASSISTANT: blue", [11], ["blue"], 0, False)


@pytest.mark.parametrize("answer", ["", "red", "東京 😀", "déjà  vu\nred ", "1 2", "é" * 50])
def test_byte_level_tokens_cover_any_text(answer: str):
    from embervlm.tokens import token_bytes

    tokenizer = make_tiny_tokenizer()
    front = "<s>USER: x\nASSISTANT:\n"
    ids, (first, second) = locate(
        tokenizer,
        token_bytes(tokenizer),
        f"{front}{answer}</s>{front}{answer}</s>",
        [len(front), 2 * len(front) + len(answer) + 4],
        [answer, answer],
        tokenizer.eos_token_id,
        False,
    )
    for found in (first, second):
        assert tokenizer.decode(found.ids[:-1]) == answer
        begin = len(ids) - found.behind
        assert ids[begin : begin + len(found.ids)] == found.ids.tolist(), "the end of turn follows at once"
        assert found.ends[-1] == len(answer.encode())
        np.testing.assert_array_equal(found.starts[1:], found.ends[:-1])
