"""The likeliest answer of a closed set, against every answer scored by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.evaluate.closed import ClosedAnswerer, build_trie, common_answers
from embervlm.model.modeling import EmberVLM
from tests.noisy_student import make_noisy_student

ANSWERS = ["yes", "no", "two", "two dogs", "two dogs and a cat", "bottom left", "bottom right", "red", "reddish", "12"]


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    return make_noisy_student()  # far from uniform, so that length alone does not decide


def scored(model: EmberVLM, image, question: str, answer: str) -> float:
    """Log-probability of the answer and its end, in one plain forward pass."""
    processor = model.processor
    batch = processor.prompts([image], [question])
    ids = [*processor.tokenizer(answer, add_special_tokens=False)["input_ids"], processor.tokenizer.eos_token_id]
    row = torch.cat([batch["input_ids"], torch.tensor([ids])], 1)
    inputs = {**batch, "input_ids": row, "attention_mask": torch.ones_like(row)}
    with torch.inference_mode():
        logp = model(**inputs, use_cache=False).logits[0].double().log_softmax(-1)
    before = row.shape[1] - len(ids) - 1
    return sum(float(logp[before + step, token]) for step, token in enumerate(ids))


def test_the_likeliest_of_the_set_is_found(model: EmberVLM):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels[0]), Image.fromarray(pixels[1]), None, Image.fromarray(pixels[2])]
    prompts = ["What is it?", "How many dogs are there in the picture on the left?", "Is it?", "Where?"]
    sure = ClosedAnswerer(model, build_trie(model.processor.tokenizer, ANSWERS))
    exact = []
    for image, prompt in zip(images, prompts, strict=True):
        scores = {answer: scored(model, image, prompt, answer) for answer in ANSWERS}
        exact.append(max(scores, key=lambda answer: scores[answer]))
    assert sure.choose(images, prompts) == exact
    alone = [sure.choose([image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
    assert alone == exact  # whatever it is asked together with


def test_the_answer_has_the_highest_score_where_descent_alone_goes_wrong(model: EmberVLM):
    """The likeliest first token may lead to a worse answer."""
    trie = build_trie(model.processor.tokenizer, ANSWERS)
    prompts = [f"What is number {n}?" for n in range(24)]
    found = ClosedAnswerer(model, trie).choose([None] * 24, prompts)
    for prompt, answer in zip(prompts, found, strict=True):
        scores = {other: scored(model, None, prompt, other) for other in ANSWERS}
        assert scores[answer] == pytest.approx(max(scores.values()), abs=1e-4)


def test_the_set_is_the_most_frequent_responses(model: EmberVLM):
    records = [Record(f"{n}", None, "?", answer) for n, answer in enumerate(["no", "yes", "yes", " yes ", "red", "no"])]
    assert common_answers(records, 2) == ["yes", "no"]
    with pytest.raises(UserError, match="empty"):
        build_trie(model.processor.tokenizer, [])
