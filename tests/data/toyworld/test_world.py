"""The embedded world: deterministic, balanced, honest about what `val` holds, and in the official formats."""

import hashlib
import json
import random
import shlex
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from embervlm import cli
from embervlm.data.toyworld.draw import PIXELS, draw
from embervlm.data.toyworld.files import write_toy
from embervlm.data.toyworld.people import five_answers_twice, ten_answers
from embervlm.data.toyworld.questions import VQA_SHARES, VQA_TEMPLATES, Interviewer
from embervlm.data.toyworld.scene import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, Thing, sample_scene


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    write_toy(out, 120, 40, seed=3)
    return out


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def test_the_same_seed_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    write_toy(tmp_path / "again", 120, 40, seed=3)
    write_toy(tmp_path / "other", 120, 40, seed=4)
    assert _digest(tmp_path / "again") == _digest(toy) != _digest(tmp_path / "other")


def test_a_share_of_the_pictures_is_annotated_and_nothing_else_changes(tmp_path: Path) -> None:
    files = ("v2_mscoco_train2014_annotations.json", "mscoco_train2014_annotations.json")
    for name, share in (("all", 1.0), ("half", 0.5), ("few", 0.05)):
        counts = write_toy(tmp_path / name, 40, 4, 0, annotated=share)
        asked = counts["train"]["VQA-v2 questions"] + counts["train"]["OK-VQA questions"]
        assert (counts["train"]["questions with annotations"] < asked) is (share < 1)
    for file in files:
        rows = {
            name: {row["question_id"]: row for row in _rows(tmp_path / name, file, "annotations")}
            for name in ("all", "half", "few")
        }
        assert rows["few"].items() <= rows["half"].items() < rows["all"].items()
    assert len({row["image_id"] for row in _rows(tmp_path / "few", files[0], "annotations")}) == 2
    for folder in ("all", "half", "few"):
        for file in files:
            (tmp_path / folder / file).unlink()
    assert _digest(tmp_path / "all") == _digest(tmp_path / "half") == _digest(tmp_path / "few")


def test_the_command_that_fits_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With prepare's own prompt, the embedded teacher was asked questions that it cannot read."""
    words = ["toy", "--out", str(tmp_path / "a toy"), "--train_images", "8", "--val_images", "3", "--annotated", "0.5"]
    assert cli.main(words) == 0
    name, *printed = shlex.split(capsys.readouterr().out.split("\n\n")[-1].replace("\\\n", ""))
    assert name == "embervlm" and cli.main([*printed, "--out", str(tmp_path / "data")]) == 0
    asked = [json.loads(line) for line in (tmp_path / "data" / "stage2" / "train.jsonl").open(encoding="utf-8")]
    assert {row["metadata"]["source"] for row in asked} == {"vqa_v2", "ok_vqa", "llava_instruct"}
    assert all("\n" not in row["instruction"] for row in asked)
    assert any(not row["response"] for row in asked)


def _rows(toy: Path, name: str, key: str) -> list[dict]:
    return json.loads((toy / name).read_text())[key]


def test_questions_and_annotations_join_and_carry_ten_answers(toy: Path) -> None:
    for prefix, split in (("v2_", "train"), ("v2_", "val"), ("", "train"), ("", "val")):
        questions = _rows(toy, f"{prefix}OpenEnded_mscoco_{split}2014_questions.json", "questions")
        annotations = _rows(toy, f"{prefix}mscoco_{split}2014_annotations.json", "annotations")
        assert [q["question_id"] for q in questions] == [a["question_id"] for a in annotations]
        assert len({q["question_id"] for q in questions}) == len(questions)
        assert all(len(a["answers"]) == 10 for a in annotations)
        for q in questions:
            assert (toy / "images" / f"{split}2014" / f"COCO_{split}2014_{q['image_id']:012d}.jpg").is_file()


