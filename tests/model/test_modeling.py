"""The conductor: shapes, the loss, the pictures' places, and who gets a gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from embervlm import EmberVLM
from embervlm.distill.loss import LossOptions
from embervlm.distill.targets import Targets
from embervlm.errors import UserError

QUESTIONS = ["What is it?", "Is there a red ball on the table, or a blue one?"]


def labels_for(batch: dict) -> torch.Tensor:
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -3:] = torch.arange(3) + 5
    return labels


def test_logits_of_a_mixed_batch(tiny: EmberVLM, picture: Callable) -> None:
    batch = tiny.processor.prompts([picture(0), None], QUESTIONS)
    logits = tiny(**batch).logits
    assert logits.shape == (*batch["input_ids"].shape, 2053)
    assert torch.allclose(tiny(**batch, logits_to_keep=2).logits, logits[:, -2:], atol=1e-5)
    assert isinstance(tiny(**batch, return_dict=False), tuple)


def test_the_picture_reaches_its_own_row_only(tiny: EmberVLM, picture: Callable) -> None:
    ask = [QUESTIONS[0]] * 3
    first = tiny(**tiny.processor.prompts([picture(0), None, picture(1)], ask)).logits[:, -1]
    second = tiny(**tiny.processor.prompts([picture(0), None, picture(2)], ask)).logits[:, -1]
    moved = (first - second).abs().amax(1)
    assert moved[0] == 0 and moved[1] == 0 and moved[2] > 1e-4


@pytest.mark.parametrize("with_cache", [False, True])
def test_padding_on_the_left_changes_nothing(tiny: EmberVLM, picture: Callable, with_cache: bool) -> None:
    pictures = [picture(0), None]
    batch = tiny.processor.prompts(pictures, QUESTIONS)
    together = tiny(**batch, use_cache=with_cache).logits
    for i in range(2):
        alone = tiny(**tiny.processor.prompts(pictures[i : i + 1], QUESTIONS[i : i + 1])).logits[0]
        assert torch.allclose(together[i, -len(alone) :], alone, atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_logits(tiny: EmberVLM, picture: Callable) -> None:
    batch = tiny.processor.prompts([picture(0), None], QUESTIONS)
    labels = labels_for(batch)
    out = tiny(**batch, shift_labels=labels)
    assert out.logits is None and out.parts.n_labels == 6
    logits = tiny(**batch, shift_labels=labels, return_logits=True).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert torch.allclose(out.loss, expected, atol=1e-5)
    halved = tiny(**batch, shift_labels=labels, num_items_in_batch=12).loss
    assert torch.allclose(halved, expected / 2, atol=1e-5)


def test_targets_follow_the_labelled_positions(tiny: EmberVLM, picture: Callable) -> None:
    """Row i of the targets must meet the i-th labelled position, or the student learns another word's distribution."""
    batch = tiny.processor.prompts([picture(0), None], QUESTIONS)
    labels = labels_for(batch)
    logits = tiny(**batch).logits
    own = logits[labels != -100].softmax(-1)
    probs, ids = own.topk(4)
    targets = Targets(ids, probs, 1 - probs.sum(1), torch.ones(6, dtype=torch.bool))
    parts = tiny(**batch, shift_labels=labels, targets=targets, loss_options=LossOptions(0.3, 0.7, 1.0)).parts
    assert parts.n_targets == 6 and parts.kd.abs() < 1e-5


def test_gradients_flow_to_what_is_trained_and_nowhere_else(
    fresh_tiny: Callable[..., EmberVLM], picture: Callable
) -> None:
    model = fresh_tiny(unfreeze_vision=1).train()
    batch = model.processor.prompts([picture(0), None], QUESTIONS)
    model(**batch, shift_labels=labels_for(batch)).loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    opened = {id(p) for p in model.vision.blocks()[-1].parameters()}
    for p in model.vision.parameters():
        assert p.requires_grad == (id(p) in opened)
    assert all(p.grad.abs().sum() > 0 for p in model.projector.parameters())


def test_a_text_only_batch_leaves_no_parameter_without_gradient(fresh_tiny: Callable[..., EmberVLM]) -> None:
    """One rank with text only would make the others wait for ever."""
    model = fresh_tiny().train()
    batch = model.processor.prompts([None, None], QUESTIONS)
    model(**batch, shift_labels=labels_for(batch)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(not p.grad.any() for p in model.vision.parameters())


def test_a_fully_frozen_tower_with_a_text_only_batch(fresh_tiny: Callable[..., EmberVLM]) -> None:
    model = fresh_tiny(unfreeze_vision=0).train()
    batch = model.processor.prompts([None], ["hi"])
    assert torch.isfinite(model(**batch, shift_labels=labels_for(batch)).loss)


def test_frozen_statistics_do_not_move_in_training(fresh_tiny: Callable[..., EmberVLM], picture: Callable) -> None:
    model = fresh_tiny(unfreeze_vision=0).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = model.processor.prompts([picture(0)], ["hi"])
    model(**batch, shift_labels=labels_for(batch)).loss.backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_pictures_and_places_must_agree(tiny: EmberVLM, picture: Callable) -> None:
    batch = tiny.processor.prompts([picture(0)], ["hi"])
    with pytest.raises(UserError, match="36 <image> tokens, but 2 pictures"):
        tiny(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"].repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="input_ids"):
        tiny(inputs_embeds=torch.zeros(1, 4, 112), pixel_values=batch["pixel_values"])


def test_labels_that_are_not_shifted_are_refused(tiny: EmberVLM) -> None:
    """Shifting happens in one place; a silent second shift would teach "repeat this token"."""
    batch = tiny.processor.prompts([None], ["hi"])
    with pytest.raises(ValueError, match="shift_labels"):
        tiny(**batch, labels=batch["input_ids"])


def test_a_configuration_that_contradicts_its_tower_is_refused(fresh_tiny: Callable[..., EmberVLM]) -> None:
    with pytest.raises(UserError, match="64 visual tokens"):
        fresh_tiny(image_size=128)
    assert fresh_tiny(image_size=128, num_image_tokens=64).processor.num_image_tokens == 64


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
def test_gradient_checkpointing_gives_the_same_gradients(
    fresh_tiny: Callable[..., EmberVLM], picture: Callable
) -> None:
    grads = []
    for checkpointing in (False, True):
        model = fresh_tiny(unfreeze_vision=0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        batch = model.processor.prompts([picture(0)], QUESTIONS[:1])
        model(**batch, shift_labels=labels_for(batch)).loss.backward()
        grads.append(model.projector.widen.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


@pytest.mark.slow
def test_the_default_preset_learns_a_batch_by_heart(picture: Callable) -> None:
    torch.manual_seed(0)
    model = EmberVLM.from_preset("37m").train()
    batch = model.processor.prompts([picture(0), picture(1)], QUESTIONS)
    labels = labels_for(batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch, shift_labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
