"""Converted sets: what the columns say, whatever form their cells have; pictures under names that splits can use."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from embervlm.data.official import Read, read
from embervlm.data.prepare import run_prepare
from embervlm.data.settings import LLAVA_SHORT, PrepareSettings
from embervlm.data.tables import TableFiles, TableMaker
from embervlm.errors import UserError
from tests.data.official_files import coco_pictures, vqa_files

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def _png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _cell(colour: str = "red", path: str | None = None) -> dict[str, Any]:
    """As raw Parquet has a picture."""
    return {"bytes": _png(colour), "path": path}


def _question(number: int | str = 9000, **more: Any) -> dict[str, Any]:
    """lmms-lab/VQAv2."""
    answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)]
    row = {"question_id": number, "image_id": 9, "question": "What color?", "answers": answers, "image": _cell()}
    return row | {"multiple_choice_answer": "red", "answer_type": "other", "question_type": "what color"} | more


def _write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def _read(tmp_path: Path, path: Path) -> Read:
    return read(TableFiles(path, TableMaker("parquet-", tmp_path / "images", LLAVA_SHORT, LLAVA_SHORT)))


def test_vqav2_as_lmms_lab_has_it(tmp_path: Path) -> None:
    record = _read(tmp_path, _write(tmp_path / "x.parquet", [_question()])).records[0]
    assert (record.id, record.response, record.answers) == ("vqa-9000", "red", ("red",) * 10)
    assert record.image == "converted/000000000009.png" and record.metadata["source"] == "vqa_v2"
    assert (tmp_path / "images" / record.image).read_bytes() == _png()
    assert record.instruction.endswith("phrase.") and record.metadata["question"] == "What color?"


def test_a_test_split_without_answers_is_kept_where_that_is_wanted(tmp_path: Path) -> None:
    """lmms-lab/VQAv2's test split: null instead of answers."""
    path = _write(tmp_path / "x.parquet", [_question(), _question(7, answers=None, multiple_choice_answer=None)])
    assert [reject.row for reject in _read(tmp_path, path).rejects] == [1]
    maker = TableMaker("parquet-", tmp_path / "images", LLAVA_SHORT, LLAVA_SHORT, unlabelled=True)
    found = read(TableFiles(path, maker))
    assert not found.rejects and [record.labelled for record in found.records] == [True, False]
    assert found.records[1].answers is None and found.records[1].metadata["question"] == "What color?"


def test_okvqa_with_answers_as_texts_and_ids_as_texts(tmp_path: Path) -> None:
    row = _question("95", answers=["red", "blue", "red"], image=_cell(path="COCO_val2014_000000000009.jpg"))
    del row["multiple_choice_answer"], row["image_id"]
    record = _read(tmp_path, _write(tmp_path / "x.parquet", [row])).records[0]
    assert (record.id, record.response, record.answers) == ("okvqa-95", "red", ("red", "blue", "red"))
    assert record.metadata["source"] == "ok_vqa" and record.image == "converted/COCO_val2014_000000000009.jpg"


def test_okvqa_with_the_raw_answers_in_a_column_of_their_own(tmp_path: Path) -> None:
    """Multimodal-Fatima/OK-VQA_train: answers as texts, answers_original as objects, id_image."""
    said = [{"answer": "run", "raw_answer": "running", "answer_confidence": "yes", "answer_id": 1}]
    row = {"question": "What?", "answers": ["run"], "answers_original": said, "id_image": 7, "image": _cell()}
    record = _read(tmp_path, _write(tmp_path / "x.parquet", [row])).records[0]
    assert (record.response, record.answers, record.image) == ("running", ("run",), "converted/000000000007.png")


def test_a_set_without_ids_answers_or_types(tmp_path: Path) -> None:
    """merve/vqav2-small: multiple_choice_answer, question, image."""
    rows = [{"multiple_choice_answer": said, "question": "Q?", "image": _cell(said)} for said in ("red", "blue")]
    rows += [{"multiple_choice_answer": said, "question": "Q?", "image": _cell()} for said in ("yes", "2")]
    records = _read(tmp_path, _write(tmp_path / "x.parquet", rows)).records
    assert len({r.id for r in records}) == 4 and all(r.answers is None for r in records)
    assert [r.answer_type for r in records] == ["other", "other", "yes/no", "number"]
    assert records[0].image == records[2].image != records[1].image  # by content: one picture is one file


