"""What `embervlm prepare` checks, says and leaves behind when files are large, bad, or the same twice."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.full_size import prepare_words, write_full_size
from embervlm.data import prepare
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import PreparedSet
from embervlm.data.settings import PrepareSettings
from embervlm.data.writing import write_prepared
from embervlm.errors import UserError
from embervlm.options import parse
from tests.data.official_files import coco_pictures, dump, llava_row, picture, vqa_files

SHORT = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fiftieth of the official files, with pictures in a zip."""
    folder = tmp_path_factory.mktemp("full")
    write_full_size(folder, share=0.02, pictures="zip")
    return folder


def _run(full: Path, out: Path, *words: str) -> PreparedSet:
    return run_prepare(parse(PrepareSettings, [*prepare_words(full), f"--out={out}", *words]))[-1]


def _report(prepared: PreparedSet) -> dict:
    return json.loads((prepared.folder / "data_report.json").read_text())


@pytest.fixture
def files(tmp_path: Path) -> dict:
    questions, annotations = vqa_files(tmp_path, list(range(1, 41)))
    return {
        "image_root": coco_pictures(tmp_path / "images", list(range(1, 41))),
        "vqa": (questions,),
        "vqa_annotations": (annotations,),
        "out": tmp_path / "data",
        "val_fraction": 0.1,
    }


def test_any_number_of_processes_writes_the_same_bytes(full: Path, tmp_path: Path) -> None:
    def digests(workers: int) -> dict[str, str]:
        folder = _run(full, tmp_path / str(workers), "--vqa_samples=3000", f"--num_workers={workers}").folder
        return {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "dataset.json"
        }

    assert digests(1) == digests(2) == digests(3)
    assert [json.loads((tmp_path / w / "stage2/dataset.json").read_text())["splits"] for w in "12"][0]


def test_the_generated_files_have_the_shares_they_promise(full: Path, tmp_path: Path) -> None:
    report = _report(_run(full, tmp_path, "--vqa_samples=3000"))
    read = {name: found["rows"] for name, found in report["read"]["train"].items()}
    assert read == {"llava": 3155, "vqa": 8875, "okvqa": 180}
    assert not any(found["rejected"] for found in report["read"]["train"].values())
    train = report["splits"]["train"]
    kinds = train["vqa_v2"]["answer_types"]
    assert kinds["other"] / 3000 == pytest.approx(0.494, abs=0.02)
    assert kinds["yes/no"] / 3000 == pytest.approx(0.376, abs=0.02)
    assert train["vqa_v2"]["question_words"]["mean"] == pytest.approx(6.2, abs=0.1)
    assert train["llava_instruct"]["turns"] / train["llava_instruct"]["samples"] == pytest.approx(2.29, abs=0.1)
    assert train["llava_instruct"]["answer_words"]["mean"] == pytest.approx(47, abs=4)


def test_generated_files_are_the_same_for_the_same_seed(full: Path, tmp_path: Path) -> None:
    write_full_size(tmp_path, share=0.02, pictures="zip")
    for path in full.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(full)).read_bytes(), path.name


def test_subsets_keep_the_answer_types(full: Path, tmp_path: Path) -> None:
    small, whole = (
        _report(_run(full, tmp_path / n, f"--vqa_samples={n}"))["splits"]["train"]["vqa_v2"] for n in ("500", "0")
    )
    assert sum(small["answer_types"].values()) == 500
    for kind, count in small["answer_types"].items():
        assert abs(count - 500 * whole["answer_types"][kind] / whole["samples"]) < 1


def test_bad_rows_are_named_by_file_and_row_or_line(files: dict, tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "image": null, "instruction": "x", "response": "y"}',
        "{",
        '{"id": "b", "instruction": "x", "response": " "}',
        '{"id": "a", "instruction": "x", "response": "again"}',
        '{"id": "vqa-1000", "instruction": "x", "response": "the id of a question"}',
        '{"id": "c", "instruction": "\\ud800", "response": "y"}',
        '{"id": "d", "image": "../secret.jpg", "instruction": "x", "response": "y"}',
        '{"id": "f", "instruction": "<image>\\nx", "response": "y"}',
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    settings = PrepareSettings(**files, jsonl=(tmp_path / "own.jsonl",), max_rejects=0.5, val_jsonl=())
    # A source whose every picture is missing would stop: that is a wrong image root.
    settings.jsonl[0].write_text("\n".join([*lines, lines[-2].replace("../secret", f"{1:012d}").replace('"d"', '"e"')]))
    prepared = run_prepare(settings)[0]
    rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    assert {r["file"] for r in rejects} == {str(tmp_path / "own.jsonl")}
    assert [r["line"] for r in rejects] == [2, 4, 5, 6, 7, 8]  # nobody answered line 3 yet
    expected = ("not JSON", "'a' came before", "'vqa-1000' came before", "", "outside the image root", "has <image>")
    assert all(text in reject["reason"] for reject, text in zip(rejects, expected, strict=True))
    assert _report(prepared)["read"]["train"]["jsonl"] == {"rows": 9, "rejected": 6, "pictures_missing": 1}


