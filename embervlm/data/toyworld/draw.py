"""Scene -> picture (PIL only). Shapes are drawn three times too large and reduced, which smooths their edges."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from embervlm.data.toyworld.scene import Scene, Thing

PIXELS = 96
_SCALE = 3
_CELL = PIXELS / 3
_RADIUS = {"small": 8.0, "large": 13.5}
_RGB = {
    "red": (214, 39, 40),
    "green": (24, 124, 52),
    "blue": (38, 70, 200),
    "yellow": (248, 214, 30),
    "purple": (128, 48, 160),
    "orange": (245, 130, 20),
    "turquoise": (40, 200, 196),
    "chartreuse": (160, 232, 24),
}


def draw(scene: Scene) -> Image.Image:
    """The 96 x 96 RGB picture of a scene; equal scenes give equal pixels."""
    canvas = Image.new("RGB", (PIXELS * _SCALE, PIXELS * _SCALE), scene.background)
    for thing in scene.things:
        _paste(canvas, thing)
    picture = canvas.reduce(_SCALE)
    noise = np.random.default_rng(scene.noise_seed).integers(-7, 8, size=(PIXELS, PIXELS, 3), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(picture, dtype=np.int16) + noise, 0, 255).astype(np.uint8))


def _paste(canvas: Image.Image, thing: Thing) -> None:
    radius = _RADIUS[thing.size] * _SCALE
    side = int(2 * radius) + 4
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).polygon(_outline(thing.shape, radius, side / 2, thing.angle), fill=255)
    rgb = tuple(max(0, min(255, value + shift)) for value, shift in zip(_RGB[thing.colour], thing.shade, strict=True))
    fill = Image.new("RGB", (side, side), rgb)
    if thing.texture != "plain":
        # Dark ink on light colours; pale ink of the same hue on dark ones, which keeps their outline.
        ink = (25, 25, 25) if sum(rgb) > 330 else tuple(value + round(0.72 * (255 - value)) for value in rgb)
        fill.paste(ink, (0, 0), _pattern(thing.texture, side))
    x = (thing.column + 0.5) * _CELL + thing.jitter[0]
    y = (thing.row + 0.5) * _CELL + thing.jitter[1]
    canvas.paste(fill, (round(x * _SCALE - side / 2), round(y * _SCALE - side / 2)), mask)


@lru_cache(maxsize=16)
def _pattern(texture: str, side: int) -> Image.Image:
    pattern = Image.new("1", (side, side), 0)
    pen = ImageDraw.Draw(pattern)
    step = 5 * _SCALE
    if texture == "striped":
        for offset in range(-side, side, step):
            pen.line((offset, side, offset + side, 0), fill=1, width=2 * _SCALE)
    else:
        dot = 1.4 * _SCALE
        for row, y in enumerate(range(step // 2, side, step)):
            for x in range(step // 2 if row % 2 else 0, side, step):
                pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=1)
    return pattern


@lru_cache(maxsize=32)
def _unit_outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corners in the unit circle, y downwards."""
    if shape == "circle":
        return tuple((math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 40, endpoint=False))
    if shape == "square":
        return ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))
    if shape == "triangle":
        return ((0.0, -1.0), (0.95, 0.8), (-0.95, 0.8))
    if shape == "star":
        return tuple(
            (r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5))
            for i, r in ((i, 1.05 if i % 2 == 0 else 0.44) for i in range(10))
        )
    if shape == "heart":
        angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        return tuple(
            (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 15)
            for a in angles
        )
    if shape == "trapezoid":
        return ((-0.5, -0.6), (0.5, -0.6), (1.0, 0.6), (-1.0, 0.6))
    raise KeyError(shape)


def _outline(shape: str, radius: float, centre: float, angle: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [
        (centre + radius * (x * cos - y * sin), centre + radius * (x * sin + y * cos)) for x, y in _unit_outline(shape)
    ]
