"""A teacher that only reads, at work: cached, verified, live; and stopped before the first record when not told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embervlm.data.prepared import open_prepared
from embervlm.data.record import write_records
from embervlm.data.shows import SHOWS
from embervlm.errors import UserError
from embervlm.inspection.verify import run_verify
from embervlm.settings import CacheSettings, VerifySettings
from embervlm.teachers.cache import run_cache
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.store import TeacherCache
from embervlm.train.run import run_train
from tests.tiny_teacher import make_tiny_reader
from tests.train.small_world import make_world, settings


@pytest.fixture
def world(tmp_path: Path) -> Path:
    data = make_world(tmp_path / "data", train=9, val=3)
    for split in ("train", "val"):
        records = open_prepared(data / "stage2").records(split)
        shown = [
            replace(r, metadata=r.metadata | ({SHOWS: f"A square: {r.image}."} if r.image else {})) for r in records
        ]
        write_records(data / "stage2" / f"{split}.jsonl", shown)
    return data


def test_caches_is_verified_and_teaches(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, cache = make_tiny_reader(tmp_path / "teacher"), tmp_path / "cache"
    run_cache(CacheSettings(teacher_model=str(folder), dataset_path=world / "stage2", output_dir=cache, device="cpu"))
    TeacherCache(cache).require(load_teacher(str(folder)).fingerprint())
    run_verify(
        VerifySettings(dataset_path=world / "stage2", preset="tiny", use_cached_teacher_outputs=cache, samples=6)
    )
    assert f'told by metadata["{SHOWS}"]' in " ".join(capsys.readouterr().out.split())
    taught = settings(world, tmp_path, disable_distillation=False, teacher_model=str(folder), max_steps=2)
    losses = []
    for out, caches in (("cached", (cache,)), ("live", None)):
        run_train(replace(taught, output_dir=tmp_path / out, use_cached_teacher_outputs=caches))
        assert "It sees no picture" in capsys.readouterr().out
        history = json.loads((tmp_path / out / "stage2/metrics.json").read_text())["history"]
        losses.append([entry["stage2/distill_loss"] for entry in history if "stage2/distill_loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and min(losses[0]) > 0


def test_one_record_that_is_not_told_stops_before_the_first_is_scored(world: Path, tmp_path: Path, monkeypatch) -> None:
    records = open_prepared(world / "stage2").records("val")
    forgotten = next(record for record in records if record.image)
    forgotten.metadata.pop(SHOWS)
    write_records(world / "stage2" / "val.jsonl", records)
    folder, cache = make_tiny_reader(tmp_path / "teacher"), tmp_path / "cache"
    monkeypatch.setattr("embervlm.teachers.told.ToldTeacher.score", None)
    with pytest.raises(UserError, match=f"1 of 3 records.*{forgotten.id} is the first"):
        run_cache(CacheSettings(teacher_model=str(folder), dataset_path=world / "stage2", output_dir=cache))
    with pytest.raises(UserError, match=f"{forgotten.id} is the first"):
        run_train(settings(world, tmp_path, disable_distillation=False, teacher_model=str(folder)))
