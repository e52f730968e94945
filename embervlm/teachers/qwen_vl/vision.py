"""Qwen-VL's eyes: a ViT-bigG without a class token, and a resampler that makes 256 tokens of its 1,024.

Names of modules and parameters are those of the published checkpoint. Formulas: visual.py of Qwen/Qwen-VL-Chat.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-6


def resize_positions(table: Tensor, count: int) -> Tensor:
    """A square table of positions [n, D], row by row, bicubically resized to [count, D] in fp32."""
    side, wanted = math.isqrt(len(table)), math.isqrt(count)
    if side == wanted:
        return table
    grid = table.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    grid = functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return grid[0].permute(1, 2, 0).flatten(0, 1).type_as(table)


class VisionAttention(nn.Module):
    """Without a mask; in_proj's output lies head by head, q, k and v of a head together (Megatron-LM's layout)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.in_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, -1)
        said = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(said.transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    """With the exact GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inner)
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x)))


class VisionBlock(nn.Module):
    """Pre-norm, two residuals."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = VisionAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = VisionMLP(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    """The blocks; a module of its own because the checkpoint's names have it so."""

    def __init__(self, width: int, layers: int, heads: int, inner: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(width, heads, inner) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class Resampler(nn.Module):
    """Learnt queries read the picture in one cross-attention, positions added to queries and keys only."""

    def __init__(self, queries: int, width: int, picture_width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(queries, width), requires_grad=False)
        self.query = nn.Parameter(torch.empty(queries, width))
        same = picture_width == width
        self.kv_proj: nn.Module = nn.Identity() if same else nn.Linear(picture_width, width, bias=False)
        self.attn = nn.MultiheadAttention(width, width // 128, batch_first=True)
        self.ln_q = nn.LayerNorm(width, eps=_EPS)
        self.ln_kv = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, patches, picture_width] -> [B, queries, width]."""
        read = self.ln_kv(self.kv_proj(x))
        asked = (self.ln_q(self.query) + self.pos_embed).expand(len(x), -1, -1)
        return self.attn(asked, read + resize_positions(self.pos_embed, x.shape[1]), read, need_weights=False)[0]


class QwenVLVision(nn.Module):
    """Pixels [B, 3, S, S], normalised with CLIP's mean and deviation -> [B, n_queries, output_dim]."""

    def __init__(self, visual: dict[str, Any]) -> None:
        super().__init__()
        width, output = visual["width"], visual["output_dim"]
        patch = visual["patch_size"]
        inner = int(width * visual["mlp_ratio"])
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        # Always 16 x 16, whatever the size of the pictures.
        self.positional_embedding = nn.Parameter(torch.empty(256, width))
        self.ln_pre = nn.LayerNorm(width, eps=_EPS)
        self.transformer = VisionTransformer(width, visual["layers"], visual["heads"], inner)
        self.attn_pool = Resampler(visual["n_queries"], output, width)
        self.ln_post = nn.LayerNorm(output, eps=_EPS)
        self.proj = nn.Parameter(torch.empty(output, output))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.conv1(pixel_values.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.ln_pre(x + resize_positions(self.positional_embedding, x.shape[1]))
        return self.ln_post(self.attn_pool(self.transformer(x))) @ self.proj
