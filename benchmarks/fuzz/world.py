"""The good inputs that are damaged: tiny files in every official format, records, an image root with traps."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz.cases import OUTSIDE, Place
from benchmarks.fuzz.pictures import drawn

PICTURES = tuple(range(1, 7))
SUBSET = "train2014"
COCO = tuple(f"COCO_{SUBSET}_{i:012d}.jpg" for i in PICTURES)


def vqa_questions() -> dict[str, Any]:
    rows = [
        {"image_id": i, "question": f"What color is thing {k}?", "question_id": i * 1000 + k}
        for i in PICTURES
        for k in (0, 1)
    ]
    return {"info": {"version": "2"}, "data_subtype": SUBSET, "questions": rows}


def vqa_annotations(multiple_choice: bool = True) -> dict[str, Any]:
    """Of VQA-v2; without the majority's answer it is OK-VQA's."""
    rows = []
    for row in vqa_questions()["questions"]:
        answers = [
            {"answer": said, "raw_answer": f"{said}s", "answer_confidence": "yes", "answer_id": n + 1}
            for n, said in enumerate(["red"] * 6 + ["blue"] * 4)
        ]
        note = {key: row[key] for key in ("question_id", "image_id")}
        note |= {"question_type": "what color", "answer_type": "other", "answers": answers}
        rows.append(note | ({"multiple_choice_answer": "red"} if multiple_choice else {}))
    return {"data_subtype": SUBSET, "annotations": rows}


def _said(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(turns)]


def llava() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "id": f"{i:012d}",
            "image": f"{i:012d}.jpg",
            "conversations": _said("<image>\nWhat is it?", "A dog.", "Is it red?", "Yes."),
        }
        for i in PICTURES
    ]
    rows.append({"id": 7, "image": [f"{SUBSET}/{COCO[0]}"], "messages": [{"role": "user", "content": "Why?"},
                 {"role": "assistant", "content": [{"type": "text", "text": "So."}]}]})  # fmt: skip
    return [*rows, {"id": "text", "conversations": _said("Hello?", "Yes.")}]


def coco_captions() -> dict[str, Any]:
    images = [{"id": i, "file_name": name} for i, name in zip(PICTURES, COCO, strict=True)]
    return {
        "images": images,
        "annotations": [{"id": 10 * i, "image_id": i, "caption": f"A thing, number {i}."} for i in PICTURES],
    }


def descriptions() -> dict[str, Any]:
    return {name: [f"A red thing, number {i}.", "a dog"] if i % 2 else "a dog" for i, name in enumerate(COCO)}


def instances() -> dict[str, Any]:
    """COCO's, for descriptions."""
    notes = [{"image_id": i, "category_id": k} for i in PICTURES for k in (1, 1, 2)]
    kinds = [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}]
    return {"images": coco_captions()["images"], "annotations": notes, "categories": kinds}


def unified(names: tuple[str, ...] = tuple(f"{SUBSET}/{name}" for name in COCO)) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for n, name in enumerate(names):
        row: dict[str, Any] = {"id": f"a-{n}", "image": name, "instruction": "What color?", "response": "red"}
        if n % 2:
            row["conversations"] = _said("What color?", "red", "Is it a dog?", "No, it is not.")
        row |= {"answers": ["red"] * 6 + ["blue"] * 4, "answer_type": "other"}
        rows.append(row | {"metadata": {"source": "vqa_v2", "question_id": n, "shows": ["a dog", "red"]}})
    return [*rows, {"id": "b", "image": None, "instruction": "Hello?", "response": "Yes.", "metadata": {}}]


