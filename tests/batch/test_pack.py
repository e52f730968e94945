"""Packing must change nothing but the speed: the same loss and gradients, to the last sample."""

import numpy as np
import pytest
import torch

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import Sample
from embervlm.batch.encode import encode
from embervlm.batch.pack import SHARED, lay_out, pack
from embervlm.batch.sampler import ImageMajorSampler
from embervlm.data.official import image_key
from embervlm.data.record import Record
from embervlm.model.modeling import EmberVLM

RECORDS = [
    Record("a", "COCO_train2014_000000000001.jpg", "What color?", "red"),
    Record("b", "x.jpg", "How many?", "2"),
    Record("c", "000000000001.jpg", "Describe it.", "A thing.", (("Describe it.", "A thing."), ("And?", "Red."))),
    Record("d", None, "What is 1 + 1?", "two"),
    Record("e", "000000000001.jpg", "Where?", "at the top left"),
]
SEEN_FIRST = 37  # <|user|> and 36 visual tokens


@pytest.fixture(scope="module")
def model() -> EmberVLM:
    torch.manual_seed(0)
    return EmberVLM.from_preset("tiny").eval()


def _samples(model: EmberVLM) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 3, 96, 96, generator=generator)
    pixels = {"a": one, "b": other, "c": one, "e": one, "d": None}
    return [Sample(r, encode(r, model.processor, 256), pixels[r.id]) for r in RECORDS]


def _encoded(model: EmberVLM):
    return [sample.encoded for sample in _samples(model)]


def _loss_and_gradient(model: EmberVLM, pack_length: int | None) -> tuple[float, torch.Tensor, tuple[int, int]]:
    batch = Collator(model.processor, pack_length=pack_length)(_samples(model))
    model.zero_grad()
    loss = model(**{k: v for k, v in batch.items() if k != "labels"}).loss
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.item(), gradient, (len(batch["input_ids"]), len(batch["pixel_values"]))


@pytest.mark.parametrize(("pack_length", "rows", "pictures"), [(256, 1, 2), (110, 2, 2), (62, 3, 3)])
def test_packed_loss_and_gradients_equal_the_unpacked_ones(
    model: EmberVLM, pack_length: int, rows: int, pictures: int
) -> None:
    """Several pictures in a row, in several rows, and a picture that is repeated because its samples need two rows."""
    plain, packed = _loss_and_gradient(model, None), _loss_and_gradient(model, pack_length)
    assert (plain[2], packed[2]) == ((5, 4), (rows, pictures))
    assert packed[0] == pytest.approx(plain[0], abs=1e-5)
    torch.testing.assert_close(packed[1], plain[1], atol=1e-5, rtol=1e-4)


def test_two_cameras_pictures_of_one_minute_stay_two(model: EmberVLM) -> None:
    """Twelve digits were COCO's number in any folder: both samples saw the left camera's picture."""
    records = [
        Record(side, f"{side}/202401151230.jpg", "What color?", "red" if side == "left" else "blue")
        for side in ("left", "right")
    ]
    pictures = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    samples = [Sample(r, encode(r, model.processor, 256), p) for r, p in zip(records, pictures, strict=True)]
    plain, packed = (Collator(model.processor, pack_length=length)(samples) for length in (None, 256))
    assert len(packed["pixel_values"]) == 2 and len(packed["input_ids"]) == 1
    loss = [model(**{k: v for k, v in batch.items() if k != "labels"}).loss.item() for batch in (plain, packed)]
    assert loss[0] == pytest.approx(loss[1], abs=1e-5)


def test_a_row_may_have_more_positions_than_the_model_counts(model: EmberVLM) -> None:
    """Positions restart with each picture: `tiny` counts to 256."""
    records = [Record(str(n), f"{n}.jpg", f"Is it {n}?", "yes" * (n + 1)) for n in range(8)]
    pictures = torch.randn(8, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    samples = [Sample(r, encode(r, model.processor, 256), p) for r, p in zip(records, pictures, strict=True)]
    losses = []
    for length in (None, 512):
        batch = Collator(model.processor, pack_length=length)(samples)
        losses.append(model(**{k: v for k, v in batch.items() if k != "labels"}).loss.item())
    assert batch["input_ids"].shape[1] > 256
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("length", [62, 80, 110, 256])
def test_a_row_is_never_longer_than_allowed_and_no_sample_is_lost(model: EmberVLM, length: int) -> None:
    encoded = _encoded(model)
    rows = pack(encoded, SEEN_FIRST, length)
    assert all(len(row.input_ids) <= length for row in rows)
    labels = np.concatenate([row.shift_labels for row in rows])
    assert (labels != -100).sum() == sum((e.shift_labels != -100).sum() for e in encoded)
    assert sorted(p.record_id for row in rows for p in row.placed) == ["a", "b", "c", "c", "d", "e"]


@pytest.mark.parametrize("length", [62, 256])
def test_each_response_is_where_the_row_says(model: EmberVLM, length: int) -> None:
    for row in pack(_encoded(model), SEEN_FIRST, length):
        for place in row.placed:
            ids = place.response.ids
            assert row.shift_labels[place.first : place.first + len(ids)].tolist() == ids.tolist()


@pytest.mark.parametrize("length", [62, 110, 256])
def test_every_sample_can_be_read_back_from_its_segment(model: EmberVLM, length: int) -> None:
    """Ids, positions and the picture in front of it are those of the sample alone; no two samples share a segment."""
    encoded = {e.record_id: e for e in _encoded(model)}
    found = []
    for row in pack(list(encoded.values()), SEEN_FIRST, length):
        pictures = iter(row.pictures)
        for group in range(row.groups.max() + 1):
            mine = row.groups == group
            start = mine & (row.segments == SHARED)
            shows = next(pictures) if start.any() else None
            for segment in range(1, row.segments[mine].max() + 1):
                places = np.flatnonzero(start | (mine & (row.segments == segment)))
                (name,) = {p.record_id for p in row.placed if p.first in places}
                found.append(name)
                assert row.input_ids[places].tolist() == encoded[name].input_ids.tolist()
                assert row.position_ids[places].tolist() == list(range(len(places)))
                own = encoded[name].image
                assert (shows is None) == (own is None)
                assert own is None or image_key(own) == image_key(encoded[shows].image)
        assert next(pictures, None) is None
    assert sorted(found) == sorted(encoded)


def test_without_packing_each_sample_has_its_row(model: EmberVLM) -> None:
    encoded = _encoded(model)
    for row, sample in zip(lay_out(encoded, SEEN_FIRST), encoded, strict=True):
        assert row.input_ids.tolist() == sample.input_ids.tolist()
        assert row.pictures == ((sample.record_id,) if sample.image else ())


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
