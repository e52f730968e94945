"""The official formats and their traps: each test names what would otherwise go silently wrong."""

import json
from pathlib import Path

import pytest

from embervlm.data.captions import captions_file, read_captions
from embervlm.data.llava import read_llava
from embervlm.data.official import image_key, read
from embervlm.data.vqa import VqaFiles, read_okvqa, read_vqa
from embervlm.errors import UserError
from tests.data.official_files import dump, llava_row, vqa_files


def _llava(tmp_path: Path, *rows: object):
    return read_llava(dump(tmp_path / "llava.json", list(rows)))


def test_conversations_stay_whole(tmp_path: Path) -> None:
    record = _llava(tmp_path, llava_row("1.jpg", "<image>\nQ1", "A1", "Q2", "A2", "Q3", "A3")).records[0]
    assert record.turns() == (("Q1", "A1"), ("Q2", "A2"), ("Q3", "A3"))
    assert (record.instruction, record.response) == ("Q1", "A1")


@pytest.mark.parametrize("question", ["<image>\nWhy?", "Why?\n<image>", "<image>Why?", "Why?<image>"])
def test_the_placeholder_is_taken_out_wherever_it_stands(tmp_path: Path, question: str) -> None:
    assert _llava(tmp_path, llava_row("1.jpg", question, "So.")).records[0].instruction == "Why?"


@pytest.mark.parametrize("question", ["<image>\nWhat is it?", "What does <image> mean in HTML?"])
def test_the_placeholder_in_a_row_without_a_picture_is_a_reject(tmp_path: Path, question: str) -> None:
    """Such a record asked about a picture that nobody shows, and teachers stopped at the marker."""
    rows = [
        llava_row(None, question, "A."),
        llava_row(None, "Q1", "A1", question, "A2"),
        llava_row(None, "Q", "<image>"),
    ]
    found = _llava(tmp_path, *rows)
    assert [r.instruction for r in found.records] == ["Q"]
    assert [str(r).partition(": ")[2] for r in found.rejects] == [
        "a question has <image>, but the row names no image"
    ] * 2


def test_ids_may_be_numbers_and_repeat(tmp_path: Path) -> None:
    rows = [llava_row("1.jpg", "Q", "A", id=7), llava_row("1.jpg", "Q", "A", id="7")]
    records = _llava(tmp_path, *rows).records
    assert [r.id for r in records] == ["llava-0", "llava-1"] and {r.metadata["id"] for r in records} == {"7"}


