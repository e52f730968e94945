"""Variations of a picture on plain paper."""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance


def view(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The picture a little larger or smaller, turned, moved and lighter or darker; never mirrored: letters matter."""
    paper = picture.getpixel((0, 0))
    turned = picture.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor=paper)
    scale, side = rng.uniform(0.75, 1.15), picture.width
    new = round(side * scale)
    slack = abs(side - new)
    canvas = Image.new("RGB", picture.size, paper)
    sign = 1 if scale < 1 else -1
    corner = (sign * rng.randint(0, slack), sign * rng.randint(0, slack))
    canvas.paste(turned.resize((new, new), Image.Resampling.BICUBIC), corner)
    canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.85, 1.1))
    return ImageEnhance.Contrast(canvas).enhance(rng.uniform(0.85, 1.15))
