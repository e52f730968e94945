"""A prepared set is read whole, and nobody trains on records that nobody has answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import open_prepared
from embervlm.data.record import Record, write_records
from embervlm.data.settings import PrepareSettings
from embervlm.errors import UserError


def test_unlabelled_records_are_prepared_counted_and_read_when_expected(tmp_path: Path, capsys) -> None:
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
    capsys.readouterr()
    assert prepared.records("train") == train[1:]
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 records" in said and "have no response and are left out" in said and "--ask unlabelled" in said
    prepared.records("train")
    prepared.records("val")
    assert not capsys.readouterr().out  # once, and only where records are left out
    write_records(prepared.path("train"), train[:1])
    with pytest.raises(UserError, match=r"1 of 1 records of .*train\.jsonl have no response; .*embervlm answer"):
        open_prepared(prepared.folder).records("train")


def _folder(tmp_path: Path, line: str = "", info: str = '{"image_root": "."}') -> Path:
    good = '{"id": "a", "instruction": "Why?", "response": "So."}'
    (tmp_path / "train.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    (tmp_path / "dataset.json").write_text(info, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('"metadata": "x"', "metadata must be an object"),
        ('"metadata": [1]', "metadata must be an object"),
        ('"metadata": {"a": ' + "[" * 70 + "]" * 70 + "}", "nested at most 64 deep"),
        ('"other": ' + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('"other": ' + "9" * 5000, "digits"),
        ('"answers": 5', "answers must be a list of texts"),
        ('"answers": "red"', "answers must be a list of texts"),
        ('"answers": [null]', "answers must be a list of texts"),
        ('"answer_type": []', "answer_type must be a text"),
        ('"conversations": 5', "conversations must be pairs"),
        ('"conversations": [{"value": "a"}, {"value": null}]', "with a text as value"),
        ('"metadata": {"a": "\\ud83d"}', "not valid Unicode"),
    ],
)
def test_a_damaged_record_is_named_by_its_line(tmp_path: Path, more: str, reason: str) -> None:
    """Each of these ended in a traceback, or, as letters of an answer, in nonsense."""
    line = '{"id": "b", "instruction": "Why?", "response": "So.", ' + more + "}"
    with pytest.raises(UserError, match=rf"train.jsonl, line 2: .*{reason}"):
        open_prepared(_folder(tmp_path, line)).records("train")


def test_prepare_rejects_what_the_loader_would_refuse(tmp_path: Path) -> None:
    good = [f'{{"id": "{n}", "instruction": "Why?", "response": "So."}}' for n in range(4)]
    bad = [
        '{"id": "x", "instruction": "Why?", "response": "So.", ' + more + "}"
        for more in ('"answer_type": []', '"answers": "red"', '"metadata": {"a": ' + "[" * 500 + "]" * 500 + "}")
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(good + bad), encoding="utf-8")
    settings = PrepareSettings(
        out=tmp_path / "data", image_root=tmp_path, jsonl=(tmp_path / "x.jsonl",), val_fraction=0.5, max_rejects=0.5
    )
    (prepared,) = run_prepare(settings)
    rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [5, 6, 7]
    assert len(prepared.records("train")) + len(prepared.records("val")) == 4


@pytest.mark.parametrize(
    "info",
    [
        "[" * 100_000,
        '{"image_root": 5}',
        '{"image_root": "a\\u0000b"}',
        '{"image_root": "\\ud800"}',
        '{"image_root": ".", "x": ' + "9" * 5000 + "}",
        "[]",
    ],
)
def test_a_damaged_dataset_json_is_a_sentence(tmp_path: Path, info: str) -> None:
    with pytest.raises(UserError, match="dataset.json cannot be read .*embervlm prepare"):
        open_prepared(_folder(tmp_path, info=info))


def test_a_folder_too_high_or_too_low_is_told_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest mistakes: the advice was to prepare a set anew, into the wrong folder."""
    monkeypatch.chdir(tmp_path)
    (stage2 := Path("data/stage2")).mkdir(parents=True)
    _folder(stage2)

    def said(folder: str) -> str:
        with pytest.raises(UserError) as caught:
            open_prepared(folder)
        return str(caught.value)

    assert said("data").endswith("(it has no dataset.json); data/stage2 is one: name it")
    for stage in (1, 2):  # train --data_dir data/stage2
        assert said(f"data/stage2/stage{stage}").endswith(
            "(there is no such folder); data/stage2 is one: give the folder that holds it, `--data_dir data`"
        )
    assert said("data/stage2/train").endswith("data/stage2 is one: name it")
    assert said("other").endswith("make one with `embervlm prepare --out .`")
    Path("data/stage1").mkdir()
    _folder(Path("data/stage1"))
    assert said("data").endswith("data/stage1 and data/stage2 are: name one of them")
    monkeypatch.chdir(stage2)
    assert said("stage1").endswith("`--data_dir ..`")
