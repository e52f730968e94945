"""From what the vision tower sees to what the language model reads."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Features [B, n, C] -> embeddings [B, n, D]: normalise, widen, narrow. One visual token a cell."""

    def __init__(self, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.narrow = nn.Linear(hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.narrow(self.act(self.widen(self.norm(features))))