def test_a_first_turn_from_the_model_is_dropped(tmp_path: Path) -> None:
    row = llava_row("1.jpg", "x", "y")
    row["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    assert _llava(tmp_path, row).records[0].turns() == (("x", "y"),)


@pytest.mark.parametrize("key", ["conversation", "messages", "conversations"])
@pytest.mark.parametrize("parts", [False, True])
def test_turns_of_other_makers_are_the_same_turns(tmp_path: Path, key: str, parts: bool) -> None:
    """`conversation`, role and content, content in parts: derived sets have them all."""
    said = [("user", "<image>\nQ1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")]
    turns = [{"role": role, "content": text} for role, text in said]
    if parts:
        turns = [
            {"role": r, "content": [{"type": "image", "text": None}, {"type": "text", "text": t}]} for r, t in said
        ]
    record = _llava(tmp_path, {"image": "1.jpg", key: turns}).records[0]
    assert record.turns() == (("Q1", "A1"), ("Q2", "A2"))


@pytest.mark.parametrize("image", ["1.jpg", ["1.jpg"], {"path": "1.jpg", "bytes": None}, [{"path": "1.jpg"}]])
@pytest.mark.parametrize("key", ["image", "images"])
def test_a_picture_may_be_a_text_a_list_or_an_object(tmp_path: Path, image: object, key: str) -> None:
    assert _llava(tmp_path, {**llava_row(None, "Q", "A"), key: image}).records[0].image == "1.jpg"


@pytest.mark.parametrize("image", [None, "", []])
def test_a_row_with_an_empty_image_is_text(tmp_path: Path, image: object) -> None:
    assert _llava(tmp_path, {**llava_row(None, "Q", "A"), "image": image}).records[0].image is None


def test_two_placeholders_in_a_turn_and_in_two_turns_are_all_taken_out(tmp_path: Path) -> None:
    record = _llava(tmp_path, llava_row("1.jpg", "<image><image>\nQ1", "A <image>", "<image> Q2", "A2")).records[0]
    assert record.turns() == (("Q1", "A <image>"), ("Q2", "A2"))


def test_lines_are_read_where_the_name_says_so(tmp_path: Path) -> None:
    rows = [llava_row("1.jpg", "Q", "A"), llava_row("2.jpg", "Q", "A")]
    path = tmp_path / "llava.jsonl"
    path.write_text("\n".join(["", json.dumps(rows[0]), "{", json.dumps(rows[1])]))
    found = read_llava(path)
    assert [r.image for r in found.records] == ["1.jpg", "2.jpg"]
    assert found.rejects[0].to_json()["line"] == 3 and "not JSON" in found.rejects[0].reason


def test_rows_that_cannot_be_used_are_rejected_with_a_reason(tmp_path: Path) -> None:
    twice = llava_row("1.jpg", "x", "y")
    twice["conversations"][1]["from"] = "human"
    bad = [
        twice,
        llava_row("1.jpg", "x", ""),
        llava_row("1.jpg", "<image>", "y"),
        {"id": 3},
        "text",
        llava_row("1.jpg", "only a question"),
        {**llava_row("1.jpg", "x", "y"), "image": 7},
        {**llava_row("1.jpg", "x", "y"), "image": ["1.jpg", "2.jpg"]},
        {**llava_row("1.jpg", "x", "y"), "image": {"bytes": None}},
        {"conversations": [{"from": ["human"], "value": "x"}, {"from": "gpt", "value": {"y": 1}}]},
        {"conversations": [None, 3]},
        {"conversations": [{"from": "system", "value": "x"}]},
    ]
    found = _llava(tmp_path, *bad, llava_row("1.jpg", "x", "y"))
    assert [r.row for r in found.rejects] == list(range(len(bad))) and len(found.records) == 1
    assert "alternate" in found.rejects[0].reason


def test_the_most_common_answer_is_the_response_and_all_ten_travel(tmp_path: Path) -> None:
    record = read_vqa(*vqa_files(tmp_path, [9])).records[0]
    assert record.response == "red" and record.answers == ("red",) * 6 + ("blue",) * 4
    assert record.id == "vqa-9000" and record.metadata["question_id"] == 9000
    assert record.image == "COCO_train2014_000000000009.jpg"


def test_okvqa_trains_on_raw_answers_and_scores_stemmed_ones(tmp_path: Path) -> None:
    record = read_okvqa(*vqa_files(tmp_path, [9], prefix="")).records[0]
    assert record.response == "reds" and record.answers is not None and record.answers[0] == "red"
    assert record.metadata["source"] == "ok_vqa"


def test_the_prompt_template_keeps_the_bare_question(tmp_path: Path) -> None:
    record = read_vqa(*vqa_files(tmp_path, [9]), template="{question} Briefly.").records[0]
    assert record.instruction.endswith("? Briefly.") and record.metadata["question"].endswith("?")


def test_questions_join_by_id_not_by_order(tmp_path: Path) -> None:
    questions, annotations = vqa_files(tmp_path, [1, 2])
    content = json.loads(annotations.read_text())
    content["annotations"].reverse()
    content["annotations"][0]["multiple_choice_answer"] = "blue"  # that of image 2's second question
    dump(annotations, content)
    assert [r.response for r in read_vqa(questions, annotations).records] == ["red", "red", "red", "blue"]


def _rewritten(path: Path, change) -> Path:
    """The file with each of its rows changed."""
    content = json.loads(path.read_text())
    (rows,) = (rows for rows in content.values() if isinstance(rows, list))
    for row in rows:
        change(row)
    return dump(path, content)


def test_ids_join_whether_they_are_numbers_or_texts(tmp_path: Path) -> None:
    questions, annotations = vqa_files(tmp_path, [9])
    _rewritten(annotations, lambda row: row.update(question_id=str(row["question_id"]), image_id=str(row["image_id"])))
    assert [r.id for r in read_vqa(questions, annotations).records] == ["vqa-9000", "vqa-9001"]


def test_answers_may_be_texts_and_the_majority_answers_for_a_missing_one(tmp_path: Path) -> None:
    def change(row: dict) -> None:
        row["answers"] = ["", "", "", "blue", "blue", "red"]
        del row["multiple_choice_answer"]

    questions, annotations = vqa_files(tmp_path, [9])
    record = read_vqa(questions, _rewritten(annotations, change)).records[0]
    assert record.response == "blue" and record.answers == ("", "", "", "blue", "blue", "red")
    assert read_okvqa(questions, annotations).records[0].response == "blue"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": None}, "has no answers"),
        ({"answers": []}, "has no answers"),
        ({"answers": [{"answer": " "}], "multiple_choice_answer": None}, "only empty answers"),
        ({"answers": "red"}, "has no answers"),
        ({"image_id": 5}, "is about image 9, its annotation about 5"),
        ({"question_id": None}, "has no annotation"),
    ],
)
def test_a_bad_annotation_is_a_reason(tmp_path: Path, change: dict, reason: str) -> None:
    questions, annotations = vqa_files(tmp_path, [9])
    content = json.loads(annotations.read_text())
    content["annotations"][0].update(change)
    found = read_vqa(questions, dump(annotations, content))
    assert len(found.records) == 1 and reason in found.rejects[0].reason and found.rejects[0].row == 0


@pytest.mark.parametrize("question", [None, 7.5, {"question": None}, {"question": " "}, {"image_id": "x"}, [1]])
def test_a_bad_question_is_a_reason(tmp_path: Path, question: object) -> None:
    questions, annotations = vqa_files(tmp_path, [9])
    content = json.loads(questions.read_text())
    first = content["questions"][0]
    content["questions"][0] = first | question if isinstance(question, dict) else question
    found = read_vqa(dump(questions, content), annotations)
    assert len(found.records) == len(found.rejects) == 1


