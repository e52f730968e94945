"""A prepared set is read whole, and nobody trains on records that nobody has answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from embervlm.data.prepare import run_prepare
from embervlm.data.record import Record, write_records
from embervlm.data.settings import PrepareSettings
from embervlm.errors import UserError


def test_unlabelled_records_are_prepared_counted_and_read_when_expected(tmp_path: Path) -> None:
    """An empty response would teach the student to say nothing."""
    talk = (("a", ""), ("b", "an answer to the second question"))
    train = [
        Record("bare", None, "Why?", " "),
        Record("half", None, *talk[0], talk),
        Record("full", None, "Why?", "so"),
    ]
    write_records(tmp_path / "train.jsonl", train)
    write_records(tmp_path / "val.jsonl", [Record("v", None, "Why?", "so")])
    settings = PrepareSettings(
        out=tmp_path / "data",
        image_root=tmp_path,
        jsonl=(tmp_path / "train.jsonl",),
        val_jsonl=(tmp_path / "val.jsonl",),
        max_rejects=0.5,
    )
    (prepared,) = run_prepare(settings)
    del train[1]  # half an answer is a bad row
    assert [record.labelled for record in train] == [False, True]
    assert prepared.info["splits"]["train"]["unlabelled"] == 1 and "unlabelled" not in prepared.info["splits"]["val"]
    assert prepared.records("train", unlabelled=True) == train
    with pytest.raises(UserError, match=r"1 of 2 records of .*train\.jsonl have no response .*bare.*embervlm answer"):
        prepared.records("train")
    assert len(prepared.records("val")) == 1
