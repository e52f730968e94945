import pytest
import torch

from embervlm import EmberVLM
from embervlm.data.prepared import PreparedSet
from tests.evaluate.world import make_world


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> PreparedSet:
    return make_world(tmp_path_factory.mktemp("world") / "stage2")


@pytest.fixture(scope="session")
def student() -> EmberVLM:
    torch.manual_seed(0)
    model = EmberVLM.from_preset("tiny").eval()
    with torch.no_grad():  # not as flat as a new model: its likeliest tokens lie apart
        model.get_output_embeddings().weight.mul_(20)
    return model
