from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm import EmberVLM


@pytest.fixture(scope="session")
def student() -> EmberVLM:
    """Answers differ by picture and question: a new model's likeliest tokens lie too close for that."""
    torch.manual_seed(0)
    model = EmberVLM.from_preset("tiny").eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
        for parameter in model.projector.parameters():
            parameter.mul_(8)
    return model


@pytest.fixture(scope="session")
def checkpoint(student: EmberVLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    student.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, top, (32, 48, 3), dtype=np.uint8)) for top in (255, 20, 120)]
