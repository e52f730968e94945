"""From a model to what is kept of it: logits at the answers' positions only, reduced on the device in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embervlm.errors import UserError
from embervlm.teachers.outputs import TEMPERATURE_GRID

POSITIONS_AT_ONCE = 256
"""Positions whose logits are turned into fp32 log-probabilities together."""


def read_out(
    model: Any, inputs: dict[str, Any], places: Sequence[tuple[int, int]], realised: np.ndarray, top_k: int
) -> dict[str, np.ndarray]:
    """One forward pass; of `places`, pairs of row and position, the columns of TeacherOutputs.

    Args:
        inputs: keywords of the model, `input_ids` [B, L] among them.
        realised: int [N], the token that follows each place.

    Raises:
        UserError: a model whose output head is not to be found, or whose hidden states are not one a token.
    """
    with torch.inference_mode(), head_at(model, places, tuple(inputs["input_ids"].shape)):
        logits = model(**inputs).logits[0]
        target = torch.from_numpy(realised).long().to(logits.device)[:, None]
        parts: dict[str, list[Tensor]] = {
            key: [] for key in ("top_ids", "top_logprobs", "log_normalisers", "realised_logprobs")
        }
        for start in range(0, len(logits), POSITIONS_AT_ONCE):
            logp = logits[start : start + POSITIONS_AT_ONCE].float().log_softmax(-1)
            top = logp.topk(min(top_k, logp.shape[-1]), dim=-1)
            parts["top_ids"].append(top.indices.int())
            parts["top_logprobs"].append(top.values)
            parts["realised_logprobs"].append(logp.gather(1, target[start : start + POSITIONS_AT_ONCE])[:, 0])
            grid = [(logp / temperature).logsumexp(-1) for temperature in TEMPERATURE_GRID]
            parts["log_normalisers"].append(torch.stack(grid, 1))
    return {key: torch.cat(value).cpu().numpy() for key, value in parts.items()}


@contextmanager
def head_at(model: Any, places: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Iterator[None]:
    """Within it the output head computes logits [1, N, V] of these N places only, not [B, L, V]. A hook and not
    `logits_to_keep`, which keeps the same positions in every row; what a model does to its logits still happens."""
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"teacher class {type(model).__name__} does not say which module makes its logits")
    rows, positions = (torch.tensor(side) for side in zip(*places, strict=True))

    def pick(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        if tuple(hidden.shape[:2]) != shape:
            raise UserError(
                f"teacher class {type(model).__name__} has {tuple(hidden.shape[:2])} hidden states for {shape} tokens: "
                "its positions cannot be told"
            )
        return (hidden[rows.to(hidden.device), positions.to(hidden.device)][None], *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
