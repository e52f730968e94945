"""A packed run is the unpacked one, whatever a step is divided into: the same losses, the same number of steps."""

import json

import pytest

from embervlm.batch.sampler import ImageMajorSampler
from embervlm.train import build, run
from tests.train.small_world import make_world, settings

MEASURED = ("sft_loss", "total_loss", "grad_norm", "token_accuracy")


@pytest.fixture
def one_order(monkeypatch):
    """The samples in one order, packed or not; the tower frozen, as BatchNorm in training counts pictures."""
    real = run.build_model

    def frozen(*args):
        model = real(*args)
        model.unfreeze_vision(0)
        return model

    monkeypatch.setattr(run, "build_model", frozen)
    monkeypatch.setattr(
        build, "ImageMajorSampler", lambda records, seed, together, *rest: ImageMajorSampler(records, seed, True, *rest)
    )


def history(out, **changes):
    assert run.run_train(settings(out.parent / "data", out, max_steps=-1, epochs=2, **changes)) == 0
    entries = json.loads((out / "stage2/metrics.json").read_text())["history"]
    return [[entry[f"stage2/{name}"] for name in MEASURED] for entry in entries if "stage2/sft_loss" in entry]


def test_packed_and_accumulated_steps_equal_one_big_unpacked_batch(tmp_path, one_order):
    """A mean of means would weigh a short answer's token more than a long one's."""
    make_world(tmp_path / "data", train=14)
    big = history(tmp_path / "big", pack=False, batch_size=6)
    assert len(big) == 2 * 3  # 14 samples: 6, 6 and 2
    for name, changes in {
        "packed": {"batch_size": 6},
        "accumulated": {"batch_size": 2, "gradient_accumulation_steps": 3},
        "short": {"batch_size": 3, "gradient_accumulation_steps": 2, "max_length": 90},
    }.items():
        found = history(tmp_path / name, pack=True, **changes)
        assert len(found) == len(big), name
        for here, there in zip(found, big, strict=True):
            assert here == pytest.approx(there, rel=1e-4), name
