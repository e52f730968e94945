"""Attention over packed rows: a position sees its group's shared start and what came before it in its own segment.

Rows are described by two int64 tensors [B, L]: `groups` (0, 1, ... in the row; -1 = padding) and `segments` (0 for the
shared start of a group, 1, 2, ... for what follows it). Each attention of transformers is told in its own way: SDPA by
a bool mask, eager by an additive one, flex by a block mask. A mask over a whole row costs more than all that it lets
through, so on a CPU `PACKED_SDPA` goes group by group instead (docs/packing.md has the figures).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from embervlm.errors import UserError

SHARED, PADDING = 0, -1
PACKED_SDPA = "packed_sdpa"
"""Name in transformers' AttentionInterface: SDPA that also takes `Pieces`."""


@dataclass(frozen=True)
class Pieces:
    """The rows of a batch one after the other, cut into groups and padding."""

    lengths: list[int]  # sum = B * L
    masks: list[Tensor | None]  # bool [n, n], who sees whom in a group; None: plainly causal
    padding: list[bool]


def attend_in_pieces(model: PreTrainedModel) -> None:
    """Let a language model that would use SDPA take `Pieces`, too."""
    if model.config._attn_implementation == "sdpa" and model._supports_attention_backend:
        model.set_attn_implementation(PACKED_SDPA)


def attention_inputs(model: PreTrainedModel, groups: Tensor, segments: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What the language model's forward must be given so that it attends as `groups` and `segments` say.

    Raises:
        UserError: its attention, or its way to count positions, knows no packed rows.
    """
    way = model.config._attn_implementation
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise UserError(
            f"A language model of type '{model.config.model_type}' counts its positions itself and cannot read packed "
            "rows; turn packing off (--no_pack)."
        )
    if way == PACKED_SDPA and groups.device.type == "cpu":
        # No ordinary attention takes an integer mask: a layer that loses `packed` on the way raises.
        return {"attention_mask": segments[:, None, None], "packed": cut(groups, segments)}
    if way in (PACKED_SDPA, "sdpa"):
        return {"attention_mask": visible(groups, segments)}
    if way == "eager":
        hidden = ~visible(groups, segments)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return {"attention_mask": mask.masked_fill_(hidden, torch.finfo(dtype).min)}
    if way == "flex_attention":
        return {"attention_mask": block_mask(groups, segments)}
    raise UserError(
        f"The attention '{way}' knows no packed rows; choose sdpa, eager or flex_attention, or turn packing off "
        "(--no_pack)."
    )


def visible(groups: Tensor, segments: Tensor) -> Tensor:
    """Which positions see which: bool [B, 1, L, L]."""
    same_group = groups[:, :, None] == groups[:, None]
    same_segment = segments[:, :, None] == segments[:, None]
    # Padding sees padding, since a softmax over nothing is NaN.
    return (same_group & (same_segment | (segments[:, None] == SHARED))).tril()[:, None]


def block_mask(groups: Tensor, segments: Tensor) -> BlockMask:
    """The same for flex attention, as the blocks of 128 x 128 that hold anything."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (segments[row, query] == segments[row, key]) | (segments[row, key] == SHARED)
        return (query >= key) & (groups[row, query] == groups[row, key]) & same

    rows, length = groups.shape
    return create_block_mask(sees, rows, None, length, length, device=str(groups.device))


def cut(groups: Tensor, segments: Tensor) -> Pieces:
    """Groups and padding of all rows, in order; with a mask where a group has more than one segment after its start."""
    rows = torch.arange(len(groups))[:, None].expand_as(groups)
    _, counts = torch.stack([rows, groups]).flatten(1).unique_consecutive(dim=1, return_counts=True)
    lengths = counts.tolist()
    masks: list[Tensor | None] = []
    padding = []
    for group, segment in zip(groups.flatten().split(lengths), segments.flatten().split(lengths), strict=True):
        padding.append(bool(group[0] == PADDING))
        plain = padding[-1] or bool(segment.max() <= SHARED + 1)
        masks.append(None if plain else visible(group[None], segment[None])[0, 0])
    return Pieces(lengths, masks, padding)


def packed_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Pieces | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: SDPA, with `packed` on each piece by itself.

    Args:
        query, key, value: [B, H or fewer heads, L, d].

    Returns:
        [B, L, H, d]
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, heads, length, _ = query.shape
    # Views throughout: gathering the pieces into one padded batch costs as much as the attention itself.
    parts = zip(*(_in_a_line(part).split(packed.lengths, dim=2) for part in (query, key, value)), strict=True)
    outputs = []
    for (q, k, v), mask, is_padding in zip(parts, packed.masks, packed.padding, strict=True):
        if is_padding:
            outputs.append(torch.zeros_like(q).transpose(1, 2))
        else:
            outputs.append(sdpa_attention_forward(module, q, k, v, mask, **{**kwargs, "is_causal": mask is None})[0])
    return torch.cat(outputs, 1).view(rows, length, heads, -1), None


def _in_a_line(part: Tensor) -> Tensor:
    """[B, H, L, d] -> [1, H, B * L, d]"""
    return part.transpose(1, 2).flatten(0, 1)[None].transpose(1, 2)


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
