"""The store of frozen features by itself: what comes out is what went in, in any process."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from embervlm.batch.features import FeatureStore, content_key, fingerprint, stamp_of
from embervlm.errors import UserError


def test_features_come_back_by_name_also_in_another_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 3, 2, 2)).astype(np.float16)
    keys = [bytes([n]) * 16 for n in range(5)]
    store = FeatureStore(tmp_path, (3, 2, 2))
    store.describe({"frozen_blocks": 1})
    store.write(keys[:2], values[:2])
    store.write(keys[2:], values[2:])
    store.refresh()
    assert len(store) == 5 and keys[3] in store and b"?" * 16 not in store
    features = store.features_of({f"{n}.jpg": key for n, key in enumerate(keys)})
    first = features["4.jpg"]
    for reader in (features, pickle.loads(pickle.dumps(features))):
        assert all(torch.equal(reader[f"{n}.jpg"], torch.from_numpy(values[n])) for n in range(5))
    assert first.dtype == torch.float16 and len(pickle.dumps(features)) < 2000, "a worker would copy what is mapped"
    with pytest.raises(UserError, match=r"'x.jpg'.*--frozen_features off"):
        features["x.jpg"]


def test_features_of_another_shape_are_not_taken(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, (3, 2, 2))
    store.write([b"a" * 16], np.zeros((1, 3, 2, 2)))
    assert len(FeatureStore(tmp_path, (3, 2, 2))) == 1
    assert len(FeatureStore(tmp_path, (3, 4, 4))) == 0


def test_the_same_bytes_have_the_same_key_and_a_changed_file_another_stamp(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"picture")
    other.write_bytes(b"picture")
    assert content_key(one) == content_key(other) and len(content_key(one)) == 16
    store = FeatureStore(tmp_path / "store", (1, 1, 1))
    store.describe({})
    store.note([(stamp_of(one), content_key(one))])
    store.refresh()
    assert store.known(stamp_of(one)) == content_key(one)
    one.write_bytes(b"another")
    assert store.known(stamp_of(one)) is None and content_key(one) != content_key(other)


def test_a_fingerprint_follows_weights_statistics_and_preprocessing() -> None:
    torch.manual_seed(0)
    part = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    found = {fingerprint(part, {"mean": 0.5}), fingerprint(part, {"mean": 0.4})}
    part[1].running_var += 1e-3
    found.add(fingerprint(part, {"mean": 0.5}))
    assert len(found) == 3 and fingerprint(part, {"mean": 0.5}) in found


@pytest.mark.parametrize(
    "line",
    ["5", "null", '[["x"], 1, 2, "00"]', '["x", 1, 2, []]', '["x", 1, 2, "zz"]', "[" * 100_000, '{"a": 1}', "[1]"],
)
def test_damaged_notes_cost_no_more_than_reading_the_file_again(tmp_path: Path, line: str) -> None:
    store = FeatureStore(tmp_path, (1, 1, 1))
    store.describe({})
    store.note([(("good", 1, 2), b"k" * 16)])
    with (tmp_path / "files-0.jsonl").open("a") as file:
        file.write(line + "\n")
    store.refresh()
    assert store.known(("good", 1, 2)) == b"k" * 16


@pytest.mark.parametrize(
    "header",
    [b"[" * 100_000, b"[]", b"5", b'{"keys": 5}', b'{"keys": {"data_offsets": 1}}', b'{"keys": {"data_offsets": {}}}'],
)
def test_a_part_with_a_damaged_header_is_missing(tmp_path: Path, header: bytes) -> None:
    store = FeatureStore(tmp_path, (1, 1, 1))
    store.describe({})
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x" * 64)
    store.refresh()
    assert len(store) == 0
