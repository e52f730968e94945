"""Tiny files in the official formats, for the tests of the readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def dump(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def vqa_files(folder: Path, images: list[int], prefix: str = "v2_", subset: str = "train2014") -> tuple[Path, Path]:
    """Two questions a picture, with ten answers each."""
    questions, annotations = [], []
    for image in images:
        for k in range(2):
            number = image * 1000 + k
            questions.append({"image_id": image, "question": f"What color is thing {k}?", "question_id": number})
            said = ["red"] * 6 + ["blue"] * 4
            answers = [
                {"answer": a, "raw_answer": f"{a}s", "answer_confidence": "yes", "answer_id": i + 1}
                for i, a in enumerate(said)
            ]
            row = {"question_id": number, "image_id": image, "question_type": "what color", "answer_type": "other"}
            if prefix:
                row["multiple_choice_answer"] = "red"
            annotations.append({**row, "answers": answers})
    head = {"data_subtype": subset}
    return (
        dump(folder / f"{prefix}OpenEnded_mscoco_{subset}_questions.json", {**head, "questions": questions}),
        dump(folder / f"{prefix}mscoco_{subset}_annotations.json", {**head, "annotations": annotations}),
    )


def llava_row(image: str | None, *turns: str, **more: Any) -> dict[str, Any]:
    said = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(turns)]
    return {"id": "000", **({"image": image} if image else {}), "conversations": said, **more}


def coco_pictures(root: Path, images: list[int], subset: str = "train2014") -> Path:
    for image in images:
        picture(root / subset / f"COCO_{subset}_{image:012d}.jpg")
    return root
