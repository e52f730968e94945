"""Makes the weights of the `tiny` preset's RepViT that ship in the package, as ImageNet's do for the real one.

    python examples/tiny_vision/pretrain.py --out embervlm/model/assets/tiny_vision.safetensors     # about 3 minutes

Pictures of the embedded world with a *single* shape in them, classified by shape, colour, texture and size from the
pooled features. The tower has seen no scene, no question and none of the colour-shape pairs that `val` holds out.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from embervlm.data.toyworld.draw import draw
from embervlm.data.toyworld.scene import COLOURS, SHAPES, SIZES, TEXTURES, Difficulty, sample_scene
from embervlm.model.presets import PRESETS

ONE = Difficulty(least=1, most=1, repeat=0.0)


def pictures(rng: random.Random, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, 3, 96, 96] in [-1, 1] and [B, 4] class ids."""
    things = [sample_scene(rng, "never", ONE) for _ in range(count)]
    pixels = np.stack([np.asarray(draw(scene)) for scene in things])
    words = [(SHAPES, "shape"), (COLOURS, "colour"), (TEXTURES, "texture"), (SIZES, "size")]
    classes = [[known.index(getattr(scene.things[0], name)) for known, name in words] for scene in things]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0), torch.tensor(classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=96)
    options = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(23)
    preset = PRESETS["tiny"].config["vision"]
    tower = timm.create_model(preset["name"], pretrained=False, num_classes=0, **preset["args"])
    sizes = [len(SHAPES), len(COLOURS), len(TEXTURES), len(SIZES)]
    head = nn.Linear(tower.num_features, sum(sizes))
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=options.steps, pct_start=0.1)
    began = time.time()
    for step in range(options.steps):
        pixels, classes = pictures(rng, options.batch_size)
        guesses = head(tower.forward_features(pixels).mean(dim=(2, 3))).split(sizes, dim=-1)
        loss = sum(nn.functional.cross_entropy(g, classes[:, i]) for i, g in enumerate(guesses))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 24:
            right = [f"{(g.argmax(-1) == classes[:, i]).float().mean():.2f}" for i, g in enumerate(guesses)]
            print(
                f"step {step + 1}/{options.steps}  loss {loss:.3f}  right {right}  {time.time() - began:.0f} s",
                flush=True,
            )
    weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in tower.state_dict().items()}
    save_file({k: v for k, v in weights.items() if not k.startswith("head.")}, options.out)


if __name__ == "__main__":
    main()
