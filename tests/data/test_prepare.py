"""`embervlm prepare`: splits without a common picture, honest counts, nothing half-written."""

import hashlib
import json
from pathlib import Path

import pytest

from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import open_prepared
from embervlm.data.record import Record, read_records, write_records
from embervlm.data.settings import PrepareSettings
from embervlm.errors import UserError
from tests.data.official_files import coco_pictures, dump, llava_row, vqa_files


@pytest.fixture
def files(tmp_path: Path) -> dict:
    """40 pictures, two VQA questions and one conversation about each, captions too; LLaVA names them by digits."""
    ids = list(range(1, 41))
    root = coco_pictures(tmp_path / "images", ids)
    questions, annotations = vqa_files(tmp_path, ids)
    rows = [llava_row(f"{i:012d}.jpg", "<image>\nWhat?", f"Picture {i}.") for i in ids]
    return {
        "image_root": root,
        "vqa": (questions,),
        "vqa_annotations": (annotations,),
        "llava": (dump(tmp_path / "llava.json", rows),),
        "captions": (dump(tmp_path / "captions.json", rows),),
        "out": tmp_path / "data",
        "val_fraction": 0.2,
    }


def _digits(record: Record) -> str:
    assert record.image is not None
    return record.image[-16:-4]


def test_train_and_val_share_no_picture_whatever_its_name(files: dict) -> None:
    stage1, stage2 = run_prepare(PrepareSettings(**files))
    for prepared in (stage1, stage2):
        train, val = ({_digits(r) for r in prepared.records(split)} for split in ("train", "val"))
        assert len(val) == 8 and len(train) == 32 and not train & val
    assert {r.metadata["source"] for r in stage2.records("val")} == {"llava_instruct", "vqa_v2"}


def test_val_files_take_their_pictures_away_from_train(files: dict, tmp_path: Path) -> None:
    rows = [llava_row(f"{i:012d}.jpg", "Q", "A") for i in (1, 2)]
    prepared = run_prepare(PrepareSettings(**files, val_llava=(dump(tmp_path / "v.json", rows),)))[1]
    assert {_digits(r) for r in prepared.records("val")} == {f"{1:012d}", f"{2:012d}"}
    assert len(prepared.records("train")) == 38 * 3
    assert prepared.info["dropped_from_train_for_val_pictures"] == 6


def test_subsets_are_chosen_by_seed_to_the_byte(files: dict) -> None:
    def digest(seed: int) -> str:
        prepared = run_prepare(PrepareSettings(**files, vqa_samples=20, seed=seed))[1]
        assert prepared.info["splits"]["train"]["sources"]["vqa_v2"] == 20
        return hashlib.sha256(b"".join(prepared.path(s).read_bytes() for s in ("train", "val"))).hexdigest()

    assert digest(1) == digest(1) != digest(2)


def test_missing_pictures_are_rejected_and_counted(files: dict) -> None:
    (files["image_root"] / "train2014" / f"COCO_train2014_{3:012d}.jpg").unlink()
    with pytest.raises(UserError, match="more than 1.0%"):
        run_prepare(PrepareSettings(**files))
    with pytest.raises(UserError, match="cannot be used"):
        run_prepare(PrepareSettings(**files, strict=True, max_rejects=1.0))
    prepared = run_prepare(PrepareSettings(**files, max_rejects=0.1))[1]
    rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == 4 and all("is not below" in r["reason"] for r in rejects)


