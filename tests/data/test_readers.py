"""The official formats and their traps: each test names what would otherwise go silently wrong."""

from pathlib import Path

import pytest

from embervlm.data.captions import read_captions
from embervlm.data.llava import read_llava
from embervlm.data.official import image_key
from embervlm.data.vqa import read_okvqa, read_vqa
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


def test_a_literal_placeholder_in_a_text_only_row_is_text(tmp_path: Path) -> None:
    record = _llava(tmp_path, llava_row(None, "What does <image> mean in HTML?", "Nothing.")).records[0]
    assert record.image is None and "<image>" in record.instruction


def test_ids_may_be_numbers_and_repeat(tmp_path: Path) -> None:
    rows = [llava_row("1.jpg", "Q", "A", id=7), llava_row("1.jpg", "Q", "A", id="7")]
    records = _llava(tmp_path, *rows).records
    assert [r.id for r in records] == ["llava-0", "llava-1"] and {r.metadata["id"] for r in records} == {"7"}


def test_a_first_turn_from_the_model_is_dropped(tmp_path: Path) -> None:
    row = llava_row("1.jpg", "x", "y")
    row["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    assert _llava(tmp_path, row).records[0].turns() == (("x", "y"),)


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
    import json

    content = json.loads(annotations.read_text())
    content["annotations"].reverse()
    content["annotations"][0]["multiple_choice_answer"] = "blue"  # that of image 2's second question
    dump(annotations, content)
    assert [r.response for r in read_vqa(questions, annotations).records] == ["red", "red", "red", "blue"]


def test_questions_without_annotations_say_so(tmp_path: Path) -> None:
    questions, _ = vqa_files(tmp_path, [1])
    with pytest.raises(UserError, match="without its annotations"):
        read_vqa(questions, None)


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
