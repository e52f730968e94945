"""Scenes of the embedded world: a few shapes on a 3 x 3 grid, each with a colour, a texture and a size.

The knobs that set the difficulty are the tuples below and `Difficulty`; everything else follows from them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "heart", "trapezoid")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "turquoise", "chartreuse")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

# Never drawn in `train`, drawn in `val`: one colour for each shape.
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("turquoise", "circle"),
        ("yellow", "heart"),
        ("purple", "square"),
        ("green", "trapezoid"),
        ("blue", "triangle"),
    }
)


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn shape. `cell` is 0..8 in reading order; jitter is in pixels of the 96-pixel picture."""

    shape: str
    colour: str
    texture: str
    size: str
    cell: int
    jitter: tuple[float, float]
    angle: float
    shade: tuple[int, int, int]

    @property
    def place(self) -> str:
        return PLACES[self.cell]

    @property
    def row(self) -> int:
        return self.cell // 3

    @property
    def column(self) -> int:
        return self.cell % 3


@dataclass(frozen=True, slots=True)
class Scene:
    """The things in reading order (top left to bottom right), the background, and the seed of the drawing's noise."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]
    noise_seed: int

    @property
    def has_held_out_pair(self) -> bool:
        return any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in self.things)


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How crowded a scene is, and how often things share a colour or a shape (which counting needs)."""

    least: int = 2
    most: int = 3
    repeat: float = 0.35
    jitter: float = 2.5


def sample_scene(rng: random.Random, held_out: str, difficulty: Difficulty | None = None) -> Scene:
    """One random scene.

    `held_out` says what becomes of `HELD_OUT_PAIRS`: "never" (train), "always" (at least one of them) or "free".
    """
    level = difficulty or Difficulty()
    count = rng.randint(level.least, level.most)
    cells = sorted(rng.sample(range(9), count))
    repeated_shape = rng.choice(SHAPES) if rng.random() < level.repeat else None
    repeated_colour = rng.choice(COLOURS) if rng.random() < level.repeat else None
    pairs = [_sample_pair(rng, repeated_shape, repeated_colour, held_out) for _ in range(count)]
    if held_out == "always" and not HELD_OUT_PAIRS.intersection(pairs):
        pairs[rng.randrange(count)] = rng.choice(sorted(HELD_OUT_PAIRS))
    things = tuple(
        Thing(
            shape=shape,
            colour=colour,
            texture=rng.choice(TEXTURES),
            size=rng.choice(SIZES),
            cell=cell,
            jitter=(rng.uniform(-level.jitter, level.jitter), rng.uniform(-level.jitter, level.jitter)),
            angle=rng.uniform(-14, 14),
            shade=(rng.randint(-14, 14), rng.randint(-14, 14), rng.randint(-14, 14)),
        )
        for cell, (colour, shape) in zip(cells, pairs, strict=True)
    )
    light = rng.randint(196, 250)
    background = tuple(max(0, min(255, light + rng.randint(-12, 12))) for _ in range(3))
    return Scene(things, background, rng.getrandbits(32))  # type: ignore[arg-type]


def _sample_pair(
    rng: random.Random, repeated_shape: str | None, repeated_colour: str | None, held_out: str
) -> tuple[str, str]:
    while True:
        shape = repeated_shape if repeated_shape and rng.random() < 0.6 else rng.choice(SHAPES)
        colour = repeated_colour if repeated_colour and rng.random() < 0.6 else rng.choice(COLOURS)
        if held_out != "never" or (colour, shape) not in HELD_OUT_PAIRS:
            return colour, shape