def test_answer_types_come_in_the_shares_of_vqa_v2(toy: Path) -> None:
    kinds = Counter(a["answer_type"] for a in _rows(toy, "v2_mscoco_train2014_annotations.json", "annotations"))
    for kind, share in VQA_SHARES.items():
        assert kinds[kind] / sum(kinds.values()) == pytest.approx(share, abs=0.02)


def test_yes_and_no_are_balanced_inside_each_template() -> None:
    rng, interviewer = random.Random(0), Interviewer()
    answers: dict[str, Counter] = defaultdict(Counter)
    for _ in range(1500):
        for asked in interviewer.vqa(sample_scene(rng, "never"), rng, 5):
            answers[asked.template][asked.answer] += 1
    assert set(answers) == set(VQA_TEMPLATES)
    for template, (kind, _) in VQA_TEMPLATES.items():
        share = answers[template].most_common(1)[0][1] / sum(answers[template].values())
        if kind == "yes/no":
            assert share < 0.56, template
        elif kind == "other":
            assert share < 0.40, template


def test_train_never_shows_a_held_out_pair_and_val_does(toy: Path) -> None:
    rng = random.Random(1)
    scenes = [sample_scene(rng, "never") for _ in range(2000)]
    assert not any(scene.has_held_out_pair for scene in scenes)
    assert all(sample_scene(rng, "always").has_held_out_pair for _ in range(200))
    assert json.loads((toy / "pairs_unseen_in_train_train.json").read_text()) == []
    assert len(json.loads((toy / "pairs_unseen_in_train_val.json").read_text())) > 4
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)


def test_no_scene_of_val_is_in_train(toy: Path) -> None:
    def captions(split: str) -> set[str]:
        return {row["conversations"][1]["value"] for row in json.loads((toy / f"captions_{split}.json").read_text())}

    pictures = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (toy / "images").rglob("*.jpg")}
    assert len(pictures) == 160
    assert not captions("train") & captions("val")


def _thing(colour: str, shape: str, cell: int, texture: str = "plain", size: str = "large") -> Thing:
    return Thing(shape, colour, texture, size, cell, (0.0, 0.0), 0.0, (0, 0, 0))


SCENE = Scene((_thing("red", "circle", 0), _thing("blue", "square", 4), _thing("red", "heart", 8)), (230, 230, 230), 1)


def test_answers_are_what_the_picture_shows() -> None:
    """A wrong template would teach everybody the same wrong thing, and no accuracy would show it."""
    asked = {q: a for _, ask in VQA_TEMPLATES.values() for q, a in ask(SCENE)}
    assert asked["What color is the heart?"] == "red"
    assert asked["What is the blue shape?"] == "square"
    assert "What is the red shape?" not in asked  # two of them
    assert asked["How many red shapes are there?"] == "2"
    assert asked["Is there a red square?"] == "no" and asked["Is there a red heart?"] == "yes"
    assert asked["Is the heart plain?"] == "yes" and asked["Are any of the shapes striped?"] == "no"
    assert asked["What shape is above the square?"] == "circle"
    assert asked["What shape is in the center?"] == "square"
    assert asked["Where is the heart?"] == "bottom right"


def test_the_picture_shows_the_colours_where_the_scene_says() -> None:
    pixels = np.asarray(draw(SCENE)).astype(int)
    assert pixels.shape == (PIXELS, PIXELS, 3)
    red, green, blue = pixels[16, 16]
    assert red > 180 and green < 80 and blue < 80
    red, green, blue = pixels[48, 48]
    assert blue > 160 and red < 80
    assert pixels[16, 80].min() > 200  # nothing there


def test_people_mostly_agree_and_sometimes_do_not() -> None:
    rng = random.Random(5)
    agree = [ten_answers(colour, rng).count(colour) / 10 for colour in COLOURS for _ in range(200)]
    assert 0.75 < np.mean(agree) < 0.97
    pairs = five_answers_twice("strawberry", rng)
    assert len(pairs) == 10 and pairs[::2] == pairs[1::2]