def test_questions_without_annotations_say_so(tmp_path: Path) -> None:
    questions, _ = vqa_files(tmp_path, [1])
    with pytest.raises(UserError, match="without its annotations"):
        read_vqa(questions, None)


def test_questions_without_annotations_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    """VQA-v2's test2015 has no annotations at all; of other sets a part may be annotated."""
    questions, annotations = vqa_files(tmp_path, [7, 9])
    content = json.loads(annotations.read_text())
    content["annotations"] = [note for note in content["annotations"] if note["image_id"] == 9]
    partly = dump(tmp_path / "partly.json", content)
    for kind in ("vqa", "okvqa"):
        whole = read(VqaFiles(questions, annotations, kind, "{question}")).records
        for said, silent in ((partly, 7), (None, 0)):
            found = read(VqaFiles(questions, said, kind, "{question}", unlabelled=True))
            assert not found.rejects and [r.id for r in found.records] == [r.id for r in whole]
            for record, full in zip(found.records, whole, strict=True):
                bare = silent == 0 or f"{silent:012d}" in str(record.image)
                assert record.labelled is not bare
                assert record.instruction == full.instruction and record.image == full.image
                assert record == full or (bare and record.answers is None and record.answer_type is None)
    assert len(read_vqa(questions, partly).rejects) == 2  # not unless it is asked for


def test_files_of_different_sets_or_swapped_are_refused(tmp_path: Path) -> None:
    questions, annotations = vqa_files(tmp_path / "a", [1])
    _, other = vqa_files(tmp_path / "b", [2])
    with pytest.raises(UserError, match="different sets"):
        read_vqa(questions, other)
    with pytest.raises(UserError, match="is it the annotations file"):
        read_vqa(annotations, questions)


def test_malformed_json_says_where(tmp_path: Path) -> None:
    broken = tmp_path / "llava.json"
    broken.write_text('[{"id": 1,\n "conversations": ]')
    with pytest.raises(UserError, match="line 2, column 19"):
        read_llava(broken)
    with pytest.raises(UserError, match="holds an object"):
        read_llava(dump(broken, {}))
    with pytest.raises(UserError, match="cannot read"):
        read_llava(tmp_path / "none.json")


def test_captions_of_both_official_formats(tmp_path: Path) -> None:
    pretrain = dump(tmp_path / "p.json", [llava_row("00/1.jpg", "Describe.\n<image>", "a dog")])
    assert read_captions(pretrain).records[0].response == "a dog"
    coco = {
        "images": [{"id": 5, "file_name": "COCO_train2014_000000000005.jpg"}],
        "annotations": [{"image_id": 5, "id": 1, "caption": " A cat. "}, {"image_id": 6, "id": 2, "caption": "x"}],
    }
    found = read_captions(dump(tmp_path / "c.json", coco))
    assert [r.response for r in found.records] == ["A cat."] and "not in the file's list" in found.rejects[0].reason


def test_one_coco_picture_has_one_key_under_all_its_names() -> None:
    names = ["COCO_train2014_000000123456.jpg", "000000123456.jpg", "coco/train2017/000000123456.jpg"]
    assert len({image_key(name) for name in names}) == 1
    assert image_key("vg/VG_100K/2.jpg") != image_key("vg/VG_100K_2/2.jpg")


@pytest.mark.parametrize(
    "name",
    [
        "a/b/COCO_val2014_000000123456.png",
        "COCO_test-dev2015_000000123456.jpg",
        "unlabeled2017/000000123456.jpg",
        "data/coco/val2017/000000123456.jpg",
        "converted/000000123456.png",  # out of a table whose rows have COCO's numbers
    ],
)
def test_cocos_names_are_known_in_cocos_folders(name: str) -> None:
    assert image_key(name) == "000000123456"


@pytest.mark.parametrize(
    "name",
    [
        "left/202401151230.jpg",
        "ep1/000000000012.jpg",
        "frame_000000000012.jpg",
        "20240115123000.jpg",
        "train2017/1000000000012.jpg",
        "train2017/extra/000000000012.jpg",
        "mytrain2017/000000000012.jpg",
        "train1999/000000000012.jpg",
        "left/converted/000000000012.jpg",
        "COCO_train2014_x_000000000012.jpg",
        "000000000012.jpg/a.jpg",
    ],
)
def test_digits_of_cameras_and_counters_are_no_cocos(name: str) -> None:
    """Two cameras' pictures of one minute were one: a packed row showed the left one for both."""
    assert image_key(name) == name


def test_cocos_captions_are_asked_for_as_the_person_wants(tmp_path: Path) -> None:
    content = {
        "images": [{"id": "5", "file_name": "a.jpg"}, 3],
        "annotations": [{"image_id": 5, "caption": "A cat."}, []],
    }
    found = read(captions_file(dump(tmp_path / "c.json", content), "x-", "Describe it."))
    assert [(r.id, r.image, r.instruction) for r in found.records] == [("x-0", "a.jpg", "Describe it.")]
    assert len(found.rejects) == 1
