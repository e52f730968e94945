"""A beginning that many rows share is read once: its keys and values serve the rows that follow it.

VQA-v2 asks 5.4 questions of a picture, and of LLaVA-1.5's 630 tokens a question all but 20 are the picture's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from embervlm.teachers.read_out import head_at


class CannotShare(Exception):
    """The model keeps something else than keys and values of every token, or the picture is not in the beginning."""


class _SharedLayer(DynamicLayer):
    """Keys and values of G beginnings, laid out for R rows when a layer asks and dropped when it has answered: kept for
    each row of every layer they would be larger than the model."""

    def __init__(self, layer: Any, owners: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values, self.owners = layer.keys, layer.values, owners.to(layer.keys.device)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        keys, values = self.keys[self.owners], self.values[self.owners]
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


@dataclass(frozen=True)
class Prefix:
    """Beginnings of R rows, as the model has read them."""

    length: int
    cache: Cache
    shifts: Tensor | None  # [R, 1], where M-RoPE goes on counting, less `length`

    def follow(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """Keywords of the model for what follows, [R, S] each, padded on the right."""
        rows, length = input_ids.shape
        before = torch.ones(rows, self.length, dtype=attention_mask.dtype, device=attention_mask.device)
        positions = torch.arange(self.length, self.length + length, device=input_ids.device).expand(rows, -1)
        if self.shifts is not None:
            positions = (positions + self.shifts.to(positions.device)).expand(3, -1, -1)
        return {
            "input_ids": input_ids,
            "attention_mask": torch.cat([before, attention_mask], 1),
            "position_ids": positions,
            "cache": self.cache,
        }


def read_prefix(model: Any, inputs: dict[str, Any], owners: list[int]) -> Prefix:
    """Read beginnings of equal length.

    Args:
        inputs: keywords of the model: `input_ids` [G, P], their pictures, ...
        owners: [R], which of them each row follows.

    Raises:
        CannotShare: the model has layers that are not growing keys and values.
    """
    with torch.inference_mode(), head_at(model, [(0, 0)], tuple(inputs["input_ids"].shape)):
        cache = model(**inputs, use_cache=True).cache
    layers = getattr(cache, "layers", None)
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        raise CannotShare(f"{type(model).__name__} keeps more than keys and values")
    places = torch.tensor(owners)
    shifts = [module.rope_deltas for module in model.modules() if getattr(module, "rope_deltas", None) is not None]
    return Prefix(
        inputs["input_ids"].shape[1],
        Cache(layers=[_SharedLayer(layer, places) for layer in layers]),
        shifts[0][places.to(shifts[0].device)] if shifts else None,
    )


def prefix_reach(config: Any) -> float:
    """Longest row that may share a beginning: beyond it what a token reads, or how positions are turned, depends on the
    length of the whole."""
    text = config.get_text_config()
    bounds = [float("inf")]
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        bounds.append(text.sliding_window)
    rope = getattr(text, "rope_parameters", None) or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if one.get("rope_type") in ("dynamic", "longrope"):
            bounds.append(one.get("original_max_position_embeddings") or text.max_position_embeddings)
    if getattr(text, "use_dynamic_ntk", False):
        bounds.append(text.seq_length)  # Qwen-VL's own
    return min(bounds)
