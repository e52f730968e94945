"""`generate(image=..., prompt=...)` as the guide writes it, beside transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from embervlm import EmberVLM
from embervlm.errors import UserError

QUESTIONS = ["What is it?", "Is there a red ball on the table, or a blue one?", "How many?"]


def test_one_picture_and_one_prompt_give_one_text(tiny: EmberVLM, picture: Callable, tmp_path: Path) -> None:
    image = picture(0)
    image.save(tmp_path / "p.png")
    answers = [
        tiny.generate(image=kind, prompt=QUESTIONS[0], max_length=6)
        for kind in (image, np.asarray(image), str(tmp_path / "p.png"), tmp_path / "p.png")
    ]
    assert isinstance(answers[0], str) and answers[0] and len(set(answers)) == 1
    assert len(tiny.processor.tokenizer(answers[0])["input_ids"]) <= 6, "max_length counts new tokens"


def test_lists_in_lists_out_equal_to_single_answers(tiny: EmberVLM, picture: Callable) -> None:
    """Rows of different lengths are padded; the padding must not change an answer."""
    images = [picture(0), None, picture(1)]
    together = tiny.generate(image=images, prompt=QUESTIONS, max_length=8)
    alone = [tiny.generate(image=i, prompt=q, max_length=8) for i, q in zip(images, QUESTIONS, strict=True)]
    assert together == alone


def test_one_of_the_two_serves_a_list_of_the_other(tiny: EmberVLM, picture: Callable) -> None:
    image = picture(0)
    assert tiny.generate(image=image, prompt=QUESTIONS, max_length=3) == tiny.generate(
        image=[image] * 3, prompt=QUESTIONS, max_length=3
    )
    assert len(tiny.generate(image=[image, None], prompt="What?", max_length=3)) == 2
    assert tiny.generate(image=None, prompt=[], max_length=3) == []
    with pytest.raises(UserError, match="2 pictures came with 3 prompts"):
        tiny.generate(image=[image, None], prompt=QUESTIONS)
    with pytest.raises(UserError, match="NoneType"):
        tiny.generate(image=image)


def test_sampling_and_beams_pass_through(tiny: EmberVLM, picture: Callable) -> None:
    images = [picture(0), None]
    torch.manual_seed(0)
    sampled = [
        tiny.generate(image=images[0], prompt="a", max_length=6, do_sample=True, temperature=2.0, top_p=0.95)
        for _ in range(4)
    ]
    assert len(set(sampled)) > 1
    beams = tiny.generate(image=images, prompt=QUESTIONS[:2], max_length=4, num_beams=3)
    assert beams == [
        tiny.generate(image=i, prompt=q, max_length=4, num_beams=3) for i, q in zip(images, QUESTIONS[:2], strict=True)
    ]
    several = tiny.generate(image=images, prompt="a", max_length=4, num_beams=3, num_return_sequences=2)
    assert [len(answers) for answers in several] == [2, 2]


def test_it_stops_at_the_end_of_the_positions(tiny: EmberVLM, picture: Callable) -> None:
    """A learned position table has no row beyond its end: an index error in the middle of an answer."""
    text = tiny.generate(image=picture(0), prompt="What?", max_length=10_000)
    assert len(tiny.processor.tokenizer(text)["input_ids"]) <= 256
    with pytest.raises(UserError, match="the model reads 256"):
        tiny.generate(image=None, prompt="word " * 300)


def force(model: EmberVLM, token: str) -> Callable[..., torch.Tensor]:
    """A logits processor that wants nothing but this token from the third step on."""
    steps = []

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps.append(ids)
        if len(steps) > 2:
            scores[:, model.processor.tokenizer.convert_tokens_to_ids(token)] += 1e4
        return scores

    processor.steps = steps
    return processor


def test_an_answer_ends_with_its_turn(tiny: EmberVLM) -> None:
    wish = force(tiny, "<|endoftext|>")
    tiny.generate(prompt="hi", max_length=9, logits_processor=[wish])
    assert len(wish.steps) == 3


@pytest.mark.parametrize("token", ["<|user|>", "<|assistant|>", "<image>", "<|pad|>"])
def test_no_control_token_is_said_inside_an_answer(tiny: EmberVLM, token: str) -> None:
    """Decoding drops them, so words would be glued together, or a second conversation would look like an answer."""
    wish = force(tiny, token)
    tiny.generate(prompt="hi", max_length=6, logits_processor=[wish])
    assert tiny.processor.tokenizer.convert_tokens_to_ids(token) not in wish.steps[-1][0, -5:]


def test_training_mode_comes_back(fresh_tiny: Callable[..., EmberVLM]) -> None:
    model = fresh_tiny(unfreeze_vision=0).train()
    model.generate(prompt="hi", max_length=2)
    assert model.training and not model.vision.blocks()[0].training


def test_ordinary_generate_still_works(tiny: EmberVLM, picture: Callable) -> None:
    batch = tiny.processor.prompts([picture(0), None], QUESTIONS[:2])
    made = tiny.generate(**batch, max_new_tokens=5, do_sample=False)
    length = batch["input_ids"].shape[1]
    assert made.shape[0] == 2 and length < made.shape[1] <= length + 5
    assert torch.equal(
        tiny.generate(batch["input_ids"][1:], attention_mask=batch["attention_mask"][1:], max_new_tokens=1)[:, :-1],
        batch["input_ids"][1:],
    )
    by_hand = tiny(**batch).logits[:, -1].argmax(-1)
    assert torch.equal(made[:, length], by_hand)


def test_without_a_processor_it_says_so(fresh_tiny: Callable[..., EmberVLM]) -> None:
    model = fresh_tiny()
    model.processor = None
    with pytest.raises(UserError, match="no processor"):
        model.generate(prompt="hi")