def test_a_wrong_image_root_is_one_sentence(files: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 40 pictures"):
        run_prepare(PrepareSettings(**{**files, "image_root": tmp_path / "elsewhere"}))
    assert not (tmp_path / "data").exists()


def test_a_foreign_folder_is_not_overwritten(files: dict) -> None:
    target = files["out"] / "stage2"
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run_prepare(PrepareSettings(**files))
    assert [p.name for p in target.iterdir()] == ["thesis.txt"]


def test_prepared_again_replaces_the_set_and_leaves_nothing_behind(files: dict) -> None:
    run_prepare(PrepareSettings(**files))
    run_prepare(PrepareSettings(**{**files, "captions": ()}))
    assert sorted(p.name for p in files["out"].iterdir()) == ["stage1", "stage2"]
    assert sorted(p.name for p in (files["out"] / "stage2").iterdir()) == [
        "data_report.html",
        "data_report.json",
        "dataset.json",
        "train.jsonl",
        "val.jsonl",
    ]


def test_questions_that_nobody_answered_are_kept_and_counted(files: dict, tmp_path: Path) -> None:
    """A second file without annotations: VQA-v2's test questions, say."""
    more, _ = vqa_files(tmp_path / "more", [51, 52], subset="test2015")
    pictures = {f"COCO_test2015_{number:012d}.jpg" for number in (51, 52)}
    for name in pictures:
        (files["image_root"] / name).write_bytes(b"")
    both = files | {"vqa": (*files["vqa"], more)}
    with pytest.raises(UserError, match="annotations file, in the same order, or --unlabelled keep"):
        run_prepare(PrepareSettings(**both))
    with pytest.raises(UserError, match="--vqa has 1 files and --vqa_annotations 2"):
        run_prepare(PrepareSettings(**{**files, "vqa_annotations": files["vqa_annotations"] * 2}, unlabelled="keep"))
    before = run_prepare(PrepareSettings(**files))[1].info["splits"]
    prepared = run_prepare(PrepareSettings(**both, unlabelled="keep"))[1]
    splits = ("train", "val")
    silent = [r for split in splits for r in prepared.records(split, unlabelled=True) if not r.labelled]
    assert len(silent) == 4 and {str(r.image).rpartition("/")[2] for r in silent} == pictures
    assert sum(prepared.info["splits"][split].get("unlabelled", 0) for split in splits) == 4
    assert sum(len(prepared.records(split)) for split in splits) == sum(before[split]["records"] for split in splits)
    report = json.loads((prepared.folder / "data_report.json").read_text())
    assert any("samples have no answer" in note for note in report["notes"])
    assert report["splits"]["train"]["vqa_v2"]["answer_words"]["mean"] == 1  # of the questions with an answer


def test_clear_words_for_what_is_missing(files: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to prepare"):
        run_prepare(PrepareSettings(out=tmp_path / "x"))
    with pytest.raises(UserError, match="each questions file needs its annotations"):
        run_prepare(PrepareSettings(**{**files, "vqa_annotations": ()}))
    with pytest.raises(UserError, match="'val' would be empty"):
        run_prepare(PrepareSettings(**{**files, "val_fraction": 0.0}))
    with pytest.raises(UserError, match="not a prepared data set"):
        open_prepared(tmp_path / "x")
    prepared = run_prepare(PrepareSettings(**files))[1]
    with pytest.raises(UserError, match="has no split 'test'; it has: train, val"):
        prepared.records("test")


def test_records_round_trip(tmp_path: Path) -> None:
    records = [
        Record("a", None, "Ünïcode?", "yes", None, ("yes",) * 10, "yes/no", {"source": "x"}),
        Record("b", "1.jpg", "Q1", "A1", (("Q1", "A1"), ("Q2", "A2"))),
    ]
    write_records(tmp_path / "r.jsonl", records)
    assert read_records(tmp_path / "r.jsonl") == records


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected a JSON object"),
        ('{"id": "b", "instruction": "x"}', "line 2: response must be text"),
        ('{"id": "a", "instruction": "x", "response": "y"}', "line 2: the id 'a' is already that of line 1"),
        ('{"id": "b", "instruction": "x", "response": "y", "image": 3}', "line 2: image must be"),
        (
            '{"id": "b", "instruction": "x", "response": "y", "conversations": [{"value": "x"}]}',
            "line 2: conversations",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "a", "instruction": "x", "response": "y"}\n' + line + "\n")
    with pytest.raises(UserError, match=complaint):
        read_records(tmp_path / "r.jsonl")
