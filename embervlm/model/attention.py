"""Where an answer looks: the language model's attention from the words of an answer to the visual tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from embervlm.errors import UserError
from embervlm.tokens import token_bytes

if TYPE_CHECKING:
    from embervlm.model.modeling import EmberVLM

_WORD = re.compile(rb"\S+")


@dataclass(frozen=True)
class Look:
    """Where one word looks, or a whole answer: the mean of its tokens."""

    text: str
    cells: np.ndarray  # float64 [rows, columns], sums to 1: how the attention to the picture is spread over it
    on_picture: float  # of all attention, 0 to 1


@dataclass(frozen=True)
class PictureAttention:
    """Attention from an answer to its picture, a mean over heads and over `layers` of `depth` (counted from 1)."""

    answer: Look
    words: tuple[Look, ...]  # in the order of the answer
    even: float  # what `on_picture` would be if every position that can be seen had the same attention
    layers: tuple[int, int]  # first and last
    depth: int
    covered: float  # how far the grid reaches in each direction, in sides of the picture: at least 1


@torch.inference_mode()
def attention_to_picture(model: EmberVLM, image: Image.Image, prompt: str, ids: Sequence[int]) -> PictureAttention:
    """One more pass over question and answer, which tells what generation does not keep.

    A token's attention is that of the position that chose it, the one before it. Layers of the lower half are left
    out: they mostly mix what stands near each other.

    Args:
        ids: what the model generated, the end included if it came to that.

    Raises:
        UserError: a language model without attention in every layer.
    """
    processor: Any = model.processor
    batch = processor.prompts([image], [prompt])
    start = batch["input_ids"].shape[1]
    read = torch.cat([batch["input_ids"], torch.tensor([list(ids)])], 1)[:, :-1].to(model.device)
    attentions = _attentions(model, read, batch["pixel_values"].to(model.device))
    upper = attentions[len(attentions) // 2 :]
    chosen = torch.stack([layer[0, :, start - 1 :].double().mean(0) for layer in upper]).mean(0)  # [answer, position]
    places = (read[0] == processor.image_token_id).nonzero()[:, 0]
    looks = chosen[:, places].cpu().numpy()
    side = round(len(places) ** 0.5)
    rows = [_look(text, looks[tokens], side) for text, tokens in _words(processor.tokenizer, ids)]
    seen = np.arange(start, start + len(ids))
    return PictureAttention(
        answer=_look(processor.tokenizer.decode(list(ids), skip_special_tokens=True).strip(), looks, side),
        words=tuple(rows),
        even=float((len(places) / seen).mean()),
        layers=(len(attentions) // 2 + 1, len(attentions)),
        depth=len(attentions),
        covered=side * model.vision.stride / model.config.image_size,
    )


def _attentions(model: EmberVLM, ids: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of each layer, [1, heads, L, L]. Only the eager attention tells them."""
    language: Any = model.language_model
    usual = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        found = model(input_ids=ids, pixel_values=pixels, output_attentions=True, use_cache=False).attentions
    finally:
        language.set_attn_implementation(usual)
    if not found or any(layer is None for layer in found):
        raise UserError(
            f"A language model of type '{language.config.model_type}' does not tell the attention of every layer, so "
            "there is nothing to draw; leave --heatmap out."
        )
    return found


def _look(text: str, looks: np.ndarray, side: int) -> Look:
    """Mean over tokens [n, cells]."""
    mean = looks.mean(0)
    total = float(mean.sum())
    spread = mean / total if total > 0 else np.full_like(mean, 1 / len(mean))
    return Look(text, spread.reshape(side, side), total)


def _words(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """What stands between blanks, with the tokens that have a part in it; the end alone where there is no word."""
    table = token_bytes(tokenizer)
    pieces = [table[token] or b"" for token in ids]
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    words = []
    for found in _WORD.finditer(b"".join(pieces)):
        tokens = np.flatnonzero((starts < found.end()) & (ends > found.start())).tolist()
        words.append((found.group().decode(errors="replace"), tokens))
    return words or [("(end)", list(range(len(ids))))]
