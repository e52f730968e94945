"""Part `loader`: damaged prepared sets, pictures and frozen features through what a training step reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.fuzz.cases import Group, Place
from benchmarks.fuzz.mutations import BYTES, TREES, encoding, header, lines, named, written
from benchmarks.fuzz.world import COCO, SUBSET, hostile_names, image_root, processor, rejected, unified

POSITIONS = 128
SHAPE = (4, 3, 3)


def read_set(folder: Path, features: Any = None) -> list[str]:
    """Everything that training asks of a prepared set: records, pixels, packed batches. Reasons of what is rejected."""
    from embervlm.batch.collate import Collator
    from embervlm.batch.dataset import RecordDataset
    from embervlm.data.prepared import open_prepared
    from embervlm.data.shows import known

    prepared = open_prepared(folder)
    reasons = []
    for split in ("train", "val"):
        prepared.fingerprint(split)
        records = prepared.records(split)
        data = RecordDataset(records, prepared.image_root, processor(), POSITIONS, features=features)
        samples: list[Any] = []
        reasons += rejected(*(partial(_take, samples, data, at) for at in range(len(data))))
        reasons += rejected(*(partial(known, record) for record in records))
        if samples:
            Collator(processor(), pack_length=POSITIONS)(samples)
    return reasons


def _take(samples: list[Any], data: Any, at: int) -> None:
    samples.append(data[at])


def _records() -> list[dict[str, Any]]:
    return unified()


@cache
def _info() -> dict[str, Any]:
    """As prepare writes dataset.json."""
    split = {"records": 7, "pictures": 6, "turns": 10, "sources": {"vqa_v2": 6}, "mean_question_words": 2.5}
    split |= {"mean_answer_words": 1.5, "sha256": "0" * 64}
    splits = {"train": split, "val": split}
    return {
        "image_root": "../images",
        "splits": splits,
        "dropped_from_train_for_val_pictures": 0,
        "settings": {"seed": 42},
    }


def _set(place: Place, train: bytes | None = None, info: bytes | None = None) -> Path:
    image_root(place)
    place.file("set/train.jsonl", lines(_records()) if train is None else train)
    place.file("set/val.jsonl", lines(_records()))
    return place.file("set/dataset.json", written(_info()) if info is None else info).parent


def _of_records(change: Callable[[Place], bytes]) -> Callable[[Place], list[str]]:
    return lambda place: read_set(_set(place, train=change(place)))


def _of_info(change: Callable[[Place], bytes]) -> Callable[[Place], list[str]]:
    return lambda place: read_set(_set(place, info=change(place)))


def _roots(place: Place) -> bytes:
    """dataset.json with an odd image root. One that leads elsewhere is the person's choice, so it must only exist."""
    odd = [
        "",
        ".",
        "nowhere",
        "\0",
        "x" * 5000,
        "../images/../images",
        "../set/train.jsonl",
        "..\\images",
        "\ud800",
        "a\nb",
        "~",
    ]
    return written(_info() | {"image_root": odd[place.number % len(odd)]})


def _pictures(place: Place) -> list[str]:
    """Some pictures have changed since the set was prepared."""
    folder = _set(place)
    for name in place.rng.sample(COCO, 3):
        path = place.folder / "images" / SUBSET / name
        path.write_bytes(place.rng.choice([*BYTES.values(), header])(path.read_bytes(), place.rng))
    return read_set(folder)


def _features(place: Place) -> list[str]:
    """The folder of frozen features is damaged; what is not whole is a picture that is missing."""
    import numpy as np

    from embervlm.batch.features import FeatureStore, content_key, stamp_of

    folder = _set(place)
    places = {f"{SUBSET}/{name}": place.folder / "images" / SUBSET / name for name in COCO}
    keys = {name: content_key(path) for name, path in places.items()}
    store = FeatureStore(place.folder / "features", SHAPE)
    store.describe({"version": 1})
    for some in (list(keys)[:1], list(keys)[1:]):
        store.write([keys[name] for name in some], np.ones((len(some), *SHAPE), np.float16))
    store.note([(stamp_of(path), keys[name]) for name, path in places.items()])
    path = place.rng.choice(sorted(store.folder.iterdir()))
    content = path.read_bytes()
    if path.suffix == ".jsonl" and place.rng.random() < 0.7:
        rows = [json.loads(line) for line in content.splitlines()]
        content = lines(place.rng.choice([*TREES.values()])(rows, place.rng))
    elif place.rng.random() < 0.5:  # the header of a safetensors file
        size = 8 + int.from_bytes(content[:8], "little")
        content = place.rng.choice([*BYTES.values()])(content[:size], place.rng) + content[size:]
    else:
        content = place.rng.choice([*BYTES.values(), header])(content, place.rng)
    path.write_bytes(content)
    store = FeatureStore(place.folder / "features", SHAPE)
    for path in places.values():
        store.known(stamp_of(path))
    return read_set(folder, store.features_of({name: key for name, key in keys.items() if key in store}))


_FILES = {**BYTES, "encoding": encoding}
GROUPS = (
    *(
        Group(
            f"loader/records/{way}", 8, _of_records(lambda place, change=change: change(lines(_records()), place.rng))
        )  # type: ignore[misc]
        for way, change in _FILES.items()
    ),
    *(
        Group(
            f"loader/records/{way}", 14, _of_records(lambda place, change=change: lines(change(_records(), place.rng)))
        )  # type: ignore[misc]
        for way, change in TREES.items()
    ),
    Group(
        "loader/records/names",
        50,
        _of_records(lambda place: lines(named(_records(), place.rng, ("image",), hostile_names(place.folder)))),
    ),
    *(
        Group(f"loader/info/{way}", 5, _of_info(lambda place, change=change: change(written(_info()), place.rng)))  # type: ignore[misc]
        for way, change in _FILES.items()
    ),
    *(
        Group(f"loader/info/{way}", 5, _of_info(lambda place, change=change: written(change(_info(), place.rng))))  # type: ignore[misc]
        for way, change in TREES.items()
    ),
    Group("loader/info/root", 11, _of_info(_roots)),
    Group("loader/pictures", 40, _pictures),
    Group("loader/features", 60, _features),
)
