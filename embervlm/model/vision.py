"""The vision tower: a timm RepViT whose last blocks may be trained while the rest stays as it is."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from embervlm.errors import UserError
from embervlm.model.presets import PACKAGED

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class VisionTower(nn.Module):
    """Pixels [B, 3, H, W] -> features [B, n, C], n = the cells of the last feature map, row by row.

    Args:
        vision: {"name": timm architecture, "args": its keyword arguments}.
        unfreeze: how many of the last blocks are trained, -1 for all. A down-sampling counts as a block.

    What is frozen also stays in evaluation mode, so that its BatchNorm statistics never move.
    """

    def __init__(self, vision: dict[str, Any], unfreeze: int) -> None:
        super().__init__()
        self.model = _create(vision["name"], pretrained=False, **vision.get("args", {}))
        self.channels: int = self.model.num_features
        self.freeze_all_but(unfreeze)

    @property
    def stride(self) -> int:
        """Pixels of the picture that lie between two cells of the last feature map."""
        return self.model.feature_info[-1]["reduction"]

    def cells(self, image_size: int) -> int:
        """How many visual tokens a square picture makes."""
        return (-(-image_size // self.stride)) ** 2

    def blocks(self) -> list[nn.Module]:
        """Every block in the order in which a picture passes them, the stem first."""
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
                f"unfreeze_vision is {unfreeze}; this tower has {len(blocks)} blocks (-1 opens all of them)."
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

    def frozen_part(self) -> nn.Sequential:
        """The blocks before the first one that is trained; none where all are."""
        return nn.Sequential(*self._frozen)

    def forward(self, pixel_values: Tensor) -> Tensor:
        for block in self._frozen:
            pixel_values = block(pixel_values)
        return self.from_frozen(pixel_values)

    def from_frozen(self, maps: Tensor) -> Tensor:
        """What the frozen part made of the pictures, [B, c, h, w] -> features [B, n, C]."""
        for block in self.blocks()[len(self._frozen) :]:
            maps = block(maps)
        return maps.flatten(2).transpose(1, 2)


def load_vision_weights(tower: VisionTower, source: str) -> None:
    """Load all of the tower's weights (a classifier's head is left out) or raise UserError.

    Args:
        source: "packaged" (what ships with the `tiny` preset), a file (.safetensors, or .pth/.pt/.bin, never
            unpickled), a timm name such as "repvit_m1_5.dist_450e_in1k", or a hub id such as "timm/repvit_m1_5...".
    """
    weights = {name: tensor for name, tensor in _read(source).items() if not name.startswith("head.")}
    own = tower.model.state_dict()
    strange = sorted(weights.keys() - own.keys())
    missing = sorted(own.keys() - weights.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    for names, what in ((strange, "unknown"), (missing, "missing"), (sorted(shapes), "differently shaped")):
        if names:
            raise UserError(
                f"The vision weights '{source}' do not fit this tower: {len(names)} of {len(own)} tensors are {what} "
                f"(the first is {names[0]}). Pass the weights of the same RepViT, or another `vision`."
            )
    tower.model.load_state_dict(weights)


def _create(name: str, **options: Any) -> Any:
    import timm  # a second of imports that nothing but a tower needs

    try:
        model = timm.create_model(name, num_classes=0, **options)
    except Exception as error:  # timm and the hub raise whatever they like
        raise UserError(f"timm cannot make the vision tower '{name}': {error}.") from error
    if not isinstance(model, timm.models.RepVit):
        raise UserError(f"The vision tower '{name}' is a {type(model).__name__}; EmberVLM sees with a RepViT.")
    return model


def _read(source: str) -> dict[str, Tensor]:
    if source == PACKAGED:
        with as_file(files("embervlm.model") / "assets" / "tiny_vision.safetensors") as path:
            return load_file(path)
    path = Path(source)
    if not path.is_file():
        if path.suffix in WEIGHT_SUFFIXES:
            raise UserError(f"There is no file of vision weights '{source}'.")
        name = f"hf-hub:{source}" if "/" in source and ":" not in source else source
        return _create(name, pretrained=True).state_dict()
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(f"The vision weights '{source}' hold more than tensors, so they are not opened.") from error
    except Exception as error:  # a damaged file raises many things
        raise UserError(f"The vision weights '{source}' cannot be read: {error}.") from error
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else {}
    weights = {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"The file '{source}' holds no tensors by name; expected the weights of a RepViT.")
    return weights
