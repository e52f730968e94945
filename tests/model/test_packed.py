"""Every attention must let the same positions see each other: a wrong mask trains on, and nobody notices."""

import pytest
import torch
from transformers import AutoConfig

from embervlm.errors import UserError
from embervlm.model.language import build_language_model
from embervlm.model.modeling import EmberVLM
from embervlm.model.packed import PACKED_SDPA, attend_in_pieces, attention_inputs, block_mask, cut, visible

# Two rows: a picture (2 positions) with samples of 3 and 1, a text, padding; a text, a picture with one sample.
GROUPS = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, -1, -1], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]])
SEGMENTS = torch.tensor([[0, 0, 1, 1, 1, 2, 1, 1, -1, -1], [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]])
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 2, 0, 1, 0, 0], [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]])
ALONE = [(0, [0, 1, 2, 3, 4]), (0, [0, 1, 5]), (0, [6, 7]), (1, [0, 1, 2]), (1, [3, 4, 5, 6, 7, 8, 9])]
"""Row and places of each sample as it would stand in a row of its own."""


def model_of(kind: str) -> torch.nn.Module:
    small = {"vocab_size": 50, "pad_token_id": 0}
    if kind == "gpt2":
        config = AutoConfig.for_model("gpt2", n_layer=2, n_embd=32, n_head=4, n_positions=16, attn_pdrop=0.0,
                                      resid_pdrop=0.0, embd_pdrop=0.0, **small)  # fmt: skip
    else:  # rotary positions, fewer key heads, each as wide as flex attention asks for
        config = AutoConfig.for_model(
            "llama", num_hidden_layers=2, hidden_size=32, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=48, max_position_embeddings=16, **small,
        )  # fmt: skip
    torch.manual_seed(0)
    model = build_language_model(config)
    attend_in_pieces(model)
    return model


def test_who_sees_whom() -> None:
    expected = [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert visible(GROUPS, SEGMENTS)[0, 0].int().tolist() == expected


def test_pieces_are_the_groups_and_only_those_with_several_samples_need_a_mask() -> None:
    pieces = cut(GROUPS, SEGMENTS)
    assert pieces.lengths == [6, 2, 2, 3, 7]
    assert pieces.padding == [False, False, True, False, False]
    assert [mask is not None for mask in pieces.masks] == [True, False, False, False, False]
    assert torch.equal(pieces.masks[0], visible(GROUPS, SEGMENTS)[0, 0, :6, :6])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("way", [PACKED_SDPA, "sdpa", "eager"])
def test_hidden_states_and_gradients_are_those_of_each_sample_alone(kind: str, way: str) -> None:
    model = model_of(kind)
    assert model.config._attn_implementation == PACKED_SDPA
    model.set_attn_implementation(way)
    embeds = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(1))
    embeds[0, [8, 9]] = 1e3  # padding that is seen would show
    embeds.requires_grad_()

    def run(inputs: torch.Tensor, **seen: object) -> torch.Tensor:
        return model.base_model(inputs_embeds=inputs, use_cache=False, **seen).last_hidden_state

    together = run(embeds, position_ids=POSITIONS, **attention_inputs(model, GROUPS, SEGMENTS, embeds.dtype))
    packed, apart = 0.0, 0.0
    for row, places in ALONE:
        own = run(embeds[row : row + 1, places])[0]
        assert torch.allclose(together[row, places], own, atol=1e-5)
        packed, apart = packed + together[row, places].sin().sum(), apart + own.sin().sum()
    wanted = [*model.parameters(), embeds]
    found = torch.autograd.grad(packed, wanted, allow_unused=True)
    expected = torch.autograd.grad(apart, wanted, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_block_mask_of_flex_attention_lets_the_same_positions_through() -> None:
    row, query, key = torch.meshgrid(torch.arange(2), torch.arange(10), torch.arange(10), indexing="ij")
    mask = block_mask(GROUPS, SEGMENTS)
    assert torch.equal(mask.mask_mod(row, torch.zeros_like(row), query, key), visible(GROUPS, SEGMENTS)[:, 0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has a backward pass on a GPU only")
def test_flex_attention_on_a_gpu_gives_the_same_hidden_states_and_gradients() -> None:
    found = []
    for way in ("sdpa", "flex_attention"):
        model = model_of("llama").cuda()  # transformers' GPT-2 knows no flex attention
        model.set_attn_implementation(way)
        embeds = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(1)).cuda().requires_grad_()
        seen = attention_inputs(model, GROUPS.cuda(), SEGMENTS.cuda(), embeds.dtype)
        hidden = model.base_model(inputs_embeds=embeds, position_ids=POSITIONS.cuda(), use_cache=False, **seen)
        hidden = hidden.last_hidden_state[GROUPS.cuda() >= 0]
        hidden.sin().sum().backward()
        found.append((hidden.detach(), embeds.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
def test_layers_that_are_computed_again_see_the_same(fresh_tiny) -> None:
    """Gradient checkpointing calls the attention once more during the backward pass."""
    grads = []
    for checkpointing in (False, True):
        model = fresh_tiny().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        ids = torch.full((2, 10), 7)
        model(
            input_ids=ids, position_ids=POSITIONS, groups=GROUPS, segments=SEGMENTS, shift_labels=ids, use_cache=False
        ).loss.backward()
        grads.append(model.language_model.get_input_embeddings().weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_an_attention_that_loses_the_pieces_on_the_way_fails_aloud() -> None:
    model = model_of("gpt2")
    seen = attention_inputs(model, GROUPS, SEGMENTS, torch.float32)
    del seen["packed"]
    with pytest.raises(RuntimeError, match="attn_mask"):
        model.base_model(inputs_embeds=torch.randn(2, 10, 32), position_ids=POSITIONS, **seen)


def test_what_cannot_read_packed_rows_says_so() -> None:
    model = model_of("gpt2")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="'flash_attention_2' knows no packed rows.*--no_pack"):
        attention_inputs(model, GROUPS, SEGMENTS, torch.float32)
    mamba = build_language_model(AutoConfig.for_model("mamba", vocab_size=50, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(UserError, match="'mamba' counts its positions itself"):
        attention_inputs(mamba, GROUPS, SEGMENTS, torch.float32)


def test_a_loaded_student_attends_in_pieces_and_saves_no_trace_of_it(tiny: EmberVLM, tmp_path) -> None:
    tiny.save_pretrained(tmp_path)
    assert PACKED_SDPA not in (tmp_path / "config.json").read_text()
    loaded = EmberVLM.from_pretrained(tmp_path)
    assert loaded.language_model.config._attn_implementation == PACKED_SDPA
    eager = EmberVLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.language_model.config._attn_implementation == "eager"
