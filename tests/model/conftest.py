"""One tiny student for the tests that only read it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm import EmberVLM

QUESTIONS = ["What is it?", "Is there a red ball on the table, or a blue one?"]


@pytest.fixture
def picture() -> Callable[[int], Image.Image]:
    def make(seed: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8))

    return make


def make_tiny(**overrides: object) -> EmberVLM:
    torch.manual_seed(0)
    return EmberVLM.from_preset("tiny", **overrides).eval()


@pytest.fixture(scope="session")
def tiny() -> EmberVLM:
    return make_tiny()


@pytest.fixture
def fresh_tiny() -> Callable[..., EmberVLM]:
    return make_tiny
