"""Writes LLaVA-Instruct-150K, VQA-v2 and OK-VQA in their official formats and at their full size, out of nothing.

    python -m benchmarks.full_size /tmp/full                      # 0.7 GB of JSON; the same bytes for the same --seed
    python -m benchmarks.full_size /tmp/full --pictures links     # and 123,287 picture files, hard links of a few
    python -m benchmarks.full_size /tmp/full --share 0.01

The texts mean nothing; their numbers are those of the real files as far as they are public. VQA-v2 train: 443,757
questions about 82,783 pictures, 49.4% other, 37.6% yes/no, 13.0% number, ten answers each, 22,531 distinct majority
answers, questions of 6.2 words. OK-VQA train: 9,009 questions about 8,998 pictures. LLaVA-Instruct: 157,712 rows about
81,479 pictures of train2017 (81% of COCO's train2014, the rest of its val2014), 56,681 of them conversations of
4.5 rounds, 76,643 long answers to one question, 23,240 descriptions. Words are drawn with Zipf's frequencies from those
that GPT-2's vocabulary has whole; answers of one, two and three words with the shares of the VQA paper
(arXiv:1505.00468).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN_PICTURES, VAL_PICTURES = 82_783, 40_504
VQA_QUESTIONS, VQA_ANSWERS = 443_757, 22_531
OKVQA_QUESTIONS, OKVQA_PICTURES = 9_009, 8_998
LLAVA_CONVERSATIONS, LLAVA_DETAIL, LLAVA_REASONING, LLAVA_MORE, LLAVA_PICTURES = 56_681, 23_240, 76_643, 1_148, 81_479
TYPES, SHARES = ("other", "yes/no", "number"), (0.494, 0.376, 0.130)
SHORT = "\nAnswer the question using a single word or phrase."
PICTURES = ("none", "links", "zip")
_CONFIDENCE = ("yes", "yes", "yes", "maybe", "no")


def write_full_size(folder: Path, share: float = 1.0, seed: int = 0, pictures: str = "none") -> dict[str, int]:
    """Everything below `folder`; how many rows (and pictures) each file holds. `share` scales all of it down."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    scale = [max(1, round(share * count)) for count in (TRAIN_PICTURES, VAL_PICTURES)]
    ids = rng.choice(580_000, sum(scale), replace=False) + 9
    train, val = np.sort(ids[: scale[0]]), np.sort(ids[scale[0] :])
    counts = {
        "vqa": write_vqa(folder, train, round(share * VQA_QUESTIONS), rng),
        "okvqa": write_okvqa(folder, train, max(2, round(share * OKVQA_QUESTIONS)), rng),
        "llava": write_llava(folder, train, val, share, rng),
    }
    if pictures != "none":
        counts["pictures"] = {"links": write_links, "zip": write_zip}[pictures](folder, train, val)
    return counts


def prepare_words(folder: Path) -> list[str]:
    """The flags of `embervlm prepare` that read what was written."""
    return [
        f"--llava={folder / 'llava_instruct_150k.json'}",
        f"--vqa={folder / 'v2_OpenEnded_mscoco_train2014_questions.json'}",
        f"--vqa_annotations={folder / 'v2_mscoco_train2014_annotations.json'}",
        f"--okvqa={folder / 'OpenEnded_mscoco_train2014_questions.json'}",
        f"--okvqa_annotations={folder / 'mscoco_train2014_annotations.json'}",
        f"--image_root={folder / 'images'}",
    ]


