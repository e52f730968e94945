"""Pictures that nobody asked about: what they borrow, and that the teacher's answers to it become data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from embervlm.answering.borrow import borrow, borrowed, pictures_below, questions_of
from embervlm.answering.run import run_answer
from embervlm.data.images import resolve_image
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import BORROWED, Record, write_records
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.demo import prepare_words
from embervlm.errors import UserError
from embervlm.options import parse
from embervlm.settings import AnswerSettings
from embervlm.train.run import run_train
from tests.train.small_world import settings as train_settings


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world in data/, and three pictures of another one in its image root, below more/."""
    folder = tmp_path_factory.mktemp("borrow")
    write_toy(folder / "toy", 6, 4, seed=3)
    run_prepare(parse(PrepareSettings, prepare_words(folder / "toy", folder)))
    write_toy(folder / "other", 3, 1, seed=5)
    more = folder / "toy" / "images" / "more" / "deep"
    more.mkdir(parents=True)
    for at, path in enumerate(sorted((folder / "other" / "images").rglob("*train*.jpg"))[:3]):
        Image.open(path).convert(("RGB", "L", "P")[at]).save(more / f"new{at}.png")
    return folder


@pytest.fixture
def world(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "world", symlinks=True))


def more(world: Path) -> Path:
    return world / "toy" / "images" / "more"


def answer(world: Path, **changed) -> PreparedSet:
    settings = {
        "teacher_model": "toy-llava", "dataset_path": world / "stage2", "output_dir": world / "answered",
        "ask": "unlabelled", "pictures": more(world), "questions_per_picture": 4, "min_confidence": 0.9,
        "max_new_tokens": 16, "device": "cpu",
    }  # fmt: skip
    run_answer(AnswerSettings(**{**settings, **changed}))
    return open_prepared(world / "answered" / "stage2")


def test_a_picture_borrows_the_same_questions_whatever_lies_beside_it(world: Path) -> None:
    """Otherwise a folder that grows would ask a teacher of a week all over again."""
    prepared = open_prepared(world / "stage2")
    pool = questions_of(prepared.records("train"))
    assert pool and all(r.answers and not r.conversations for r in pool)
    alone = list(borrowed("more/deep/new1.png", pool, 3, seed=0))
    there = borrow(prepared, more(world), 5, 0, world / "journal.jsonl")
    assert [r.image for r in there] == [f"more/deep/new{at}.png" for at in range(3) for _ in range(5)]
    assert there[5:8] == alone and there == borrow(prepared, more(world), 5, 0, world / "journal.jsonl")
    assert there != borrow(prepared, more(world), 5, 1, world / "journal.jsonl")
    lent = {record.id: record.instruction for record in pool}
    for record in there:
        assert not record.labelled and record.answers is None and record.metadata["source"] == BORROWED
        assert record.instruction == lent[record.metadata["borrowed_from"]]
    for at in range(3):
        assert len({r.instruction for r in there[5 * at : 5 * at + 5]}) == 5


def test_few_texts_lend_few_questions() -> None:
    pool = [Record(f"q{at}", "a.jpg", "same", "x", answers=("x",)) for at in range(3)]
    assert len(list(borrowed("b.jpg", pool, 4, 0))) == 1


def test_the_teachers_answers_become_records_beside_the_labels(world: Path, tmp_path: Path) -> None:
    made, before = answer(world), open_prepared(world / "stage2")
    labels, new = (
        [record for record in made.records("train") if (record.metadata["source"] == BORROWED) is mine]
        for mine in (False, True)
    )
    assert labels == before.records("train") and made.path("val").read_bytes() == before.path("val").read_bytes()
    told = made.info["answered"]["splits"]["train"]
    assert told["asked"] == 12 == told["kept"] + told["unsure"] + told["empty"] + told["cut"]
    assert 0 < len(new) == told["kept"] < 12
    for record in new:
        assert record.response and record.metadata["confidence"] >= 0.9
        assert resolve_image(made.image_root, record.image).is_file()
    settings = train_settings(made.folder.parent, tmp_path / "out", max_steps=2, source_weights=("borrowed=3",))
    assert run_train(settings) == 0


def test_what_is_known_broken_or_no_picture_is_left_out_and_counted(world: Path, capsys) -> None:
    prepared, folder = open_prepared(world / "stage2"), more(world)
    val = resolve_image(prepared.image_root, next(r.image for r in prepared.records("val") if r.image))
    shutil.copy(val, folder / val.name)  # under COCO's number: an evaluation would be taught its pictures
    (folder / "train2017").mkdir()
    shutil.copy(folder / "deep" / "new0.png", folder / "train2017" / "000000999999.png")
    shutil.copy(folder / "deep" / "new0.png", folder / "deep" / "COCO_train2014_000000999999.png")  # the same number
    (folder / "broken.jpg").write_bytes(val.read_bytes()[:300])
    (folder / "notes.txt").write_text("no picture")
    (folder / "._new0.png").write_bytes(b"beside it")
    outside = world / "outside.png"
    shutil.copy(folder / "deep" / "new0.png", outside)
    (folder / "link.png").symlink_to(outside)
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes((folder / "deep" / "new0.png").read_bytes())
    there = borrow(prepared, folder, 1, 0, world / "journal.jsonl")
    assert [r.image for r in there] == [
        "more/deep/COCO_train2014_000000999999.png",
        *(f"more/deep/new{at}.png" for at in range(3)),
    ]
    assert "9 pictures, 2 of them known, 3 not readable; the other 4 borrow 1 questions" in capsys.readouterr().out


def test_a_folder_that_grows_asks_about_what_is_new_only(world: Path, capsys) -> None:
    answer(world)
    shutil.copy(more(world) / "deep" / "new0.png", more(world) / "late.png")
    capsys.readouterr()
    answer(world, questions_per_picture=5)
    assert "20 answers (12 were there)" in capsys.readouterr().out


def test_without_a_limit_on_the_confidence_it_is_said_that_not_all_fit(world: Path, capsys) -> None:
    made = answer(world, min_confidence=0.0)
    assert "may not fit its picture; --min_confidence" in capsys.readouterr().out
    assert sum(r.metadata["source"] == BORROWED for r in made.records("train")) == 12


def test_what_cannot_be_is_said_before_the_teacher_is_loaded(world: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("embervlm.answering.run.load_teacher", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UserError, match="is not below the image root"):
        answer(world, pictures=tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        answer(world, pictures=world / "nowhere")
    with pytest.raises(UserError, match="become records of train"):
        answer(world, splits=("val",))
    (more(world) / "empty").mkdir()
    with pytest.raises(UserError, match="no picture to ask about: 0 are there"):
        answer(world, pictures=more(world) / "empty")
    prepared = open_prepared(world / "stage2")
    write_records(prepared.path("train"), [r for r in prepared.records("train") if r.conversations])
    with pytest.raises(UserError, match="no VQA question with a picture"):
        answer(world)


def test_only_files_that_look_like_pictures_are_listed(world: Path) -> None:
    root = world / "toy" / "images"
    assert set(pictures_below(more(world), root)) == {f"more/deep/new{at}.png" for at in range(3)}


@pytest.mark.parametrize("source", ["vqa_v2", "ok_vqa"])
def test_questions_that_nobody_answered_are_lent_too(source: str) -> None:
    asked = Record("q", "a.jpg", "What is it?", "", metadata={"source": source})
    told = Record("t", "a.jpg", "Describe it.", "A cat.", metadata={"source": "llava_instruct"})
    assert questions_of([asked, told]) == [asked]