def test_strict_stops_at_the_first(files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in (3, 4):
        (files["image_root"] / "train2014" / f"COCO_train2014_{i:012d}.jpg").unlink()
    with pytest.raises(UserError, match=r"questions.json, row 4: the image .* is not below") as caught:
        run_prepare(PrepareSettings(**files, strict=True, max_rejects=1.0))
    assert "--strict" in str(caught.value) and not files["out"].exists()


def test_too_many_rejects_leave_their_list_and_the_old_set(files: dict) -> None:
    before = run_prepare(PrepareSettings(**files))[0].path("train").read_bytes()
    (files["image_root"] / "train2014" / f"COCO_train2014_{3:012d}.jpg").unlink()
    with pytest.raises(UserError, match="2 of 80 rows cannot be used, more than 1.0%.*all are in"):
        run_prepare(PrepareSettings(**files))
    listed = files["out"].with_name("data.rejects.jsonl")
    assert len(listed.read_text().splitlines()) == 2
    assert (files["out"] / "stage2" / "train.jsonl").read_bytes() == before
    run_prepare(PrepareSettings(**files, max_rejects=0.1))
    assert [p.name for p in files["out"].iterdir()] == ["stage2"] and not listed.exists()


def test_pictures_need_not_be_there_when_nobody_looks(files: dict, tmp_path: Path) -> None:
    elsewhere = {**files, "image_root": tmp_path / "later"}
    prepared = run_prepare(PrepareSettings(**elsewhere, missing_images="ignore"))[0]
    assert sum(split["records"] for split in prepared.info["splits"].values()) == 80


def test_what_a_killed_run_left_is_swept_away(files: dict) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = files["out"] / f".prepare.{gone.pid}.partial"
    left.mkdir(parents=True)
    running = files["out"] / f".prepare.{os.getppid()}.partial"
    running.mkdir()
    run_prepare(PrepareSettings(**files))
    assert not left.exists() and running.exists()


def test_ctrl_c_leaves_what_was_there(files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_prepare(PrepareSettings(**files))[0].path("train").read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_report", stop)
    with pytest.raises(KeyboardInterrupt):
        run_prepare(PrepareSettings(**files, seed=1))
    assert [p.name for p in files["out"].iterdir()] == ["stage2"]
    assert (files["out"] / "stage2" / "train.jsonl").read_bytes() == before


def test_mix665k_beside_vqav2_is_counted_twice_and_said(files: dict, tmp_path: Path) -> None:
    """llava_v1_5_mix665k.json holds VQA-v2's training questions, one row a picture."""
    mixed = [
        llava_row(f"coco/train2017/{i:012d}.jpg", *turns)
        for i in range(1, 41)
        for turns in [(f"<image>\nWhat color is thing 0?{SHORT}", "Red", "What color is thing 1?", "Red")]
    ]
    own = [llava_row(f"{i:012d}.jpg", "<image>\nWhat is unusual here?", "Nothing.") for i in range(1, 41)]
    (note,) = _report(run_prepare(PrepareSettings(**files, llava=(dump(tmp_path / "m.json", mixed),)))[0])["notes"]
    assert "llava_instruct and vqa_v2 share 72 questions" in note and "mix665k" in note and "count twice" in note
    assert _report(run_prepare(PrepareSettings(**files, llava=(dump(tmp_path / "o.json", own),)))[0])["notes"] == []


def test_the_report_counts_what_does_not_fit_and_what_repeats(files: dict, tmp_path: Path) -> None:
    rows = [
        llava_row(f"{1:012d}.jpg", "Why?", "word " * 300),
        llava_row(f"{2:012d}.jpg", "why " * 300, "Because."),
        *[llava_row(f"{3:012d}.jpg", "Why?", "Because.")] * 3,
        llava_row(None, "Why?", "Because."),
    ]
    files["val_fraction"] = 0.01
    settings = PrepareSettings(**files, llava=(dump(tmp_path / "l.json", rows),), max_length=256)
    report = _report(run_prepare(settings)[0])
    said = report["splits"]["train"]["llava_instruct"]
    assert (said["samples"], said["truncated"], said["without_label"], said["duplicates"]) == (6, 2, 1, 2)
    assert (said["pictures"], said["without_picture"], said["turns"]) == (3, 1, 6)
    assert said["answer_words"]["max"] == 300 and sum(said["answer_words"]["histogram"]["counts"]) == 6
    page = (files["out"] / "stage2" / "data_report.html").read_text()
    assert "llava_instruct" in page and "1 samples have no answer within --max_length" in page


def test_okvqa_is_not_the_guides_fifty_thousand(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embervlm.data.report.OKVQA_ROWS", 180)
    report = _report(_run(full, tmp_path))
    kept = report["splits"]["train"]["ok_vqa"]["samples"] + report["splits"]["val"]["ok_vqa"]["samples"]
    assert kept == 180 and any("the guide plans 50,000 questions" in note for note in report["notes"])


def test_each_source_is_asked_in_its_own_words(files: dict, tmp_path: Path) -> None:
    questions, annotations = vqa_files(tmp_path / "ok", list(range(1, 41)), prefix="")
    both = {**files, "okvqa": (questions,), "okvqa_annotations": (annotations,)}
    texts = {"vqa_prompt": r"{question}\nAnswer with a word or short phrase.", "okvqa_prompt": "Q: {question}"}
    asked = {
        r.metadata["source"]: r.instruction
        for r in run_prepare(PrepareSettings(**both, **texts))[0].records("train")
        if r.id.endswith("1000")
    }
    assert asked["vqa_v2"].endswith("?\nAnswer with a word or short phrase.") and asked["ok_vqa"].startswith("Q: What")
    same = run_prepare(PrepareSettings(**both))[0].records("train")
    assert all(r.instruction.endswith(SHORT) for r in same)
    with pytest.raises(UserError, match="--okvqa_prompt is 'Answer.'; it needs {question}"):
        run_prepare(PrepareSettings(**both, okvqa_prompt="Answer."))


def test_a_missing_file_is_named_before_anything_is_read(files: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.json .*given as --llava"):
        run_prepare(PrepareSettings(**files, llava=(tmp_path / "gone.json",)))


def test_a_picture_has_one_name_however_rows_write_it(tmp_path: Path) -> None:
    """Each spelling was a picture of its own: the same one lay in train and in val."""
    root = tmp_path / "images"
    for name in ("gray", "red", "blue", "sub/green"):
        picture(root / f"{name}.png")
    (tmp_path / "link").symlink_to(root)
    names = ["gray.png", "./gray.png", "a/../gray.png", "sub//../gray.png"]
    names += [f"{root}/gray.png", f"{root}/./sub/../gray.png", f"{tmp_path}/link/gray.png"]
    others = ["red.png", "blue.png", "sub/./green.png"]
    rows = [{"id": f"{n}", "image": name, "instruction": f"Q{n}", "response": "A"} for n, name in enumerate(names)]
    outside = [{**rows[0], "id": f"out{n}", "image": name} for n, name in enumerate(["a/../../x.png", "/etc/x.png"])]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, [*rows, *outside])))
    talks = [llava_row(name, "<image>\nQ", "A") for name in [*names, *others]]
    texts = dump(tmp_path / "texts.json", {"./gray.png": "Gray.", f"{root}/red.png": "Red."})
    for seed in range(6):
        settings = PrepareSettings(
            out=tmp_path / "data",
            image_root=tmp_path / ("link" if seed % 2 else "images"),
            jsonl=(tmp_path / "own.jsonl",),
            llava=(dump(tmp_path / "talks.json", talks),),
            descriptions=(texts,),
            val_fraction=0.3,
            max_rejects=0.5,
            seed=seed,
        )
        (prepared,) = run_prepare(settings)
        shown = [{record.image for record in prepared.records(split)} for split in ("train", "val")]
        assert not shown[0] & shown[1] and shown[0] | shown[1] == {"gray.png", "red.png", "blue.png", "sub/green.png"}
        assert sum(split["pictures"] for split in prepared.info["splits"].values()) == 4
        rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
        assert [r["reason"].partition(" below")[0].partition(" the image root")[0] for r in rejects] == [
            "the image 'a/../../x.png' lies outside",
            "the image '/etc/x.png' lies outside",
        ]
        told = {r.image: r.metadata.get("shows") for split in ("train", "val") for r in prepared.records(split)}
        assert told == {"gray.png": "Gray.", "red.png": "Red.", "blue.png": None, "sub/green.png": None}


def test_pictures_that_are_there_and_broken_are_not_called_missing(files: dict, capsys) -> None:
    for i in (3, 4):
        (files["image_root"] / "train2014" / f"COCO_train2014_{i:012d}.jpg").write_bytes(b"no picture")
    run_prepare(PrepareSettings(**files, check_images=True, num_workers=1, max_rejects=0.1))
    assert "4 of 80 rows rejected, 2 pictures missing or unreadable" in " ".join(capsys.readouterr().out.split())


def test_a_record_without_a_source_is_called_the_same_everywhere(tmp_path: Path) -> None:
    """`prepare` said "unknown" and the table of `train` "None"."""
    rows = [
        {"id": f"{n}", "instruction": "Q", "response": "A", "metadata": {"source": None} if n % 2 else {}}
        for n in range(8)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (prepared,) = run_prepare(
        PrepareSettings(out=tmp_path / "data", image_root=tmp_path, jsonl=(tmp_path / "own.jsonl",), val_fraction=0.5)
    )
    assert prepared.info["splits"]["train"]["sources"] == {"unknown": 4}
    again = write_prepared(tmp_path / "again", tmp_path, {"train": prepared.records("train")}, {})
    assert again.info["splits"]["train"]["sources"] == {"unknown": 4}
