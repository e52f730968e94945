"""The vision tower: a timm RepViT whose last blocks may be trained while the rest stays as it is."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from embervlm.errors import UserError


class VisionTower(nn.Module):
    """Pixels [B, 3, H, W] -> features [B, n, C], n = the cells of the last feature map, row by row.

    Args:
        vision: {"name": timm architecture, "args": its keyword arguments}.
        unfreeze: how many of the last blocks are trained, -1 for all. A down-sampling counts as a block.

    What is frozen also stays in evaluation mode, so that its BatchNorm statistics never move.
    """

    def __init__(self, vision: dict[str, Any], unfreeze: int) -> None:
        super().__init__()
        self.model = timm.create_model(vision["name"], pretrained=False, num_classes=0, **vision.get("args", {}))
        self.channels: int = self.model.num_features
        self.freeze_all_but(unfreeze)

    def blocks(self) -> list[nn.Module]:
        """Every block in the order in which a picture passes them, the stem first."""
        if not hasattr(self.model, "stages") or not hasattr(self.model, "stem"):
            raise UserError(f"the vision tower is a timm {type(self.model).__name__}; only RepViT is supported")
        parts: list[nn.Module] = [self.model.stem]
        for stage in self.model.stages:
            if not isinstance(stage.downsample, nn.Identity):
                parts.append(stage.downsample)
            parts.extend(stage.blocks)
        return parts

    def freeze_all_but(self, unfreeze: int) -> None:
        """Train the last `unfreeze` blocks only (-1: all)."""
        blocks = self.blocks()
        if not -1 <= unfreeze <= len(blocks):
            raise UserError(
                f"unfreeze_vision is {unfreeze}; this tower has {len(blocks)} blocks (-1 opens all of them)"
            )
        self._frozen = blocks[: len(blocks) - unfreeze] if unfreeze >= 0 else []
        self.requires_grad_(True)
        for block in self._frozen:
            block.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> VisionTower:
        super().train(mode)
        for block in self._frozen:
            block.eval()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.forward_features(pixel_values).flatten(2).transpose(1, 2)
