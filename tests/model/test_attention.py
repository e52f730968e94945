"""Where an answer looks: read from the right positions, and put to the right place of the picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm import EmberVLM
from embervlm.model.attention import attention_to_picture
from embervlm.model.heatmap import spread, times_even

QUESTION = "What is in the picture?"
FIRST = 1  # <|user|> stands before the visual tokens


def force(model: EmberVLM, position: int) -> EmberVLM:
    """Real attention of real weights: whatever is asked, only the key of this position answers."""
    with torch.no_grad():
        body = model.language_model.transformer
        width = body.config.n_embd
        body.wpe.weight.zero_()
        body.wpe.weight[position, 0] = 1e3
        for block in body.h:
            block.attn.c_attn.weight[:, : 2 * width] = 0
            block.attn.c_attn.bias[: 2 * width] = 0
            block.attn.c_attn.bias[:width] = 10  # every query is the same
            block.attn.c_attn.weight[0, width : 2 * width] = 10  # a key is how much of direction 0 its position has
    return model


@pytest.mark.parametrize("token", [0, 5, 8, 21, 30, 35])
@pytest.mark.parametrize("size", [(240, 96), (50, 333), (96, 96)])
def test_the_hottest_place_is_the_tokens_own(
    fresh_tiny: Callable[..., EmberVLM], token: int, size: tuple[int, int]
) -> None:
    """A map that is transposed, shifted or stretched looks as convincing as the right one."""
    model = force(fresh_tiny(), FIRST + token)
    ids = model.processor.tokenizer("a red ball.")["input_ids"]
    found = attention_to_picture(model, Image.new("RGB", size), QUESTION, ids)
    assert [look.text for look in found.words] == ["a", "red", "ball."]
    row, column = divmod(token, 6)
    for look in (found.answer, *found.words):
        assert look.on_picture == pytest.approx(1, abs=1e-3)
        field = spread(times_even(look, found), size, found.covered)
        assert field.shape == (size[1], size[0])
        y, x = (np.argwhere(field == field.max()) + 0.5).mean(0)  # at an edge it stays as hot up to the edge
        assert column / 6 <= x / size[0] <= (column + 1) / 6
        assert row / 6 <= y / size[1] <= (row + 1) / 6
        elsewhere = field.copy()
        elsewhere[int(row * size[1] / 6) : -(-(row + 1) * size[1] // 6)] = 0
        assert elsewhere.max() < field.max(), "no other row is as hot"


def test_a_words_attention_is_that_of_the_positions_which_chose_it(tiny: EmberVLM, picture: Callable) -> None:
    """One position later is the attention of whoever has read the word already."""
    image, tokenizer = picture(0), tiny.processor.tokenizer
    ids = [*tokenizer("two turquoise stars")["input_ids"], tokenizer.eos_token_id]
    found = attention_to_picture(tiny, image, QUESTION, ids)
    batch = tiny.processor.prompts([image], [QUESTION])
    start = batch["input_ids"].shape[1]
    other = EmberVLM.from_preset("tiny")
    other.load_state_dict(tiny.state_dict())
    other.eval().language_model.set_attn_implementation("eager")
    with torch.inference_mode():
        whole = torch.cat([batch["input_ids"], torch.tensor([ids])], 1)
        layers = other(input_ids=whole, pixel_values=batch["pixel_values"], output_attentions=True).attentions
    assert (found.layers, found.depth) == ((3, 4), len(layers))
    mean = torch.stack([layer[0].double().mean(0) for layer in layers[2:]]).mean(0)[:, FIRST : FIRST + 36].numpy()
    pieces = [tokenizer.decode([token]) for token in ids]
    starts = [at for at, piece in enumerate(pieces) if piece.startswith(" ")]
    second = list(range(starts[0], starts[1]))
    expected = mean[[start - 1 + at for at in second]].mean(0)
    assert [look.text for look in found.words] == ["two", "turquoise", "stars"] and len(second) > 1
    assert found.words[1].on_picture == pytest.approx(expected.sum(), rel=1e-5)
    assert found.words[1].cells.ravel() == pytest.approx(expected / expected.sum(), rel=1e-5)
    assert found.answer.cells.sum() == pytest.approx(1)


def test_an_even_attention_is_one_everywhere(fresh_tiny: Callable[..., EmberVLM], picture: Callable) -> None:
    """The scale of the picture: "times an even share" must be 1 where nobody looks anywhere in particular."""
    model = fresh_tiny()
    with torch.no_grad():
        for block in model.language_model.transformer.h:
            width = block.attn.c_attn.weight.shape[0]
            block.attn.c_attn.weight[:, : 2 * width] = 0
            block.attn.c_attn.bias[: 2 * width] = 0
    found = attention_to_picture(model, picture(0), QUESTION, model.processor.tokenizer("a b c")["input_ids"])
    assert found.answer.on_picture == pytest.approx(found.even)
    assert times_even(found.answer, found) == pytest.approx(np.ones((6, 6)), rel=1e-5)


def test_the_model_is_left_as_it_was(tiny: EmberVLM, picture: Callable) -> None:
    """An attention that stays eager would make every later answer slower, and packed rows impossible."""
    before = tiny.language_model.config._attn_implementation
    answer = tiny.generate(image=picture(0), prompt=QUESTION, max_length=4)
    attention_to_picture(tiny, picture(0), QUESTION, [5, 6])
    assert tiny.language_model.config._attn_implementation == before
    assert tiny.generate(image=picture(0), prompt=QUESTION, max_length=4) == answer


def test_an_answer_of_nothing_but_its_end(tiny: EmberVLM, picture: Callable) -> None:
    found = attention_to_picture(tiny, picture(0), QUESTION, [tiny.processor.tokenizer.eos_token_id])
    assert [look.text for look in found.words] == ["(end)"] and found.answer.text == ""
