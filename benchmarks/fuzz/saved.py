"""Parts `cache` and `checkpoint`: what a run left on the disk, damaged since."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.fuzz.cases import Group, Place
from benchmarks.fuzz.mutations import BYTES, TREES, encoding, written

VOCABULARY = 500


@cache
def _home(name: str) -> TemporaryDirectory[str]:
    """Goes away with the process."""
    return TemporaryDirectory(prefix=f"fuzz-{name}-")


def _said(record: str, turn: int, tokens: int) -> Any:
    import numpy as np

    from embervlm.teachers.outputs import outputs_from_logits

    class Spans:
        starts = np.arange(tokens)
        ends = np.arange(1, tokens + 1)

    rng = np.random.default_rng(tokens)
    logits = rng.normal(0, 3, (tokens, VOCABULARY))
    return outputs_from_logits(logits, logits.argmax(1), Spans, 16, record, turn)  # type: ignore[arg-type]


@cache
def _cache() -> Path:
    """A whole teacher cache of two shards."""
    from embervlm.teachers.store import CacheWriter

    folder = Path(_home("cache").name)
    words = [None if i < 2 else b"w%d" % i for i in range(VOCABULARY)]
    writer = CacheWriter(
        folder, {"name": "t", "tokenizer": "a", "weights": "b"}, {"train": "0" * 16}, {"top_k": 16}, 1, words
    )
    for shard in range(2):
        said = [
            (f"r-{shard}-{n}", [_said(f"r-{shard}-{n}", turn, 3 + n + turn) for turn in range(2)]) for n in range(6)
        ]
        writer.add(f"vqa_batch_{shard}.safetensors", "train", "vqa_v2", said)
    writer.finish([])
    return folder


def read_cache(folder: Path) -> list[str]:
    """As training reads it: opened, compared, every record."""
    import numpy as np

    from embervlm.teachers.store import TeacherCache

    opened = TeacherCache(folder)
    opened.require(data={"train": "0" * 16}, top_k=16)
    opened.token_bytes()
    assert opened.end_of_turn_id is not None and opened.tokenizer_fingerprint is not None
    for name in opened.records():
        for turn in opened.get(name) or ():
            assert isinstance(turn.top_logprobs, np.ndarray)
    return []


def _cache_files(
    change: Callable[[Place, bytes], bytes], signed: bool, names: str = "*"
) -> Callable[[Place], list[str]]:
    """`signed`: the manifest says the checksum of the damaged file, as one that was made so."""

    def run(place: Place) -> list[str]:
        folder = place.folder / "cache"
        shutil.copytree(_cache(), folder)
        path = place.rng.choice(sorted(folder.glob(names)))
        content = change(place, path.read_bytes())
        path.write_bytes(content)
        if signed:
            info = json.loads((folder / "manifest.json").read_text())
            for entry in (*info["files"], *info["shards"]):
                if entry["name"] == path.name:
                    entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (folder / "manifest.json").write_text(json.dumps(info))
        return read_cache(folder)

    return run


def _any(place: Place, content: bytes) -> bytes:
    return place.rng.choice([*BYTES.values()])(content, place.rng)


def _head(place: Place, content: bytes) -> bytes:
    """The header of a safetensors file alone."""
    size = 8 + int.from_bytes(content[:8], "little")
    if place.rng.random() < 0.5:
        head = written(place.rng.choice([*TREES.values()])(json.loads(content[8:size]), place.rng))
        return len(head).to_bytes(8, "little") + head + content[size:]
    return _any(place, content[:size]) + content[size:]


def _tree(place: Place, content: bytes) -> bytes:
    if place.rng.random() < 0.2:
        return encoding(content, place.rng)
    return written(place.rng.choice([*TREES.values()])(json.loads(content), place.rng))


@cache
def _checkpoint() -> Path:
    """A checkpoint of the tiny student as training leaves it, without the optimizer."""
    import torch

    from embervlm.model.configuration import EmberVLMConfig
    from embervlm.model.modeling import EmberVLM
    from embervlm.model.presets import get_preset
    from embervlm.model.processing import build_processor
    from embervlm.train.checkpoint import save_model, write_json

    torch.manual_seed(0)
    folder = Path(_home("checkpoint").name)
    save_model(
        EmberVLM(EmberVLMConfig(**get_preset("tiny").config_fields())),
        build_processor("tiny"),
        folder,
        safetensors=True,
    )
    (folder / "pytorch_model.bin").rename(folder / "keep.bin")
    write_json(folder / "training_args.json", {"stage": 2, "settings": {"learning_rate": 1e-3, "preset": "tiny"}})
    write_json(
        folder / "trainer_state.json", {"global_step": 7, "epoch": 0.5, "log_history": [{"loss": 1.0, "step": 5}]}
    )
    return folder


def read_checkpoint(folder: Path) -> list[str]:
    from embervlm.model.modeling import EmberVLM
    from embervlm.train.checkpoint import open_checkpoint

    open_checkpoint(folder)
    with redirect_stdout(io.StringIO()):
        EmberVLM.from_pretrained(folder)
    return []


def _checkpoint_files(
    change: Callable[[Place, bytes], bytes], names: str, pickled: bool = False
) -> Callable[[Place], list[str]]:
    def run(place: Place) -> list[str]:
        folder = place.folder / "checkpoint-7"
        shutil.copytree(_checkpoint(), folder)
        if pickled:
            (folder / "model.safetensors").unlink()
            (folder / "keep.bin").rename(folder / "pytorch_model.bin")
        path = place.rng.choice(sorted(folder.glob(names)))
        path.write_bytes(change(place, path.read_bytes()))
        return read_checkpoint(folder)

    return run


GROUPS = (
    Group("cache/files", 40, _cache_files(_any, signed=False)),
    Group("cache/manifest", 60, _cache_files(_tree, signed=False, names="manifest.json")),
    Group("cache/signed", 60, _cache_files(_any, signed=True, names="*.safetensors")),
    Group("cache/signed-header", 40, _cache_files(_head, signed=True, names="*.safetensors")),
    Group("checkpoint/weights", 20, _checkpoint_files(_any, "model.safetensors")),
    Group("checkpoint/header", 20, _checkpoint_files(_head, "model.safetensors")),
    Group("checkpoint/pickle", 20, _checkpoint_files(_any, "pytorch_model.bin", pickled=True)),
    Group("checkpoint/config", 50, _checkpoint_files(_tree, "config.json")),
    Group("checkpoint/about", 40, _checkpoint_files(_tree, "train*.json")),
    Group("checkpoint/processor", 40, _checkpoint_files(_tree, "[pt]*o*_config.json")),
    Group("checkpoint/tokenizer", 20, _checkpoint_files(_any, "tokenizer.json")),
)
