"""Every number of the model against the reference code's, on random weights in the published layout.

The vectors (22 MB) lie beside the repository and not in it; see `test_golden_text.py` for what is checked without them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from embervlm.teachers.qwen_vl.configuration import QwenVLConfig
from embervlm.teachers.qwen_vl.modeling import QwenVLForConditionalGeneration
from embervlm.teachers.qwen_vl.tokenizer import load_tokenizer
from embervlm.teachers.qwen_vl.vision import resize_positions
from tests.teachers.qwen_vl.tiny import HERE

GOLDEN = Path(__file__).parents[4] / "shared" / "qwen_vl" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the reference's vectors are not in {GOLDEN}")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def _json(name: str):
    return json.loads((GOLDEN / name).read_text())


def _load(**changes) -> QwenVLForConditionalGeneration:
    config = QwenVLConfig.from_pretrained(GOLDEN, **changes)
    return QwenVLForConditionalGeneration.from_pretrained(GOLDEN, config=config, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model() -> QwenVLForConditionalGeneration:
    return _load()


@pytest.fixture(scope="module")
def short() -> QwenVLForConditionalGeneration:
    """Of a pre-training length of 64."""
    return _load(seq_length=64)


@pytest.fixture(scope="module")
def pixels() -> dict[str, Tensor]:
    kept = np.load(GOLDEN / "pixel_values.npz")
    return {name: torch.from_numpy(kept[name])[None] for name in kept}


def _greedy(model, ids: Tensor, pixel_values: Tensor | None = None, mask: Tensor | None = None, ends=1023):
    with torch.inference_mode():
        told = model.generate(
            ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            pixel_values=pixel_values,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=1023,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return told.sequences[:, ids.shape[1] :], torch.stack(told.logits, 1)


def test_golden_vision(model, pixels):
    kept = load_file(GOLDEN / "visual_out.safetensors")
    with torch.inference_mode():
        for name, values in pixels.items():
            torch.testing.assert_close(model.transformer.visual(values), kept[name], **CLOSE)


def test_golden_vision_step_by_step(model, pixels):
    kept, visual = load_file(GOLDEN / "visual_intermediates_img1.safetensors"), model.transformer.visual
    seen: dict[str, Tensor] = {}

    def watch(name: str):
        return lambda module, args, output: seen.update({name: output, name + " in": args[0]})

    parts = {
        "ln_pre": visual.ln_pre,
        "block": visual.transformer.resblocks[0],
        "blocks": visual.transformer,
        "pool": visual.attn_pool,
        "post": visual.ln_post,
    }
    handles = [part.register_forward_hook(watch(name)) for name, part in parts.items()]
    with torch.inference_mode():
        visual(pixels["img1"])
    for handle in handles:
        handle.remove()
    for name, key in {
        "ln_pre in": "ln_pre_in_BLD",
        "ln_pre": "ln_pre_out_BLD",
        "pool": "attn_pool_out_BQD",
        "post": "ln_post_out_BQD",
    }.items():
        torch.testing.assert_close(seen[name], kept[key], **CLOSE)
    for name, key in {"block": "block0_out_LBD", "blocks": "transformer_out_LBD"}.items():
        torch.testing.assert_close(seen[name].transpose(0, 1), kept[key], **CLOSE)
    for table, key in {
        visual.positional_embedding: "vit_pos_interp_1024",
        visual.attn_pool.pos_embed: "resampler_key_pos_1024",
    }.items():
        torch.testing.assert_close(resize_positions(table.data, 1024), kept[key], atol=2e-6, rtol=0)


def test_golden_vision_of_a_smaller_picture_shrinks_the_positions(model):
    kept = load_file(GOLDEN / "visual_112.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(model.transformer.visual(kept["pixel_values"][None]), kept["visual_out"], **CLOSE)


@pytest.mark.parametrize("name", ["p1_one_image", "p2_two_images", "p3_text"])
def test_golden_logits_and_greedy_answer(model, pixels, name: str):
    told, kept = _json("inputs.json"), load_file(GOLDEN / "lm_out.safetensors")
    ids = torch.tensor([told["prompts"][name]])
    images = [pixels[file.removesuffix(".png")] for file in told["images"][name]]
    stacked = torch.cat(images) if images else None
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, pixel_values=stacked).logits[0], kept[f"{name}.logits"], **CLOSE)
    answer, logits = _greedy(model, ids, stacked)
    assert answer[0].tolist() == kept[f"{name}.gen_ids"].tolist()
    torch.testing.assert_close(logits[0], kept[f"{name}.gen_logits"], **CLOSE)


def test_golden_hidden_states(model, pixels):
    kept, ids = (
        load_file(GOLDEN / "lm_hidden_p1.safetensors"),
        torch.tensor([_json("inputs.json")["prompts"]["p1_one_image"]]),
    )
    seen = []
    handle = model.transformer.h[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        embedded = model.transformer.embed(ids, pixels["img1"])
        last = model.transformer(embedded, None, None)
    handle.remove()
    for number, states in enumerate((embedded, seen[0], last)):
        torch.testing.assert_close(states[0], kept[f"p1.hidden_{number}"], **CLOSE)


@pytest.mark.parametrize("length", [60, 64, 65, 100, 128, 129, 200, 300])
def test_golden_long_context(short, length: int):
    """NTK's steps and log-n, in one pass and while a cache grows over the border."""
    ids = torch.tensor([_json("longctx_seq64_inputs.json")[str(length)]])
    kept = load_file(GOLDEN / "longctx_seq64.safetensors")
    with torch.inference_mode():
        logits = short(ids).logits[0]
    expected = kept.get(f"len{length}.logits", kept.get(f"len{length}.last_logits"))
    torch.testing.assert_close(logits[-len(expected) :], expected, **CLOSE)
    if f"len{length}.gen_ids" in kept:
        answer, logits = _greedy(short, ids)
        assert answer[0].tolist() == kept[f"len{length}.gen_ids"].tolist()
        torch.testing.assert_close(logits[0], kept[f"len{length}.gen_logits"], **CLOSE)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("no_logn", {"use_logn_attn": False}),
        ("no_ntk", {"use_dynamic_ntk": False}),
        ("neither", {"use_logn_attn": False, "use_dynamic_ntk": False}),
    ],
)
def test_golden_long_context_without(name: str, changes: dict[str, bool]):
    other, ids = _load(seq_length=64, **changes), torch.tensor([_json("longctx_seq64_inputs.json")["200"]])
    expected = load_file(GOLDEN / "longctx_seq64.safetensors")[f"len200.{name}.last_logits"]
    with torch.inference_mode():
        torch.testing.assert_close(other(ids).logits[0, -4:], expected, **CLOSE)