@cache
def words() -> np.ndarray:
    """Some 13,000 lower-case words, frequent ones first."""
    merges = (files("embervlm") / "model" / "assets" / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    whole = ("".join(line.split(" ")) for line in merges)
    return np.array([w[1:] for w in whole if len(w) > 2 and w[0] == "Ġ" and w[1:].isascii() and w[1:].islower()])


def texts(lengths: np.ndarray, rng: np.random.Generator) -> Iterator[str]:
    """One run of words for each length, words with Zipf's frequencies."""
    known = words()
    odds = 1 / np.arange(2, len(known) + 2)
    drawn = known[np.searchsorted(np.cumsum(odds / odds.sum()), rng.random(int(lengths.sum()))).clip(0, len(known) - 1)]
    ends = np.cumsum(lengths)
    flat = drawn.tolist()
    for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
        yield " ".join(flat[start:end])


def about(mean: float, spread: float, count: int, rng: np.random.Generator, least: int = 1) -> np.ndarray:
    """`count` lengths, log-normal with that mean."""
    return np.maximum(least, np.round(rng.lognormal(np.log(mean) - spread**2 / 2, spread, count))).astype(int)


def _answer_lists(rng: np.random.Generator) -> dict[str, list[str]]:
    """Distinct answers of each type, frequent ones first."""
    lengths = rng.choice((1, 2, 3, 4, 6), 3 * VQA_ANSWERS, p=(0.45, 0.33, 0.15, 0.05, 0.02))
    lengths[:3000] = rng.choice((1, 2, 3), 3000, p=(0.90, 0.07, 0.03))
    other = list(dict.fromkeys(texts(lengths, rng)))[: VQA_ANSWERS - 1000]
    return {"other": other, "yes/no": ["yes", "no"], "number": [str(i) for i in range(998)]}


def _ten(pool: Sequence[str], rng: np.random.Generator, count: int) -> Iterator[list[str]]:
    """What ten people answer: a majority of 3 to 10 that agree, the others at random."""
    odds = np.ones(2) if len(pool) == 2 else 1 / np.arange(1, len(pool) + 1) ** 1.05
    heap = np.cumsum(odds / odds.sum())
    draws = np.searchsorted(heap, rng.random((count, 10))).clip(0, len(pool) - 1)
    if count >= 2 * len(pool):  # every answer is someone's majority at least once
        draws[rng.choice(count, len(pool), replace=False), 0] = np.arange(len(pool))
    agree = rng.choice((3, 5, 7, 9, 10), count, p=(0.15, 0.2, 0.2, 0.2, 0.25))
    draws = np.where(np.arange(10) < agree[:, None], draws[:, :1], draws)
    yield from ([pool[i] for i in row] for row in draws.tolist())


def write_vqa(folder: Path, pictures: np.ndarray, count: int, rng: np.random.Generator) -> int:
    """Questions spread over all pictures, each with at least one where there are enough."""
    per = 1 + rng.poisson(count / len(pictures) - 1, len(pictures))
    of = np.repeat(pictures, per)[:count]
    of = np.sort(np.concatenate([of, rng.choice(pictures, count - len(of))]))
    first = np.searchsorted(of, of)
    numbers = of * 1000 + (np.arange(count) - first)
    asked = [f"{q.capitalize()}?" for q in texts(about(6.2, 0.33, count, rng, 3), rng)]
    kinds = rng.choice(3, count, p=SHARES)
    pools = _answer_lists(rng)
    tens = [_ten(pools[kind], rng, int((kinds == i).sum())) for i, kind in enumerate(TYPES)]
    stems = [json.dumps(" ".join(row)) for row in np.array_split(words()[:195], 65)]
    stem = rng.integers(len(stems), size=count).tolist()
    sure = rng.integers(len(_CONFIDENCE), size=(count, 10))

    def rows() -> Iterator[str]:
        for number, image, kind, s, c in zip(
            numbers.tolist(), of.tolist(), kinds.tolist(), stem, sure.tolist(), strict=True
        ):
            said = next(tens[kind])
            answers = ", ".join(
                f'{{"answer": "{a}", "answer_confidence": "{_CONFIDENCE[c[i]]}", "answer_id": {i + 1}}}'
                for i, a in enumerate(said)
            )
            yield (
                f'{{"question_type": {stems[s]}, "multiple_choice_answer": "{said[0]}", "answers": [{answers}], '
                f'"image_id": {image}, "answer_type": "{TYPES[kind]}", "question_id": {number}}}'
            )

    _write_pair(folder, "v2_", of, asked, numbers, rows())
    return count


def write_okvqa(folder: Path, pictures: np.ndarray, count: int, rng: np.random.Generator) -> int:
    """No multiple_choice_answer; `answer` is a stem of `raw_answer`; five people, each counted twice."""
    shown = np.sort(rng.choice(pictures, min(len(pictures), max(1, count * OKVQA_PICTURES // OKVQA_QUESTIONS)), False))
    of = np.sort(np.concatenate([shown, rng.choice(shown, count - len(shown))]))
    numbers = of * 10 + 5 + (np.arange(count) - np.searchsorted(of, of))
    asked = [f"{q.capitalize()}?" for q in texts(about(8.1, 0.30, count, rng, 3), rng)]
    tens = _ten(_answer_lists(rng)["other"], rng, count)

    def rows() -> Iterator[str]:
        for number, image, said in zip(numbers.tolist(), of.tolist(), tens, strict=True):
            answers = ", ".join(
                f'{{"answer_id": {i + 1}, "raw_answer": "{a}s", "answer_confidence": "yes", "answer": "{a}"}}'
                for i, a in enumerate([a for a in said[:5] for _ in range(2)])
            )
            yield (
                f'{{"image_id": {image}, "answer_type": "other", "question_type": "four", "question_id": {number}, '
                f'"answers": [{answers}], "confidence": 3}}'
            )

    _write_pair(folder, "", of, asked, numbers, rows())
    return count


def _write_pair(folder: Path, v2: str, of: np.ndarray, asked: list[str], numbers: np.ndarray, rows: Iterator[str]):
    head = (
        '{"info": {"version": "made up"}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "train2014"'
    )
    questions = (
        f'{{"image_id": {image}, "question": "{question}", "question_id": {number}}}'
        for image, question, number in zip(of.tolist(), asked, numbers.tolist(), strict=True)
    )
    for name, key, lines in (
        (f"{v2}OpenEnded_mscoco_train2014_questions.json", "questions", questions),
        (f"{v2}mscoco_train2014_annotations.json", "annotations", rows),
    ):
        _write(folder / name, f'{head}, "{key}": [', lines, "]}")


def _write(path: Path, head: str, rows: Iterator[str], tail: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        for i, row in enumerate(rows):
            file.write(f", {row}" if i else row)
        file.write(tail)


def write_llava(folder: Path, train: np.ndarray, val: np.ndarray, share: float, rng: np.random.Generator) -> int:
    """Ids are those of the pictures, so not unique; `<image>` stands at either end of the first question."""
    kinds = (LLAVA_CONVERSATIONS, LLAVA_DETAIL, LLAVA_REASONING + LLAVA_MORE)
    conversations, detail, reasoning = (max(1, round(share * count)) for count in kinds)
    count = conversations + detail + reasoning
    wanted = max(1, round(share * LLAVA_PICTURES))
    of_train = min(len(train), wanted * 4 // 5)
    of_val = min(len(val), wanted - of_train)
    known = np.concatenate([rng.choice(train, of_train, False), rng.choice(val, of_val, False)])
    rounds = np.concatenate([2 + rng.poisson(2.56, conversations), np.ones(detail + reasoning, dtype=int)])
    kind = np.repeat((0, 1, 2), (conversations, detail, reasoning))
    order = rng.permutation(count)
    rounds, kind = rounds[order], kind[order]
    of_turn = np.repeat(kind, rounds)
    question = np.where(of_turn == 0, *(about(m, 0.3, len(of_turn), rng, 3) for m in (9.0, 16.0)))
    answer = np.select(
        [of_turn == 0, of_turn == 1], [about(25, 0.7, len(of_turn), rng), about(95, 0.3, len(of_turn), rng)]
    )
    answer = np.where(of_turn == 2, about(115, 0.35, len(of_turn), rng), answer)
    asked, said = texts(question, rng), texts(answer, rng)
    images = np.concatenate([known, rng.choice(known, max(0, count - len(known)))])[:count]
    last = (rng.random(count) < 0.5).tolist()

    def rows() -> Iterator[str]:
        for image, n, at_end in zip(rng.permutation(images).tolist(), rounds.tolist(), last, strict=True):
            turns = []
            for i in range(n):
                text = f"{next(asked).capitalize()}?"
                if i == 0:
                    text = f"{text}\\n<image>" if at_end else f"<image>\\n{text}"
                reply = next(said).capitalize()
                turns += [
                    _indented(6, "from", "human", "value", text),
                    _indented(6, "from", "gpt", "value", f"{reply}."),
                ]
            name = f"{image:012d}"
            said_all = ",\n".join(turns)
            head = f'\n  {{\n    "id": "{name}",\n    "image": "{name}.jpg",'
            yield f'{head}\n    "conversations": [\n{said_all}\n    ]\n  }}'

    _write(folder / "llava_instruct_150k.json", "[", rows(), "]")
    return count


def _indented(depth: int, *pairs: str) -> str:
    """A small object as json.dump(indent=2) writes it; the official file is written so."""
    blank = " " * depth
    body = ",\n".join(f'{blank}  "{key}": "{value}"' for key, value in zip(pairs[::2], pairs[1::2], strict=True))
    return f"{blank}{{\n{body}\n{blank}}}"


def _names(train: np.ndarray, val: np.ndarray) -> Iterator[str]:
    for subset, ids in (("train2014", train), ("val2014", val)):
        yield from (f"{subset}/COCO_{subset}_{i:012d}.jpg" for i in ids.tolist())


def _jpegs(count: int = 16) -> list[bytes]:
    """Pictures of COCO's usual size and some 60 kB."""
    made = []
    for i in range(count):
        small = Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def write_links(folder: Path, train: np.ndarray, val: np.ndarray) -> int:
    """`images/train2014/COCO_train2014_*.jpg` and val2014: real files, but only sixteen of them on the disk."""
    root = folder / "images"
    for name in (".base", "train2014", "val2014"):
        (root / name).mkdir(parents=True, exist_ok=True)
    bases = []
    for i, jpeg in enumerate(_jpegs()):
        bases.append(root / ".base" / f"{i}.jpg")
        bases[-1].write_bytes(jpeg)
    for i, name in enumerate(_names(train, val)):
        path = root / name
        if not path.exists():
            os.link(bases[i % len(bases)], path)
    return len(train) + len(val)


def write_zip(folder: Path, train: np.ndarray, val: np.ndarray) -> int:
    """`images/images.zip` with a picture of a few hundred bytes for each name."""
    (folder / "images").mkdir(exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "grey").save(buffer, "JPEG")
    with zipfile.ZipFile(folder / "images" / "images.zip", "w") as archive:
        for name in _names(train, val):
            archive.writestr(zipfile.ZipInfo(name), buffer.getvalue())  # no date: the same bytes at any time
    return len(train) + len(val)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", choices=PICTURES, default="none")
    options = parser.parse_args()
    print(json.dumps(write_full_size(options.folder, options.share, options.seed, options.pictures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
