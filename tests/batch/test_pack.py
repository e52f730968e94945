"""Packing must change nothing but the speed: the same loss and gradients, to the last sample."""

import numpy as np
import pytest
import torch

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import Sample
from embervlm.batch.encode import encode
from embervlm.batch.pack import SHARED, pack, visible
from embervlm.batch.sampler import ImageMajorSampler
from embervlm.data.record import Record
from embervlm.model.modeling import EmberVLM

RECORDS = [
    Record("a", "COCO_train2014_000000000001.jpg", "What color?", "red"),
    Record("b", "x.jpg", "How many?", "2"),
    Record("c", "000000000001.jpg", "Describe it.", "A thing.", (("Describe it.", "A thing."), ("And?", "Red."))),
    Record("d", None, "What is 1 + 1?", "two"),
    Record("e", "000000000001.jpg", "Where?", "at the top left"),
]


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    torch.manual_seed(0)
    return EmberVLM.from_preset("tiny").eval()


def _samples(model: EmberVLM) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 3, 96, 96, generator=generator)
    pixels = {"a": one, "b": other, "c": one, "e": one, "d": None}
    return [Sample(r, encode(r, model.processor, 256), pixels[r.id]) for r in RECORDS]


def _loss_and_gradient(model: EmberVLM, pack_length: int | None) -> tuple[float, torch.Tensor, int]:
    batch = Collator(model.processor, pack_length=pack_length)(_samples(model))
    rows = len(batch["input_ids"])
    model.zero_grad()
    loss = model(**{k: v for k, v in batch.items() if k != "labels"}).loss
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.item(), gradient, rows


def test_packed_loss_and_gradients_equal_the_unpacked_ones(model: EmberVLM) -> None:
    plain, packed = _loss_and_gradient(model, None), _loss_and_gradient(model, 256)
    assert (plain[2], packed[2]) == (5, 3)
    assert packed[0] == pytest.approx(plain[0], abs=1e-5)
    torch.testing.assert_close(packed[1], plain[1], atol=1e-5, rtol=1e-4)


def test_a_row_is_never_longer_than_allowed_and_no_sample_is_lost(model: EmberVLM) -> None:
    encoded = [s.encoded for s in _samples(model)]
    longest = max(len(e.input_ids) for e in encoded)
    rows = pack(encoded, 37, longest)
    assert all(len(row.input_ids) <= longest for row in rows)
    labels = np.concatenate([row.shift_labels for row in rows])
    assert (labels != -100).sum() == sum((e.shift_labels != -100).sum() for e in encoded)
    assert sorted(p.record_id for row in rows for p in row.placed) == ["a", "b", "c", "c", "d", "e"]


def test_each_response_is_where_the_row_says(model: EmberVLM) -> None:
    for row in pack([s.encoded for s in _samples(model)], 37, 256):
        for place in row.placed:
            ids = place.response.ids
            assert row.shift_labels[place.first : place.first + len(ids)].tolist() == ids.tolist()


def test_who_sees_whom() -> None:
    seen = visible(np.array([[SHARED, SHARED, 1, 1, 2, -1]]))[0, 0]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert seen.astype(int).tolist() == expected


def test_an_epoch_reads_every_sample_once_and_pictures_together() -> None:
    sampler = ImageMajorSampler(RECORDS, seed=3)
    orders = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(5)) and list(sampler) == orders[-1]
        places = sorted(orders[-1].index(i) for i in (0, 2, 4))
        assert places[2] - places[0] == 2
    assert len({tuple(order) for order in orders}) > 1