def test_golden_training_mode_has_neither(short):
    ids = torch.tensor([_json("longctx_seq64_inputs.json")["200"]])
    expected = load_file(GOLDEN / "longctx_seq64.safetensors")["len200.neither.last_logits"]
    short.train()
    with torch.no_grad():
        logits = short(ids).logits[0, -4:]
    short.eval()
    torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("name", ["text", "images"])
def test_golden_batches_padded_on_the_left(model, pixels, name: str):
    kept = load_file(GOLDEN / "batch_leftpad.safetensors")
    ids, mask = kept[f"{name}.input_ids"], kept[f"{name}.attention_mask"]
    told = _json("inputs.json")
    order = [file for row in ("p1_one_image", "p2_two_images") for file in told["images"][row]]
    images = torch.cat([pixels[file.removesuffix(".png")] for file in order]) if name == "images" else None
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask, pixel_values=images).logits
    torch.testing.assert_close(logits[:, -16:], kept[f"{name}.last16_logits"], **CLOSE)
    answer, _ = _greedy(model, ids, images, mask)
    assert answer.tolist() == kept[f"{name}.gen_ids"].tolist()


def test_a_row_is_the_same_in_a_longer_batch(short):
    """Also beyond the pre-training's length, where the reference counts padding as text."""
    ids = _json("longctx_seq64_inputs.json")
    rows = [torch.tensor(ids[length]) for length in ("60", "200")]
    right, mask = torch.zeros(2, 200, dtype=torch.long), torch.zeros(2, 200, dtype=torch.long)
    for number, row in enumerate(rows):
        right[number, : len(row)], mask[number, : len(row)] = row, 1
    with torch.inference_mode():
        together = short(right, attention_mask=mask).logits
        for number, row in enumerate(rows):
            torch.testing.assert_close(together[number, : len(row)], short(row[None]).logits[0], **CLOSE)


