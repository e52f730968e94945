"""Turns the pictures of Debian's tuxpaint-stamps-default into a data set in the official file formats.

    python examples/stamps/build.py --stamps /usr/share/tuxpaint/stamps --out data/stamps_official

Writes VQA-v2 questions and annotations, LLaVA conversations, LLaVA-Pretrain captions and the stamps' own descriptions
for train and val (split by picture), the pictures under COCO names, and baselines.json; and in few/ what there would be
if a share of train's pictures had been annotated. Equal arguments, equal files.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labels import Label, read_labels
from pictures import Stamp, find_stamps, fingerprint, groups, render, stem
from PIL import Image
from questions import Asked, ask
from stories import CAPTION_PROMPTS, told, turns

from embervlm.errors import UserError

FIRST_ID = {"train": 1, "val": 500_001}
NEAR = 3  # of 128 hash bits: closer than this is the same drawing in another colour


@dataclass(frozen=True, slots=True)
class Picture:
    stamp: Stamp
    label: Label
    image: Image.Image


def load(root: Path, size: int, with_svg: bool) -> list[Picture]:
    """All labelled stamps as pictures. Stamps of another release that labels.tsv does not know are left out."""
    labels = read_labels()
    loaded = []
    for stamp in find_stamps(root):
        known = stamp.path in labels and (with_svg or stamp.file.suffix != ".svg")
        image = render(stamp, size) if known else None
        if image is not None:
            loaded.append(Picture(stamp, labels[stamp.path], image))
    if not loaded:
        raise UserError(f"none of the stamps in {root} is in labels.tsv: expected paths such as animals/birds/owl.png")
    return loaded


def split(pictures: list[Picture], val_share: float, seed: int) -> dict[str, list[Picture]]:
    """train and val, by groups of near-duplicates, `val_share` of every kind.

    Pictures with one description, one name with another number, one family (labels.tsv) or nearly one look stay
    together.
    """
    keys = []
    for p in pictures:
        mine = ["description " + p.stamp.description.lower(), "stem " + stem(p.stamp.path)]
        keys.append((*mine, "family " + p.label.facts["family"]) if "family" in p.label.facts else tuple(mine))
    members = defaultdict(list)
    for i, group in enumerate(groups(keys, [fingerprint(p.image) for p in pictures], NEAR)):
        members[group].append(i)
    by_kind = defaultdict(list)
    for ids in members.values():
        by_kind[pictures[ids[0]].label.kind, pictures[ids[0]].label.subkind].append(ids)
    rng, due = random.Random(seed), 0.0
    val: set[int] = set()
    for _, kind_groups in sorted(by_kind.items()):
        rng.shuffle(kind_groups)
        due += val_share * sum(map(len, kind_groups))  # what a small kind leaves undone, the next one does
        for ids in kind_groups[: max(1, len(kind_groups) // 3)]:
            if len(ids) <= due - len(val) + 0.5:
                val.update(ids)
    return {
        "train": [p for i, p in enumerate(pictures) if i not in val],
        "val": [p for i, p in enumerate(pictures) if i in val],
    }


def write_split(out: Path, split_name: str, pictures: list[Picture], seed: int, annotated: float) -> list[Asked]:
    """Writes one split's pictures and its five files; returns its questions.

    Of train also few/: the annotations and conversations of a share of the pictures, drawn by `seed`.
    """
    rng = random.Random(f"{seed}-{split_name}")
    subset, first = f"{split_name}2014", FIRST_ID[split_name]
    folder = out / "images" / subset
    folder.mkdir(parents=True, exist_ok=True)
    captions, conversations, descriptions = [], [], {}
    for i, picture in enumerate(pictures):
        digits = f"{first + i:012d}"
        name = f"COCO_{subset}_{digits}.jpg"
        picture.image.save(folder / name, quality=92)
        descriptions[name] = picture.stamp.description
        for words in dict.fromkeys((picture.stamp.description, told(picture.label, picture.stamp.description))):
            captions.append(_row(digits, [(rng.choice(CAPTION_PROMPTS), words)], after=True))
        conversations.append(
            _row(digits, turns(picture.label, picture.stamp.description, rng), after=rng.random() < 0.5)
        )
    asked = ask([p.label for p in pictures], rng)
    questions, annotations, count = [], [], Counter[int]()
    for a in asked:
        image_id = first + a.picture
        number = image_id * 1000 + count[image_id]
        count[image_id] += 1
        questions.append({"image_id": image_id, "question": a.question, "question_id": number})
        answers = [
            {"answer": answer, "answer_confidence": "yes", "answer_id": k}
            for k, answer in enumerate(a.answers, start=1)
        ]
        annotations.append(
            {
                "question_type": a.template,
                "multiple_choice_answer": a.answers[0],
                "answers": answers,
                "image_id": image_id,
                "answer_type": a.answer_type,
                "question_id": number,
            }
        )
    head = {
        "info": {
            "description": "Tux Paint stamps as VQA",
            "url": "https://tuxpaint.org",
            "version": "1.0",
            "year": 2026,
        },
        "license": {"name": "GPL-2.0-or-later (pictures and descriptions)", "url": "https://www.gnu.org/licenses/"},
        "data_type": "mscoco",
        "data_subtype": subset,
    }
    _dump(
        out / f"v2_OpenEnded_mscoco_{subset}_questions.json", head | {"task_type": "Open-Ended", "questions": questions}
    )
    _dump(out / f"v2_mscoco_{subset}_annotations.json", head | {"annotations": annotations})
    _dump(out / f"llava_instruct_{split_name}.json", conversations)
    if split_name == "train":
        numbers = range(first, first + len(pictures))
        few = set(random.Random(f"{seed}-few").sample(numbers, round(annotated * len(pictures))))
        known = [note for note in annotations if note["image_id"] in few]
        (out / "few").mkdir(exist_ok=True)
        _dump(out / "few" / f"v2_mscoco_{subset}_annotations.json", head | {"annotations": known})
        told_few = [row for row in conversations if int(row["id"]) in few]
        _dump(out / "few" / f"llava_instruct_{split_name}.json", told_few)
    _dump(out / f"captions_{split_name}.json", captions)
    _dump(out / f"descriptions_{split_name}.json", descriptions)
    return asked


def _row(digits: str, said: list[tuple[str, str]], after: bool) -> dict[str, Any]:
    """One row of LLaVA's files; the picture's place is before or after the first question, as in the real ones."""
    first = f"{said[0][0]}\n<image>" if after else f"<image>\n{said[0][0]}"
    turns_ = []
    for question, answer in [(first, said[0][1]), *said[1:]]:
        turns_ += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": digits, "image": f"{digits}.jpg", "conversations": turns_}


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _accuracy(answer: str, answers: Sequence[str]) -> float:
    """VQA accuracy of an answer that needs no normalising: mean over the ten of min(1, agreeing others / 3)."""
    agree = sum(a == answer for a in answers)
    return sum(min(1.0, (agree - (a == answer)) / 3) for a in answers) / len(answers)


def baselines(train: list[Asked], val: list[Asked]) -> dict[str, Any]:
    """VQA accuracy on val of always giving train's most common answer, per template and per exact question, in %.

    `answer in train` is the share of val questions whose answer occurs in train at all: a ceiling for a model that
    can only say what it has read.
    """
    common: dict[str, Counter[str]] = defaultdict(Counter)
    for a in train:
        for key in (a.template, a.question):
            common[key][a.answers[0]] += 1
    known = {answer for a in train for answer in a.answers}

    def score(part: list[Asked], key: str) -> float:
        return 100 * sum(_accuracy(_guess(common, a, key), a.answers) for a in part) / max(1, len(part))

    def row(part: list[Asked]) -> dict[str, Any]:
        return {
            "questions": len(part),
            "most common answer to the template": round(score(part, "template"), 2),
            "most common answer to the question": round(score(part, "question"), 2),
            "answer in train": round(100 * sum(a.answers[0] in known for a in part) / max(1, len(part)), 2),
        }

    types = {t: row([a for a in val if a.answer_type == t]) for t in ("yes/no", "number", "other")}
    templates = {t: row([a for a in val if a.template == t]) for t in sorted({a.template for a in val})}
    return {"all": row(val), "by answer type": types, "by template": templates}


def _guess(common: dict[str, Counter[str]], asked: Asked, key: str) -> str:
    """The most common answer in train to this template or question; to the template where the question is new."""
    votes = common.get(asked.question) if key == "question" else None
    votes = votes or common.get(asked.template)
    return min(votes.items(), key=lambda kv: (-kv[1], kv[0]))[0] if votes else ""


def print_report(counts: dict[str, dict[str, int]], table: dict[str, Any]) -> None:
    for name, numbers in counts.items():
        print(name + ": " + ", ".join(f"{number:,} {what}" for what, number in numbers.items()))
    print("\nval, VQA accuracy in % of always giving train's most common answer")
    print(f"{'':28} {'questions':>9} {'template':>9} {'question':>9} {'answer in train':>16}")
    for name, row in [("all", table["all"]), *table["by answer type"].items(), *table["by template"].items()]:
        print(f"{name:28} {row['questions']:9}", end=" ")
        print(" ".join(f"{value:{width}.1f}" for value, width in zip(list(row.values())[1:], (9, 9, 16), strict=True)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--stamps", type=Path, default=Path("/usr/share/tuxpaint/stamps"), help="the stamps' folder")
    parser.add_argument("--out", type=Path, default=Path("data/stamps_official"), help="where the data set goes")
    parser.add_argument("--size", type=int, default=224, help="side of the square pictures in pixels")
    parser.add_argument("--val_share", type=float, default=0.15, help="share of the pictures held out")
    parser.add_argument("--annotated", type=float, default=0.1, help="share of train's pictures that few/ knows about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no_svg", action="store_true", help="leave out the SVG stamps (no need for resvg-py then)")
    args = parser.parse_args(argv)
    try:
        if not args.stamps.is_dir():
            raise UserError(
                f"{args.stamps} is no folder; install the stamps (sudo apt install tuxpaint-stamps-default) "
                "or pass --stamps FOLDER"
            )
        parts = split(load(args.stamps, args.size, not args.no_svg), args.val_share, args.seed)
        counts, asked = {}, {}
        for name, pictures in parts.items():
            asked[name] = write_split(args.out, name, pictures, args.seed, args.annotated)
            types = Counter(a.answer_type for a in asked[name])
            counts[name] = {
                "pictures": len(pictures),
                **{f"{t} questions": types[t] for t in ("yes/no", "number", "other")},
            }
        table = baselines(asked["train"], asked["val"])
        _dump(args.out / "baselines.json", table)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_report(counts, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
