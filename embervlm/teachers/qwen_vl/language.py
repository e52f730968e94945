"""Qwen-VL's language model: Llama-like, with biased fused qkv, staircase NTK and log-n scaling.

Names of modules and parameters are those of the published checkpoint. Formulas: modeling_qwen.py of Qwen/Qwen-VL-Chat.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from embervlm.teachers.qwen_vl.configuration import QwenVLConfig


class RMSNorm(nn.Module):
    """Normalised in fp32, rounded to the input's dtype, then weighted (Zhang and Sennrich, 2019; Llama's order)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        return (exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


def ntk_alpha(lengths: Tensor, seq_length: int) -> Tensor:
    """Dynamic NTK's factor of first passes over so many tokens: 1, then 3, 7, ... at each doubling of seq_length."""
    doublings = (lengths.double() / seq_length).log2() + 1
    return (2 ** doublings.ceil() - 1).clamp(min=1)


def rotary_tables(positions: Tensor, width: int, base: float, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, fp32 [B, L, width], of positions [B, L] and alpha [B]; the halves of a head are rotated against each
    other, not pairs."""
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    scaled = (base * alpha.to(positions.device).double() ** (width / (width - 2))).float()
    frequencies = 1 / scaled[:, None] ** exponents  # in fp32, as the reference: far out it shows
    angles = positions.float()[:, :, None] * frequencies[:, None]
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def log_n(positions: Tensor, seq_length: int) -> Tensor:
    """fp32, like positions: what queries are multiplied by, log of their number of keys to the base seq_length, at
    least 1."""
    return ((positions + 1).float().log() / math.log(seq_length)).clamp(min=1.0)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, L, heads, width], rotated in fp32."""
    exact = x.float()
    first, second = exact.chunk(2, -1)
    return (exact * cos[:, :, None] + torch.cat([-second, first], -1) * sin[:, :, None]).type_as(x)


class Attention(nn.Module):
    """Causal self-attention; c_attn's output is three thirds, q, k and v."""

    def __init__(self, config: QwenVLConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.num_attention_heads
        inner = config.kv_channels * config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * inner)
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], scale: Tensor | None, mask: Tensor | None, cache: Any
    ) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in self.c_attn(x).chunk(3, -1))
        query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        if scale is not None:
            query = query * scale.type_as(query)[:, :, None, None]
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        causal = mask is None and query.shape[2] > 1
        said = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.c_proj(said.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU; w2 is the branch that goes through SiLU, w1 the linear one."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        inner = config.intermediate_size // 2
        self.w1 = nn.Linear(config.hidden_size, inner, bias=False)
        self.w2 = nn.Linear(config.hidden_size, inner, bias=False)
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.w1(x) * functional.silu(self.w2(x)))


class QwenVLBlock(nn.Module):
    """Pre-norm, two residuals."""

    def __init__(self, config: QwenVLConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], scale: Tensor | None, mask: Tensor | None, cache: Any
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), rotary, scale, mask, cache)
        return x + self.mlp(self.ln_2(x))


def causal_mask(attention_mask: Tensor, length: int, past: int, dtype: torch.dtype) -> Tensor | None:
    """Additive [B, 1, length, past + length], or None where plain causality, or nothing, is to be masked.

    Rows of padding see nothing; they get the same finite number everywhere, so that no NaN comes of them.
    """
    if bool(attention_mask.all()) and (past == 0 or length == 1):
        return None
    shape = length, past + length
    allowed = torch.ones(shape, dtype=torch.bool, device=attention_mask.device).tril(past)[None, None]
    allowed = allowed & attention_mask.bool()[:, None, None, :]
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
