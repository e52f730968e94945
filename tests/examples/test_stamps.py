"""examples/stamps on a small folder of stamps that the test draws itself."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

STAMPS = Path(__file__).parents[2] / "examples" / "stamps"
sys.path.insert(0, str(STAMPS))

import build  # noqa: E402
import labels  # noqa: E402
import pictures  # noqa: E402
import questions  # noqa: E402
import stories  # noqa: E402


def draw_stamps(root: Path) -> Path:
    """Every third labelled stamp (and the whole frog family) as a random drawing under its real path."""
    rng = random.Random(0)
    for number, (path, label) in enumerate(labels.read_labels().items()):
        if number % 3 and "frog" not in path:
            continue
        image = Image.new("RGBA", (40, 30))
        pen = ImageDraw.Draw(image)
        for _ in range(12):
            x, y = rng.randrange(40), rng.randrange(30)
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(*rng.choices(range(256), k=3), 255))
        file = root / f"{path}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        file.with_suffix(".txt").write_text(f"A {label.name or 'thing'}.\nde.utf8=Ein Ding.\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stamps = draw_stamps(tmp_path_factory.mktemp("stamps"))
    out = tmp_path_factory.mktemp("official")
    assert build.main(["--stamps", str(stamps), "--out", str(out), "--size", "64"]) == 0
    return out


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def vqa(folder: Path, split: str) -> list[tuple[dict, dict]]:
    asked = {q["question_id"]: q for q in read(folder, f"v2_OpenEnded_mscoco_{split}2014_questions.json")["questions"]}
    rows = read(folder, f"v2_mscoco_{split}2014_annotations.json")["annotations"]
    assert sorted(asked) == sorted(row["question_id"] for row in rows)
    return [(asked[row["question_id"]], row) for row in rows]


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_have_the_official_shape(built: Path, split: str) -> None:
    for question, row in vqa(built, split):
        assert question["image_id"] == row["image_id"]
        assert [a["answer_id"] for a in row["answers"]] == list(range(1, 11))
        common = Counter(a["answer"] for a in row["answers"]).most_common(1)[0][0]
        assert row["multiple_choice_answer"] == common
        assert row["question_type"] and row["answer_type"] in ("yes/no", "number", "other")
        name = f"COCO_{split}2014_{row['image_id']:012d}.jpg"
        assert (built / "images" / f"{split}2014" / name).is_file()
    for file in (f"llava_instruct_{split}.json", f"captions_{split}.json"):
        for row in read(built, file):
            said = row["conversations"]
            assert [turn["from"] for turn in said] == ["human", "gpt"] * (len(said) // 2)
            assert [turn["value"].count("<image>") for turn in said] == [1] + [0] * (len(said) - 1)
            assert (built / "images" / f"{split}2014" / f"COCO_{split}2014_{row['image']}").is_file()


def test_pictures_are_opaque_rgb_of_one_size(built: Path) -> None:
    for file in (built / "images").rglob("*.jpg"):
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("RGB", (64, 64))


@pytest.mark.parametrize("split", ["train", "val"])
def test_always_yes_gains_nothing(built: Path, split: str) -> None:
    votes = defaultdict(Counter)
    for question, row in vqa(built, split):
        if row["answer_type"] == "yes/no":
            votes[question["question"]][row["multiple_choice_answer"]] += 1
    assert votes
    for question, count in votes.items():
        assert count["yes"] == count["no"], question


def test_no_open_answer_is_more_common_than_all_others_in_train(built: Path) -> None:
    votes = defaultdict(Counter)
    for _, row in vqa(built, "train"):
        if row["answer_type"] == "other":
            votes[row["question_type"]][row["multiple_choice_answer"]] += 1
    for template, count in votes.items():  # a template is sampled after it was balanced: leave chance some room
        assert max(count.values()) <= 0.75 * count.total() or count.total() < 8, template


def test_equal_arguments_give_equal_files(built: Path, tmp_path: Path) -> None:
    stamps = draw_stamps(tmp_path / "stamps")
    assert build.main(["--stamps", str(stamps), "--out", str(tmp_path / "again"), "--size", "64"]) == 0
    for file in built.rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(built)).read_bytes(), file


def test_few_is_what_is_known_about_a_tenth_of_the_pictures(built: Path) -> None:
    """Otherwise the example's student would be told what it is said not to know."""
    notes = {row["question_id"]: row for row in read(built, "v2_mscoco_train2014_annotations.json")["annotations"]}
    told = {row["id"]: row for row in read(built, "llava_instruct_train.json")}
    few = read(built, "few/v2_mscoco_train2014_annotations.json")["annotations"]
    few_told = read(built, "few/llava_instruct_train.json")
    pictures = {int(row["id"]) for row in few_told}
    assert len(pictures) == round(0.1 * len(told))
    assert {row["image_id"] for row in few} <= pictures
    assert few == [row for row in notes.values() if row["image_id"] in pictures]
    assert few_told == [row for row in told.values() if int(row["id"]) in pictures]


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    loaded = build.load(draw_stamps(tmp_path), 64, with_svg=False)
    for seed in range(5):
        parts = build.split(loaded, 0.15, seed)
        share = len(parts["val"]) / len(loaded)
        assert 0.08 < share < 0.2
        for key in (lambda p: p.stamp.description, lambda p: p.label.facts.get("family")):
            train, val = ({key(p) for p in parts[name]} - {None, "A thing."} for name in ("train", "val"))
            assert not train & val


