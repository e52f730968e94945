"""Gives the `tiny` student's RepViT eyes for real pictures, from a pretrained EfficientNet-Lite0.

    python examples/stamps/train_tower.py --data_dir data/stamps --out outputs/stamps/tower.safetensors

The preset's packaged weights know the embedded world only. Here the tower learns to say what the large encoder says
about views of the *train* pictures: its features cell by cell, and its ImageNet class probabilities. Two pictures are
mixed in half of the views, so that a few hundred pictures make thousands of different targets. No labels are used.
Pass the result to `embervlm train --vision_weights`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from encoder import pretrained
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from views import view

from embervlm.data.images import load_image, resolve_image
from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.model.presets import PACKAGED, get_preset
from embervlm.model.vision import VisionTower, load_vision_weights

ENCODER = "efficientnet_lite0"
ENCODER_PIXELS = 192  # its map then has the tower's 6 x 6 cells
CHANNELS = 1280


def pixels(pictures: list[Image.Image], side: int) -> Tensor:
    """RGB pictures -> float32 [B, 3, side, side] in [-1, 1]."""
    arrays = [np.asarray(p.resize((side, side), Image.Resampling.BICUBIC)) for p in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def looks(pictures: list[Image.Image], rng: random.Random, count: int) -> list[Image.Image]:
    """Random views; every second one is a mixture of two."""
    chosen = [view(rng.choice(pictures), rng) for _ in range(count)]
    for i in range(0, count - 1, 2):
        chosen[i] = Image.blend(chosen[i], chosen[i + 1], rng.uniform(0.1, 0.5))
    return chosen


class Lesson(nn.Module):
    """Reads the encoder's features and classes off the tower's cells."""

    def __init__(self, tower: VisionTower) -> None:
        super().__init__()
        self.tower = tower
        self.cells = nn.Linear(tower.channels, CHANNELS)
        self.classes = nn.Linear(tower.channels, 1000)

    def forward(self, small: Tensor, features: Tensor, classes: Tensor) -> Tensor:
        """Loss against the encoder's standardised features [B, cells, C] and class probabilities [B, 1000]."""
        seen = self.tower(small)
        dense = nn.functional.smooth_l1_loss(self.cells(seen), features)
        logits = self.classes(seen.mean(1))
        return dense + 0.2 * -(classes * logits.log_softmax(-1)).sum(-1).mean()


@torch.no_grad()
def encode(encoder: nn.Module, large: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's map [B, cells, C] and class probabilities [B, 1000]."""
    with torch.autocast("cpu", torch.bfloat16):
        maps = encoder.forward_features(large)
        logits = encoder.forward_head(maps)
    return maps.flatten(2).transpose(1, 2).float(), logits.float().softmax(-1)


def train(pictures: list[Image.Image], side: int, tower: VisionTower, args: argparse.Namespace) -> None:
    encoder, rng, lesson = pretrained(ENCODER), random.Random(args.seed), Lesson(tower).train()
    optimizer = torch.optim.AdamW(lesson.parameters(), lr=args.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, total_steps=args.steps, pct_start=0.1)
    first = encode(encoder, pixels(looks(pictures, rng, 128), ENCODER_PIXELS))[0].flatten(0, 1)
    mean, scale = first.mean(0), first.std(0) + 1e-4
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    began, recent = time.time(), 0.0
    for step in range(args.steps):
        if step < args.steps // args.passes:  # later passes read what was computed in the first
            batch = looks(pictures, rng, args.batch_size)
            maps, classes = encode(encoder, pixels(batch, ENCODER_PIXELS))
            seen.append((pixels(batch, side).bfloat16(), ((maps - mean) / scale).bfloat16(), classes.bfloat16()))
            small, features, targets = seen[-1]
        else:
            small, features, targets = rng.choice(seen)
        loss = lesson(small.float(), features.float(), targets.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(lesson.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent += loss.item() / 50
        if step % 50 == 49:
            print(f"step {step + 1}/{args.steps}  loss {recent:.3f}  {time.time() - began:.0f} s", flush=True)
            recent = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="stage1/ of `embervlm prepare`; train is read")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file for --vision_weights")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--passes", type=int, default=3, help="times a view is used")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    try:
        prepared = open_prepared(args.data_dir / "stage1")
        names = sorted({record.image for record in prepared.records("train") if record.image is not None})
        pictures = [load_image(resolve_image(prepared.image_root, name)) for name in names]
        preset = get_preset("tiny").config
        tower = VisionTower(preset["vision"], -1)
        load_vision_weights(tower, PACKAGED)
        train(pictures, preset["image_size"], tower, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in tower.model.state_dict().items()}, args.out)
    print(f"wrote {args.out}: {sum(p.numel() for p in tower.parameters()):,} parameters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
