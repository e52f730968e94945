"""What a picture shows: joined to the right picture whatever its name, or one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embervlm.data.prepare import run_prepare
from embervlm.data.record import Record
from embervlm.data.settings import PrepareSettings
from embervlm.data.shows import SHOWS, Descriptions, described, known, read_descriptions
from embervlm.data.toyworld.files import write_toy
from embervlm.errors import UserError
from tests.data.official_files import coco_pictures, dump, llava_row, vqa_files

TWO = "000000000002"


def test_texts_reach_every_record_of_a_picture_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """VQA-v2 and LLaVA name a picture differently; a text at the wrong picture would teach lies."""
    ids = [1, 2, 3]
    questions, annotations = vqa_files(tmp_path, ids)
    rows = [llava_row(f"{i:012d}.jpg", "<image>\nWhat?", f"Picture {i}.") for i in ids]
    texts = {f"COCO_train2014_{1:012d}.jpg": "One.", f"train2017/{TWO}.jpg": ["A two.", " ", "Another two. "]}
    stage1, stage2 = run_prepare(
        PrepareSettings(
            out=tmp_path / "data",
            image_root=coco_pictures(tmp_path / "images", ids),
            vqa=(questions,),
            vqa_annotations=(annotations,),
            llava=(dump(tmp_path / "llava.json", rows),),
            captions=(dump(tmp_path / "captions.json", rows),),
            descriptions=(dump(tmp_path / "texts.json", texts),),
            val_fraction=0.3,
        )
    )
    expected = {1: "One.", 2: "A two.\nAnother two.", 3: ""}
    records = [record for split in ("train", "val") for record in stage2.records(split)]
    assert len(records) == 9
    for record in records:
        assert known(record) == expected[int((record.image or "")[-16:-4])]
    assert not any(SHOWS in record.metadata for record in stage1.records("train"))
    said = " ".join(capsys.readouterr().out.split())
    assert "told of 2 of 3 pictures; 1 have none, such as 000000000003" in said


def test_cocos_captions_and_instances_are_read_as_they_are(tmp_path: Path) -> None:
    images = [{"id": 2, "file_name": f"{TWO}.jpg"}, {"id": 7, "file_name": "000000000007.jpg"}]
    captions = [{"image_id": 2, "caption": f"Caption {n}."} for n in (1, 2)]
    objects = [{"image_id": 2, "category_id": kind} for kind in (18, 1, 1)]
    kinds = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    files = (
        dump(tmp_path / "captions.json", {"images": images, "annotations": captions}),
        dump(tmp_path / "instances.json", {"images": images, "annotations": objects, "categories": kinds}),
    )
    texts = {key: said for key, said in read_descriptions(files).items() if said}
    assert texts == {TWO: ["Caption 1.", "Caption 2.", "Objects: dog, 2 person."]}


def test_what_a_record_says_itself_is_kept() -> None:
    record = Record("a", f"{TWO}.jpg", "?", "!", metadata={"source": "x", SHOWS: "Mine."})
    assert known(described(record, {TWO: ["Mine.", "Theirs."]})) == "Mine.\nTheirs."
    assert described(replace(record, image=None), {TWO: ["Theirs."]}).metadata == record.metadata


@pytest.mark.parametrize(
    "content, complaint",
    [
        ({"another.jpg": "Text."}, "of none of the pictures"),
        ({f"{TWO}.jpg": 3}, "text or a list of texts"),
        ([1], "holds an array"),
        ({"images": [], "annotations": [{"image_id": 2}]}, "neither a caption nor"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path: Path, content: object, complaint: str) -> None:
    line = json.dumps(Record("a", f"{TWO}.jpg", "?", "!").to_json()).encode()
    with pytest.raises(UserError, match=complaint):
        told = Descriptions((dump(tmp_path / "texts.json", content),))
        told.add(line)
        told.summary()


def test_the_embedded_world_describes_all_its_pictures(tmp_path: Path) -> None:
    write_toy(tmp_path, 3, 2, seed=0)
    for split, count in (("train", 3), ("val", 2)):
        texts = read_descriptions([tmp_path / f"descriptions_{split}.json"])
        pictures = {path.name[-16:-4] for path in (tmp_path / "images" / f"{split}2014").iterdir()}
        assert texts.keys() == pictures and len(pictures) == count
        assert all("shapes on a light background" in text for (text,) in texts.values())


def test_ids_and_categories_of_any_kind_are_a_sentence_or_nothing(tmp_path: Path) -> None:
    """A list as an id is no key of a dictionary."""
    images = [{"id": 2, "file_name": f"{TWO}.jpg"}, {"id": [], "file_name": "x.jpg"}, {"id": 3, "file_name": {}}, 4]
    notes = [{"image_id": "2", "caption": "A dog."}, {"image_id": {}, "caption": "Lost."}]
    path = dump(tmp_path / "x.json", {"images": images, "annotations": notes, "categories": 5})
    assert read_descriptions((path,))[TWO] == ["A dog."]
    for kind in ([], {}, None, 7):
        with pytest.raises(UserError, match="neither a caption nor a known category"):
            read_descriptions((dump(path, {"images": images, "annotations": [{"image_id": 2, "category_id": kind}]}),))
