"""The tower: what is frozen stays frozen, and weights load whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from embervlm.errors import UserError
from embervlm.model.presets import PACKAGED, PRESETS
from embervlm.model.vision import VisionTower, load_vision_weights

TINY = PRESETS["tiny"].config["vision"]
PIXELS = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def test_features_are_one_row_a_cell() -> None:
    tower = VisionTower(TINY, 0).eval()
    features = tower(PIXELS)
    assert features.shape == (2, tower.cells(96), tower.channels) == (2, 36, 96)
    grid = tower.model.forward_features(PIXELS)
    assert torch.equal(features[0, 7], grid[0, :, 1, 1]), "cells must be read row by row"


def test_cells_round_up_as_strided_convolutions_do() -> None:
    tower = VisionTower(TINY, 0)
    assert tower(torch.zeros(1, 3, 100, 100)).shape[1] == tower.cells(100) == 49


@pytest.mark.parametrize("unfreeze", [0, 1, 3, -1])
def test_only_open_blocks_train_and_frozen_statistics_do_not_move(unfreeze: int) -> None:
    """BatchNorm statistics would drift away from the frozen weights in every training step."""
    tower = VisionTower(TINY, unfreeze).train()
    blocks = tower.blocks()
    frozen = blocks[: len(blocks) - unfreeze] if unfreeze >= 0 else []
    before = {id(b): [t.clone() for t in b.state_dict().values()] for b in blocks}
    tower(PIXELS).sum().backward() if unfreeze else tower(PIXELS)
    for block in blocks:
        same = all(torch.equal(a, b) for a, b in zip(before[id(block)], block.state_dict().values(), strict=True))
        is_frozen = any(block is other for other in frozen)
        assert same == is_frozen
        assert all(p.requires_grad != is_frozen for p in block.parameters())
        assert all((p.grad is None) == is_frozen for p in block.parameters())
        assert block.training != is_frozen


def test_opening_and_closing_again() -> None:
    tower = VisionTower(TINY, -1).train()
    tower.freeze_all_but(0)
    assert not any(p.requires_grad for p in tower.parameters())
    assert not any(module.training for block in tower.blocks() for module in block.modules())
    tower.freeze_all_but(1)
    assert tower.blocks()[-1].training and not tower.blocks()[-2].training


def test_too_many_blocks_is_an_error() -> None:
    with pytest.raises(UserError, match="this tower has"):
        VisionTower(TINY, 99)


def test_the_packaged_tower_fits_the_tiny_preset() -> None:
    tower = VisionTower(TINY, -1)
    before = tower.model.stem.conv1.c.weight.clone()
    load_vision_weights(tower, PACKAGED)
    assert not torch.equal(before, tower.model.stem.conv1.c.weight)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped.pth", "hf"])
def test_weights_load_from_files(kind: str, tmp_path: Path) -> None:
    source, tower = VisionTower(TINY, 0), VisionTower(TINY, 0)
    weights = {name: tensor + 1 for name, tensor in source.model.state_dict().items()}
    weights["head.head.l.weight"] = torch.zeros(10, 96)  # a classifier's head is no part of the tower
    path = tmp_path / f"tower.{kind}"
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "hf":
        path = tmp_path / "tower.bin"
        torch.save(weights, path)
    else:
        torch.save({"model": {f"module.{k}": v for k, v in weights.items()}} if "wrapped" in kind else weights, path)
    load_vision_weights(tower, str(path))
    assert all(torch.equal(weights[name], tensor) for name, tensor in tower.model.state_dict().items())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A tower that keeps random weights in part would train without a word and see nothing."""
    tower = VisionTower(TINY, 0)
    weights = tower.model.state_dict()
    name = next(iter(weights))
    for bad, what in (
        ({k: v for k, v in weights.items() if k != name}, "missing"),
        ({**weights, "extra": torch.zeros(1)}, "unknown"),
        ({**weights, name: torch.zeros(3)}, "differently shaped"),
    ):
        save_file(bad, tmp_path / "bad.safetensors")
        with pytest.raises(UserError, match=what):
            load_vision_weights(tower, str(tmp_path / "bad.safetensors"))


def test_files_that_are_absent_damaged_or_pickled_are_refused(tmp_path: Path) -> None:
    tower = VisionTower(TINY, 0)
    with pytest.raises(UserError, match="no file"):
        load_vision_weights(tower, str(tmp_path / "none.pth"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        load_vision_weights(tower, str(tmp_path / "torn.safetensors"))
    torch.save(tower, tmp_path / "pickled.pth")
    with pytest.raises(UserError, match="more than tensors"):
        load_vision_weights(tower, str(tmp_path / "pickled.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no tensors"):
        load_vision_weights(tower, str(tmp_path / "list.pth"))


def test_unknown_towers_and_names_are_refused() -> None:
    with pytest.raises(UserError, match="resnet18"):
        VisionTower({"name": "resnet18", "args": {}}, 0)
    with pytest.raises(UserError, match="no_such_tower"):
        VisionTower({"name": "no_such_tower"}, 0)
    with pytest.raises(UserError, match="no_such_tower"):
        load_vision_weights(VisionTower(TINY, 0), "no_such_tower")