def test_cauldron_and_finevision_rounds(tmp_path: Path) -> None:
    texts = [
        {"user": "<image>\nQ1", "assistant": "A1", "source": "x"},
        {"user": "Q2", "assistant": "A2", "source": "x"},
    ]
    rows = [
        {"images": [_cell()], "texts": texts, "source": "vqav2", "relevance_min": 5},
        {"images": [], "texts": texts[1:], "source": "text"},
        {"images": [_cell(), _cell("blue")], "texts": texts, "source": "two"},
        {"images": [_cell()], "texts": [], "source": "none"},
        {"images": [_cell()], "texts": [{"user": None, "assistant": "A"}], "source": "null"},
    ]
    found = _read(tmp_path, _write(tmp_path / "x.parquet", rows))
    assert [(r.metadata["source"], r.turns()) for r in found.records] == [
        ("vqav2", (("Q1", "A1"), ("Q2", "A2"))),
        ("text", (("Q2", "A2"),)),
    ]
    assert found.records[1].image is None
    assert [(r.row, r.reason.split(";")[0]) for r in found.rejects][0] == (2, "2 pictures in a row")
    assert [r.row for r in found.rejects] == [2, 3, 4]


def test_messages_in_parts_with_pictures_beside_them(tmp_path: Path) -> None:
    """HuggingFaceH4/llava-instruct-mix-vsft."""
    said = [("user", [("text", "Q"), ("image", None)]), ("assistant", [("text", "A")])]
    messages = [{"role": r, "content": [{"type": k, "text": t, "index": 0} for k, t in parts]} for r, parts in said]
    record = _read(tmp_path, _write(tmp_path / "x.parquet", [{"messages": messages, "images": [_cell()]}])).records[0]
    assert record.turns() == (("Q", "A"),) and str(record.image).startswith("converted/")


@pytest.mark.parametrize("image", ["a/1.jpg", {"bytes": None, "path": "a/1.jpg"}, {"bytes": b"", "path": "a/1.jpg"}])
def test_a_picture_may_be_a_path(tmp_path: Path, image: Any) -> None:
    found = _read(tmp_path, _write(tmp_path / "x.parquet", [_question(image=image)]))
    assert found.records[0].image == "a/1.jpg" and not (tmp_path / "images").exists()


def test_a_picture_may_be_bare_bytes_or_known_by_its_id_only(tmp_path: Path) -> None:
    assert _read(tmp_path, _write(tmp_path / "x.parquet", [_question(image=_png())])).records[0].image is not None
    row = {name: value for name, value in _question().items() if name != "image"}
    assert _read(tmp_path, _write(tmp_path / "y.parquet", [row])).records[0].image == "000000000009.jpg"


def test_a_path_inside_the_table_cannot_choose_where_to_write(tmp_path: Path) -> None:
    row = _question(image=_cell(path="../../COCO_val2014_000000000009.jpg"))
    assert _read(tmp_path, _write(tmp_path / "x.parquet", [row])).records[0].image == (
        "converted/COCO_val2014_000000000009.jpg"
    )
    hostile = {"question": "Q?", "multiple_choice_answer": "a", "image": _cell("blue", "../../evil.png")}
    name = _read(tmp_path, _write(tmp_path / "y.parquet", [hostile])).records[0].image
    assert name is not None and ".." not in name and not list(tmp_path.glob("**/evil*"))


