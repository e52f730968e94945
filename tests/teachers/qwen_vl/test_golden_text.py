"""Vocabulary, prompts, pixels and tables against vectors of the reference code that are kept in the repository."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm.errors import UserError
from embervlm.teachers.qwen_vl.language import log_n, ntk_alpha, rotary_tables
from embervlm.teachers.qwen_vl.processing import CHATML, PLAIN, QwenVLProcessor, make_image_processor
from embervlm.teachers.qwen_vl.tokenizer import APART, load_tokenizer
from embervlm.tokens import encode_spans
from tests.teachers.qwen_vl.tiny import HERE, make_model

CASES = json.loads((HERE / "tokenizer_cases.json").read_text())
PROMPTS = {case["name"]: case for case in json.loads((HERE / "chatml_prompts.json").read_text())}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(HERE)


def test_golden_special_tokens(tokenizer):
    special = json.loads((HERE / "special_tokens.json").read_text())
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in special} == special


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"][:20]))
def test_golden_tokenizer(tokenizer, case: dict[str, Any]):
    assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]
    plain = tokenizer(case["text"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert plain == case["ids_no_special"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]
    assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]


def test_spans_lie_over_the_bytes(tokenizer):
    text = "Yes, déjà vu, 東京 😀."
    spans = encode_spans(tokenizer, text)
    assert spans.starts[0] == 0 and spans.ends[-1] == len(text.encode())
    np.testing.assert_array_equal(spans.starts[1:], spans.ends[:-1])


def _messages(case: dict[str, Any]) -> list[dict[str, Any]]:
    def user(query: str) -> dict[str, Any]:
        pictures = query.count("<img>")
        while "<img>" in query:
            query = query.partition("</img>")[2].lstrip("\n")
        return {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": query}]}

    messages: list[dict[str, Any]] = [{"role": "system", "content": case["system"]}]
    for query, answer in case["history"] or []:
        messages += [user(query), {"role": "assistant", "content": answer}]
    return [*messages, user(case["query"])]


def _ids(processor: QwenVLProcessor, messages: list[dict[str, Any]]) -> tuple[str, list[int]]:
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = processor([text])["input_ids"][0]
    assert ids.count(151_859) == ids.count(151_857) * processor.slots
    return text, [token for token in ids if token != 151_859]


@pytest.mark.parametrize("name", ["one_image", "two_images_zh", "multi_turn", "text_only_custom_system", "ref_and_box"])
def test_golden_prompt(tokenizer, name: str):
    """What people type never becomes a control token; <ref> and <box> do."""
    processor = QwenVLProcessor(make_image_processor(448), tokenizer, CHATML)
    assert _ids(processor, _messages(PROMPTS[name]))[1] == PROMPTS[name]["ids_without_slots"]


def test_golden_prompt_has_its_system_message_by_itself(tokenizer):
    processor = QwenVLProcessor(make_image_processor(448), tokenizer, CHATML)
    assert _ids(processor, _messages(PROMPTS["one_image"])[1:])[1] == PROMPTS["one_image"]["ids_without_slots"]


def test_the_base_model_is_asked_without_a_chat(tokenizer):
    processor = QwenVLProcessor(make_image_processor(448), tokenizer, PLAIN)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is <img> it?"}]}
    text, _ = _ids(processor, [turn])
    assert text.replace(APART, "") == "<img><imgpad></img>Is <img> it? Answer:"


def test_golden_pixels_of_a_picture_that_is_not_rgb():
    image = Image.open(HERE / "img2.png")
    assert image.mode == "RGBA"
    pixels = make_image_processor(448)([image.convert("RGB")], return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(pixels[:, ::16, ::16], np.load(HERE / "pixels_img2.npz")["every_16th"])


def test_golden_rotary_and_log_n_tables():
    kept = np.load(HERE / "rope_logn_real_dims.npz")
    positions = torch.from_numpy(kept["positions"]).long()[None]
    for alpha in (1, 3, 7, 15):
        cos, sin = rotary_tables(positions, 128, 10_000.0, torch.tensor([alpha]))
        np.testing.assert_allclose(cos[0], kept[f"cos_alpha{alpha}"].reshape(-1, 128), atol=2e-6)
        np.testing.assert_allclose(sin[0], kept[f"sin_alpha{alpha}"].reshape(-1, 128), atol=2e-6)
    values = log_n(torch.from_numpy(kept["logn_positions"]), 2048)
    np.testing.assert_allclose(values, kept["logn_values"].reshape(-1), atol=2e-6)


def test_golden_ntk_steps():
    lengths = torch.tensor([1, 60, 64, 65, 128, 129, 300])
    assert ntk_alpha(lengths, 64).tolist() == [1, 1, 1, 3, 3, 7, 15]


def test_the_model_says_what_it_said_when_it_agreed_with_the_reference():
    model, kept = make_model(vocabulary=1024, image_start_id=1000), json.loads((HERE / "frozen.json").read_text())
    generator = np.random.default_rng(1)
    pixels = torch.from_numpy(generator.standard_normal((1, 3, 112, 112), dtype=np.float32))
    ids = [7, 8, 1000, *[1002] * 16, 1001, *range(50, 130)]  # longer than 64: NTK and log-n
    with torch.no_grad():
        logits = model(torch.tensor([ids]), pixel_values=pixels).logits[0, ::10, :64:8]
    np.testing.assert_allclose(logits, np.array(kept, dtype=np.float32), atol=2e-4)


def test_a_picture_without_its_place_is_a_sentence():
    model = make_model(vocabulary=1024, image_start_id=1000)
    pixels = torch.zeros(1, 3, 112, 112)
    with pytest.raises(UserError, match="1 pictures and a text with places for 0"):
        model(torch.tensor([[1, 2]]), pixel_values=pixels)
    with pytest.raises(UserError, match="places for 1"):
        model(torch.tensor([[1000, *[1002] * 16, 1001]]))
    with pytest.raises(UserError, match="16 slots"):
        model(torch.tensor([[1000, *[1002] * 15, 1001, 5]]), pixel_values=pixels)
