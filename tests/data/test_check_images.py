"""--check_images finds what only decoding finds, and never decodes the same file twice."""

import json
from pathlib import Path

import pytest

from embervlm.data import check_images
from embervlm.data.check_images import JOURNAL, Decoder
from embervlm.data.images import load_image, resolve_image
from embervlm.data.prepare import run_prepare
from embervlm.data.settings import PrepareSettings
from embervlm.data.workers import Workers
from embervlm.errors import UserError
from tests.data.official_files import coco_pictures, picture, vqa_files


@pytest.fixture
def settings(tmp_path: Path) -> dict:
    questions, annotations = vqa_files(tmp_path, list(range(1, 41)))
    root = coco_pictures(tmp_path / "images", list(range(1, 41)))
    (root / "train2014" / f"COCO_train2014_{7:012d}.jpg").write_bytes(b"\xff\xd8 cut off")
    return {
        "image_root": root,
        "vqa": (questions,),
        "vqa_annotations": (annotations,),
        "out": tmp_path / "data",
        "max_rejects": 0.1,
        "num_workers": 1,
    }


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were opened."""
    opened: list[str] = []
    monkeypatch.setattr(
        check_images, "load_image", lambda place: (opened.append(Path(place).name), load_image(place))[1]
    )
    return opened


def test_a_picture_that_is_there_but_broken_is_rejected(settings: dict) -> None:
    assert len(run_prepare(PrepareSettings(**settings))[0].records("train")) + 2 * 1 <= 80
    assert not (run_prepare(PrepareSettings(**settings))[0].folder / "rejects.jsonl").exists()
    prepared = run_prepare(PrepareSettings(**settings, check_images=True))[0]
    rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    assert [r["row"] for r in rejects] == [12, 13] and all("not a readable picture" in r["reason"] for r in rejects)


def test_processes_find_the_same(settings: dict) -> None:
    def content(workers: int) -> bytes:
        prepared = run_prepare(PrepareSettings(**{**settings, "num_workers": workers}, check_images=True))[0]
        (settings["out"] / JOURNAL).unlink()
        return prepared.path("train").read_bytes() + (prepared.folder / "rejects.jsonl").read_bytes()

    assert content(1) == content(2)


def test_nothing_is_decoded_twice_and_what_changed_is(settings: dict, decoded: list[str]) -> None:
    run_prepare(PrepareSettings(**settings, check_images=True))
    assert len(decoded) == len(set(decoded)) == 40
    mended = settings["image_root"] / "train2014" / f"COCO_train2014_{7:012d}.jpg"
    picture(mended)
    decoded.clear()
    prepared = run_prepare(PrepareSettings(**settings, check_images=True, seed=1))[0]
    assert decoded == [mended.name] and not (prepared.folder / "rejects.jsonl").exists()


def test_a_run_that_was_killed_goes_on(settings: dict, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def until(place: Path) -> object:
        if len(decoded) == 35:
            raise Killed
        decoded.append(Path(place).name)
        return load_image(place)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(check_images, "load_image", until)
        run_prepare(PrepareSettings(**settings, check_images=True))
    journal = settings["out"] / JOURNAL
    assert len(journal.read_text().splitlines()) == 32  # whole chunks
    with journal.open("a") as file:
        file.write('{"picture": "half a li')
    decoded.clear()
    run_prepare(PrepareSettings(**settings, check_images=True))
    assert len(decoded) == 8
    for line in journal.read_text().splitlines()[33:]:
        json.loads(line)


def test_reasons_come_from_the_journal_too(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no")
    places = {"x.jpg": resolve_image(tmp_path, "x.jpg")}
    with Decoder(tmp_path / JOURNAL, Workers(1)) as first:
        reasons = first.reasons(places)
    with Decoder(tmp_path / JOURNAL, Workers(1)) as second:
        assert second.reasons(places) == reasons and "no known format" in reasons["x.jpg"] and second.decoded == 0


def test_looking_at_none_and_at_all_is_a_contradiction(settings: dict) -> None:
    with pytest.raises(UserError, match="leave one out"):
        run_prepare(PrepareSettings(**settings, check_images=True, missing_images="ignore"))


def test_damaged_lines_of_the_journal_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL
    lines = ['{"picture": "a", "reason": []}', '{"picture": "b", "reason": 5}', "[" * 100_000, "5", '{"picture": "c"']
    journal.write_text("\n".join(lines) + "\n")
    place = picture(tmp_path / "x.png")
    with Decoder(journal, Workers(1)) as decoder:
        assert decoder.reasons({"x": place}) == {} and decoder.decoded == 1
