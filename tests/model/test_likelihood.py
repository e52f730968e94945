"""Log-probabilities of given answers, against one plain forward pass each."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from embervlm import EmberVLM
from embervlm.errors import UserError
from embervlm.model.likelihood import log_likelihoods
from embervlm.model.tokenizer import ASSISTANT, IMAGE, PAD, USER
from tests.noisy_student import make_noisy_student

ASKED = [
    (True, "What is it?", "a red ball"),
    (False, "How many are there, and of which colour is the largest?", "2"),
    (True, "Where?", "bottom left, behind the other one"),
    (False, "", "yes"),
]


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    return make_noisy_student()


def images() -> list[Image.Image | None]:
    return [Image.new("RGB", (40, 30), (at * 60, 90, 200)) if shown else None for at, (shown, *_) in enumerate(ASKED)]


def plain(model: EmberVLM, image, question: str, ids: list[int]) -> tuple[float, bool]:
    """Token by token over one row without padding."""
    batch = model.processor.prompts([image], [question])
    frame = model.processor.tokenizer.convert_tokens_to_ids([PAD, IMAGE, USER, ASSISTANT])
    total, greedy = 0.0, True
    for token in ids:
        with torch.no_grad():
            logits = model(**batch, use_cache=False).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        logits[frame] = -torch.inf
        greedy &= int(logits.argmax()) == token
        row = torch.cat([batch["input_ids"], torch.tensor([[token]])], 1)
        batch = {**batch, "input_ids": row, "attention_mask": torch.ones_like(row)}
    return total, greedy


@pytest.mark.parametrize("end", [False, True])
def test_equals_brute_force_in_one_batch_of_different_lengths(model: EmberVLM, end: bool) -> None:
    """Padding, or an answer read one position too early, must not move a score."""
    tokenizer = model.processor.tokenizer
    prompts, answers = [question for _, question, _ in ASKED], [answer for *_, answer in ASKED]
    found = log_likelihoods(model, images(), prompts, answers, end=end)
    for image, prompt, answer, (score, greedy) in zip(images(), prompts, answers, found, strict=True):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * end
        expected = plain(model, image, prompt, ids)
        assert score == pytest.approx(expected[0], abs=1e-3) and greedy == expected[1]


def test_greedy_is_what_generate_says(model: EmberVLM) -> None:
    """`is_greedy` judged over tokens that decoding never says would call no answer greedy."""
    tokenizer = model.processor.tokenizer
    word = tokenizer("ball", add_special_tokens=False)["input_ids"][0]
    head = model.get_output_embeddings()
    before = head.weight.detach().clone()
    with torch.no_grad():  # <|user|> likeliest everywhere, which is never said; then the word
        hidden = model(**model.processor.prompts([None], ["?"]), output_hidden_states=True).hidden_states[-1][0, -1]
        head.weight[word] = 50 * hidden / hidden.norm()
        head.weight[tokenizer.convert_tokens_to_ids(USER)] = 60 * hidden / hidden.norm()
    try:
        said = model.generate(prompt="?", max_length=1)
        assert tokenizer(said, add_special_tokens=False)["input_ids"] == [word]
        assert log_likelihoods(model, [None] * 2, ["?"] * 2, [said, "zebra"])[0][1]
        assert not log_likelihoods(model, [None] * 2, ["?"] * 2, [said, "zebra"])[1][1]
    finally:
        with torch.no_grad():
            head.weight.copy_(before)


def test_names_of_special_tokens_are_text(model: EmberVLM) -> None:
    """An answer "<|endoftext|>" is thirteen letters, not the end of the turn."""
    ((spelled, _),) = log_likelihoods(model, [None], ["?"], ["<|endoftext|>"])
    ids = model.processor.tokenizer("<|endoftext|>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(ids) > 1 and spelled == pytest.approx(plain(model, None, "?", ids)[0], abs=1e-3)


def test_nothing_asked_and_too_long(model: EmberVLM) -> None:
    assert log_likelihoods(model, [], [], []) == []
    with pytest.raises(UserError, match="the model reads"):
        log_likelihoods(model, [None], ["why " * 2000], ["so"])