@pytest.mark.parametrize("form", ["stream", "file", "parquet"])
def test_row_numbers_go_through_all_files_of_a_folder_and_rejects_name_their_own(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(2):
        rows = [{"texts": [{"user": f"{i}{j}", "assistant": "" if j == 4 else "A"}], "images": []} for j in range(5)]
        table = pa.Table.from_pylist(rows)
        if form == "parquet":
            pq.write_table(table, folder / f"train-{i}.parquet", row_group_size=2)
        else:
            make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
            with make(str(folder / f"data-{i}.arrow"), table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
    found = _read(tmp_path, folder)
    assert [r.id for r in found.records] == [f"parquet-{n}" for n in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert [(Path(r.file).name[-9:-6].strip("-."), r.row) for r in found.rejects][0][1] == 4
    assert [r.row for r in found.rejects] == [4, 4] and len({r.file for r in found.rejects}) == 2


def test_a_folder_of_several_splits_is_not_mixed(tmp_path: Path) -> None:
    for name in ("train-0", "validation-0"):
        _write(tmp_path / f"{name}.parquet", [_question()])
    with pytest.raises(UserError, match=r"several splits \(train, validation\)"):
        _read(tmp_path, tmp_path)


def test_clear_words_for_other_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the columns a, b; expected one of texts"):
        _read(tmp_path, _write(tmp_path / "x.parquet", [{"a": 1, "b": 2}]))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read"):
        _read(tmp_path, tmp_path / "y.parquet")
    with pytest.raises(UserError, match="holds no .parquet"):
        (tmp_path / "empty").mkdir()
        _read(tmp_path, tmp_path / "empty")


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "x.parquet", [_question()])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'embervlm\[parquet\]'"):
        _read(tmp_path, path)


def test_a_converted_set_beside_official_files_shares_no_picture_with_val(tmp_path: Path) -> None:
    """The same picture is `converted/000000000009.png` here and COCO_train2014_000000000009.jpg there."""
    ids = list(range(1, 21))
    questions, annotations = vqa_files(tmp_path, ids)
    rows = [_question(500 + i, image_id=i, question=f"Other {i}?") for i in ids]
    colours = ("blue", "green", "white", "black", "orange")
    rows += [_question(600 + i, image=_cell(colour), image_id=None) for i, colour in enumerate(colours)]
    prepared = run_prepare(
        PrepareSettings(
            out=tmp_path / "data",
            image_root=coco_pictures(tmp_path / "images", ids),
            vqa=(questions,),
            vqa_annotations=(annotations,),
            parquet=(_write(tmp_path / "x.parquet", rows),),
            val_fraction=0.2,
            num_workers=2,
        )
    )[0]
    train, val = ({(r.image or "")[-16:-4] for r in prepared.records(s)} for s in ("train", "val"))
    assert len(val) >= 4 and not train & val
    assert any("pictures came without COCO's name" in note for note in _notes(prepared.folder))


def _notes(folder: Path) -> list[str]:
    return json.loads((folder / "data_report.json").read_text())["notes"]


@pytest.mark.parametrize(
    "cell",
    [
        {"bytes": _png(), "path": f"{1:012d}.{'j' * 300}"},
        {"bytes": _png(), "path": f"COCO_{'a' * 300}_{1:012d}.jpg"},
        {"bytes": _png(), "path": f"{1:012d}.jpg\n"},
    ],
)
def test_a_path_in_a_table_makes_no_name_that_no_file_can_have(tmp_path: Path, cell: dict[str, Any]) -> None:
    record = _read(tmp_path, _write(tmp_path / "x.parquet", [_question(image=cell, image_id="9" * 400)])).records[0]
    assert record.image and len(record.image) < 60 and (tmp_path / "images" / record.image).read_bytes() == _png()


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_offsets_that_lead_out_of_the_file_are_a_sentence(tmp_path: Path, ending: str) -> None:
    """Arrow followed them and the process died."""
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    table = pa.table({"id": ["abc", "def", "ghi"], "conversations": [turns] * 3, "image": ["a.jpg"] * 3})
    path = tmp_path / f"x.{ending}"
    if ending == "arrow":
        with pa.ipc.new_stream(path, table.schema) as file:
            file.write_table(table)
        content = path.read_bytes()
        offsets = b"".join(n.to_bytes(4, "little") for n in (0, 3, 6, 9))
        assert content.count(offsets) == 1
        damaged = content.replace(offsets, offsets[:12] + (1 << 30).to_bytes(4, "little"))
    else:
        pq.write_table(table, path, compression="none", use_dictionary=False)
        damaged = path.read_bytes().replace(b"So.", b"\xff\xfe.")  # not UTF-8
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"x.{ending} cannot be read .*download or write it again"):
        _read(tmp_path, path)


def test_a_column_whose_name_is_not_utf8_is_a_sentence(tmp_path: Path) -> None:
    table = pa.table({"question": ["Why?"], "zzzzzzzz": ["x"]})
    with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as file:
        file.write_table(table)
    content = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "x.arrow").write_bytes(content.replace(b"zzzzzzzz", b"\xff" * 8))
    with pytest.raises(UserError, match="x.arrow cannot be read .*utf-8"):
        _read(tmp_path, tmp_path / "x.arrow")