def test_recoloured_drawing_is_a_near_duplicate(tmp_path: Path) -> None:
    prints = []
    for number, colour in enumerate(["red", "blue"]):
        image = Image.new("RGBA", (50, 50))
        ImageDraw.Draw(image).polygon([(5, 45), (25, 5), (45, 45)], fill=colour)
        file = tmp_path / f"{number}.png"
        image.save(file)
        drawn = pictures.render(pictures.Stamp("same/paper", file, ""), 64)
        assert drawn is not None
        prints.append(pictures.fingerprint(drawn))
    prints.append((2**64 - 1, 0))
    assert pictures.bits_apart(prints[0], prints[1]) <= build.NEAR
    first, second, other = pictures.groups([("a",), ("b",), ("c",)], prints, build.NEAR)
    assert first == second != other


def test_stem_joins_numbered_names_and_no_others() -> None:
    assert pictures.stem("space/rocket1") == pictures.stem("space/rocket2") == "space/rocket"
    assert pictures.stem("animals/frog-1") == "animals/frog"
    assert pictures.stem("halloween/grave-a") == "halloween/grave"
    assert pictures.stem("dishes/glass") == "dishes/glass"


def test_empty_picture_is_left_out_and_broken_one_is_named(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8)).save(tmp_path / "empty.png")
    assert pictures.render(pictures.Stamp("x", tmp_path / "empty.png", ""), 32) is None
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(build.UserError, match="broken.png"):
        pictures.render(pictures.Stamp("x", tmp_path / "broken.png", ""), 32)


@pytest.mark.parametrize("make", [False, True])
def test_wrong_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool) -> None:
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    assert build.main(["--stamps", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(folder) in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_labels_use_each_fact_consistently() -> None:
    table = labels.read_labels()
    assert len(table) == 945
    for path, label in table.items():
        assert label.style in ("photo", "drawing", ""), path
        assert not label.subkind or label.kind, path
        assert label.facts.get("legs", "4").isdigit() and label.facts.get("flies", "no") in ("yes", "no"), path
        assert bool(label.name) == bool(label.head), path


def test_ten_answers_agree_unless_another_word_is_as_true() -> None:
    assert questions.ten("owl") == ("owl",) * 10
    assert Counter(questions.ten("guitar", "electric guitar")) == {"guitar": 7, "electric guitar": 3}
    assert Counter(questions.ten("airplane")) == {"airplane": 7, "plane": 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("owl", "an owl"),
        ("race car", "a race car"),
        ("scissors", "scissors"),
        ("bus", "a bus"),
        ("cup of coffee", "a cup of coffee"),
        ("bread", "bread"),
        ("mars", "Mars"),
        ("moon", "the moon"),
        ("iris", "an iris"),
    ],
)
def test_articles(words: str, said: str) -> None:
    assert stories.named(words) == said


def test_baselines_know_what_train_says_most() -> None:
    def asked(question: str, answer: str) -> questions.Asked:
        return questions.Asked(0, "what is this", "other", question, questions.ten(answer))

    train = [asked("What is this?", "owl"), asked("What is this?", "owl"), asked("What bird is this?", "crow")]
    table = build.baselines(train, [asked("What bird is this?", "crow"), asked("What is this?", "airplane")])
    assert table["all"]["most common answer to the template"] == 0
    assert table["all"]["most common answer to the question"] == 50
    assert table["all"]["answer in train"] == 50
