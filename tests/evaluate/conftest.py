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
    return EmberVLM.from_preset("tiny").eval()