def table_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of converted sets, by the kind of set."""
    question = {"question": "What color?", "question_type": "what", "answers": [{"answer": "red"}] * 3}
    return {
        "vqa": [
            question
            | {"question_id": i, "image_id": i, "multiple_choice_answer": "red", "answer_type": "other"}
            | {"image": {"bytes": drawn("png"), "path": None}}
            for i in PICTURES
        ],
        "okvqa": [
            question | {"question_id": str(i), "answers": ["red", "blue"], "image": {"bytes": drawn("jpeg"), "path": n}}
            for i, n in zip(PICTURES, COCO, strict=True)
        ],
        "cauldron": [
            {"images": [{"bytes": drawn("png"), "path": None}], "texts": [{"user": "Why?", "assistant": f"So {i}."}]}
            for i in PICTURES
        ],
        "llava": [{"id": str(i), "image": COCO[i - 1], "conversations": _said("Why?", "So.")} for i in PICTURES],
    }


def hostile_names(folder: Path) -> list[Any]:
    """Names of pictures that a record may carry; those that lead out of `folder`/images must not be followed."""
    outside = folder / OUTSIDE
    good = f"{SUBSET}/{COCO[0]}"
    return [
        "../outside/secret.png", "./../outside/secret.png", f"{SUBSET}/../../outside/secret.png",
        str(outside / "secret.png"),
        f"//{outside}/secret.jpg", "link.png", "linked/secret.png", "linked/000000000001.jpg", "up/outside/secret.png",
        "..", ".", "/", "", " ", "\t", "../images", "/dev/zero", "/dev/urandom", "/dev/stdin", "/etc/passwd",
        "/proc/self/mem", "/proc/self/environ", "zero.png", "fifo.png", "loop.png", "nowhere.png", "folder.png",
        f"{good}/", f"{good}/.", f"{good}/x.png", f"./{good}", f"{SUBSET}//{COCO[0]}", f"{SUBSET}/./{COCO[0]}",
        "a\nb.png", "a\rb.png", "a\tb.png", "a\0b.png", "\0", "a" * 300 + ".png", "a/" * 3000 + "x.png", "x" * 100_000,
        "CON", "NUL.png", "C:\\Windows\\win.ini", "..\\outside\\secret.png", "\\\\server\\share\\x.png", "a:b.png",
        "file:///etc/passwd", "http://localhost:9/x.png", "~/x.png", "~root/x.png", "$HOME/x.png",
        "%2e%2e/outside/secret.png",
        "..%2foutside%2fsecret.png", "\u202egnp.x", "\ufeffx.png", "é.png", "e\u0301.png", "\ud800.png", "a\udcffb.png",
        "-rf.png", "*.jpg", "x.png;rm", "|ls", "converted/../../outside/secret.png", "converted/link.png", "images.zip",
        "images.zip/x.png", "[red]x[/].png", "{x}.png", "<image>", "COCO_../_000000000001.jpg", "000000000001.jpg\n",
        "999999999999.jpg", "٠٠٠٠٠٠٠٠٠٠٠١.jpg", None, 1, True, [], ["../outside/secret.png"], {"path": "/etc/passwd"},
        {"bytes": "x"}, ["a.png", "b.png"], {"path": ["x"]}, 1.5,
    ]  # fmt: skip


def image_root(place: Place, traps: bool = True) -> Path:
    """Six good pictures under COCO's names; `traps`: links that lead out, a FIFO, a loop, a folder called a picture."""
    root = place.folder / "images"
    for name in COCO:
        place.file(f"images/{SUBSET}/{name}", drawn("jpeg"))
    if traps:
        outside = place.folder / OUTSIDE
        (root / "folder.png").mkdir()
        (root / "converted").mkdir()
        for name, target in (
            ("link.png", outside / "secret.png"), ("linked", outside), ("up", Path("..")), ("loop.png",
            root / "loop.png"),
            ("zero.png", Path("/dev/zero")), ("nowhere.png", outside / "nothing"), ("a.zip", outside / "secret.png"),
            ("converted/link.png", outside / "secret.png"), (f"{SUBSET}/000000000001.jpg", outside / "secret.jpg"),
        ):  # fmt: skip
            (root / name).symlink_to(target)
        os.mkfifo(root / "fifo.png")
        os.mkfifo(root / "b.zip")
    return root


@cache
def processor() -> Any:
    """The tiny student's."""
    from embervlm.model.processing import build_processor

    return build_processor("tiny")


def rejected(*steps: Callable[[], Any]) -> list[str]:
    """Reasons of the steps that a UserError rejects; the others go on."""
    from embervlm.errors import UserError

    reasons = []
    for step in steps:
        try:
            step()
        except UserError as problem:
            reasons.append(str(problem))
    return reasons