def test_several_tokens_continue_a_cache(model):
    """The reference cannot; scoring answers behind a common prompt needs it."""
    ids, cache = torch.tensor([_json("inputs.json")["prompts"]["p3_text"]]), DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids[:, :25], cache=cache, use_cache=True)
        rest = model(ids[:, 25:], cache=cache, use_cache=True).logits
        torch.testing.assert_close(rest, model(ids).logits[:, 25:], **CLOSE)


def _whole_vocabulary(model, rows: int = 151_936) -> QwenVLForConditionalGeneration:
    """The rule by which the reference's vectors for the real vocabulary were made (chat_fullvocab.json)."""
    state = model.state_dict()
    number = torch.arange(rows)
    state["transformer.wte.weight"] = state["transformer.wte.weight"][number % 1024]
    fading = ((256 - number // 1024) / 256).float()[:, None]
    state["lm_head.weight"] = state["lm_head.weight"][number % 1024] * fading
    visual = model.config.visual | {"image_start_id": 151_857}
    config = QwenVLConfig.from_pretrained(GOLDEN, vocab_size=rows, visual=visual)
    whole = QwenVLForConditionalGeneration(config)
    whole.load_state_dict(state)
    return whole.eval()


def test_golden_chat_with_the_real_vocabulary(model, pixels):
    """Prompt to answer. The reference needs one more token to stop, and drops the last one where it does not."""
    tokenizer, kept, told = (
        load_tokenizer(HERE),
        load_file(GOLDEN / "chat_fullvocab.safetensors"),
        _json("chat_fullvocab.json"),
    )
    prompts = {case["name"]: case for case in _json("chatml_prompts.json")}
    whole, ends = _whole_vocabulary(model), [151_645, 151_644, 151_643]
    for case in told["cases"]:
        name = case["name"]
        if name == "chat_stop_at_im_end":
            whole.lm_head.weight.data[151_645] = kept["stop_row_151645"]
        ids = torch.tensor([prompts[case["prompt"]]["ids"]])
        images = pixels["img1"] if 151_857 in ids else None
        with torch.inference_mode():
            logits = whole(ids, pixel_values=images).logits[0]
        torch.testing.assert_close(logits[:, kept["columns"].long()], kept[f"{name}.logits_at_columns"], **CLOSE)
        torch.testing.assert_close(logits.logsumexp(-1), kept[f"{name}.logsumexp"], **CLOSE)
        answer = _greedy(whole, ids, images, ends=ends)[0][0].tolist()
        stopped = answer[-1] in ends
        assert answer == case["new_ids"][: len(answer)] and len(answer) == len(case["new_ids"]) - stopped
        assert tokenizer.decode(answer[:-1]).strip() == case["response"]


def test_golden_names_and_shapes_of_the_real_checkpoint():
    """853 tensors, 9,656,935,168 numbers, on the meta device."""
    real = _json("real_checkpoint_tensors.json")
    with torch.device("meta"):
        ours = QwenVLForConditionalGeneration(QwenVLConfig()).state_dict()
    assert {name: list(value.shape) for name, value in ours.items()} == {
        name: tensor["shape"] for name, tensor in real["tensors"].items()
    }
    assert 2 * sum(value.numel() for value in ours.values()) == real["total_size"]


def test_golden_half_precision(pixels):
    """bf16 as in the published files: near the reference's fp32 by the same distance as its own bf16."""
    half = QwenVLForConditionalGeneration.from_pretrained(GOLDEN, dtype=torch.bfloat16).eval()
    ids = torch.tensor([_json("inputs.json")["prompts"]["p1_one_image"]])
    expected = load_file(GOLDEN / "lm_out.safetensors")["p1_one_image.logits"][-32:]
    with torch.inference_mode():
        logits = half(ids, pixel_values=pixels["img1"]).logits[0, -32:].float()
    assert (logits - expected).pow(2).mean().sqrt() < 2 * 0.027  # the reference's: 0.027
