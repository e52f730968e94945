"""Writes the embedded world in the official file formats of VQA-v2, OK-VQA, LLaVA-Instruct-150K and LLaVA-Pretrain.

The names are the official ones, so that everything that reads the real files reads these:

    images/train2014/COCO_train2014_000000000001.jpg ...        images/val2014/COCO_val2014_000000500001.jpg ...
    v2_OpenEnded_mscoco_{train,val}2014_questions.json          v2_mscoco_{train,val}2014_annotations.json
    OpenEnded_mscoco_{train,val}2014_questions.json             mscoco_{train,val}2014_annotations.json
    llava_instruct_{train,val}.json                             captions_{train,val}.json
    descriptions_{train,val}.json (ours: what each picture shows, for `prepare --descriptions`)
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embervlm.data.toyworld.draw import draw
from embervlm.data.toyworld.people import five_answers_twice, ten_answers
from embervlm.data.toyworld.questions import OKVQA_TYPE_NAMES, Asked, Interviewer
from embervlm.data.toyworld.scene import Scene, sample_scene
from embervlm.data.toyworld.stories import CAPTION_PROMPTS, caption, conversation, description

QUESTIONS_PER_PICTURE = (4, 5, 6, 6)  # VQA-v2 has 5.4 on average
_FIRST_ID = {"train": 1, "val": 500_001}
_UNSEEN_SHARE = 0.3  # of the val pictures that hold a colour-shape pair which train never shows


def write_toy(
    out: Path,
    train_images: int,
    val_images: int,
    seed: int,
    advance: Callable[[], None] | None = None,
    annotated: float = 1.0,
) -> dict[str, dict[str, int]]:
    """Draws both splits below `out` and writes their files; returns their counts. Equal seeds give equal bytes.

    Args:
        annotated: share of train's pictures whose VQA and OK-VQA questions have annotations; a larger share has those
            of a smaller one, too, and nothing else changes.
    """
    counts = {}
    for split, pictures in (("train", train_images), ("val", val_images)):
        ids = range(_FIRST_ID[split], _FIRST_ID[split] + pictures)
        share = annotated if split == "train" else 1.0
        answered = random.Random(f"{seed}-annotated").sample(ids, pictures)[: max(1, round(share * pictures))]
        files = _Files(split, random.Random(f"{seed}-{split}"), set(answered))
        folder = out / "images" / f"{split}2014"
        folder.mkdir(parents=True, exist_ok=True)
        for image_id in ids:
            scene, name = files.add(image_id)
            draw(scene).save(folder / name, quality=95)
            if advance:
                advance()
        files.write(out)
        counts[split] = files.counts()
    return counts


class _Files:
    """The files of one split while they grow."""

    def __init__(self, split: str, rng: random.Random, annotated: set[int]) -> None:
        self.split = split
        self.rng = rng
        self.interviewer = Interviewer()
        self.vqa: list[tuple[int, int, Asked]] = []
        self.okvqa: list[tuple[int, int, Asked]] = []
        self.llava: list[dict[str, Any]] = []
        self.captions: list[dict[str, Any]] = []
        self.descriptions: dict[str, str] = {}
        self.unseen: list[int] = []
        self.annotated = annotated  # pictures whose questions people answered

    def add(self, image_id: int) -> tuple[Scene, str]:
        held_out = "never"
        if self.split == "val":
            held_out = "always" if self.rng.random() < _UNSEEN_SHARE else "never"
        scene = sample_scene(self.rng, held_out)
        if scene.has_held_out_pair:
            self.unseen.append(image_id)
        for k, asked in enumerate(self.interviewer.vqa(scene, self.rng, self.rng.choice(QUESTIONS_PER_PICTURE))):
            self.vqa.append((image_id, image_id * 1000 + k, asked))
        if known := self.interviewer.okvqa(scene, self.rng):
            self.okvqa.append((image_id, image_id * 10 + 5, known))
        self._tell(image_id, scene)
        name = f"COCO_{self.split}2014_{image_id:012d}.jpg"
        self.descriptions[name] = description(scene)
        return scene, name

    def _tell(self, image_id: int, scene: Scene) -> None:
        digits = f"{image_id:012d}"
        turns = []
        for number, (question, answer) in enumerate(conversation(scene, self.rng)):
            if number == 0:  # LLaVA's files have the placeholder at either end of the first turn
                question = f"<image>\n{question}" if self.rng.random() < 0.5 else f"{question}\n<image>"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        self.llava.append({"id": digits, "image": f"{digits}.jpg", "conversations": turns})
        prompt = self.rng.choice(CAPTION_PROMPTS)
        said = [{"from": "human", "value": f"{prompt}\n<image>"}, {"from": "gpt", "value": caption(scene)}]
        self.captions.append({"id": digits, "image": f"{digits}.jpg", "conversations": said})

    def counts(self) -> dict[str, int]:
        return {
            "pictures": len(self.captions),
            "with a pair that train never shows": len(self.unseen),
            "VQA-v2 questions": len(self.vqa),
            "OK-VQA questions": len(self.okvqa),
            "questions with annotations": sum(image in self.annotated for image, _, _ in self.vqa + self.okvqa),
            "LLaVA conversations": len(self.llava),
            "captions": len(self.captions),
        }

    def write(self, out: Path) -> None:
        name = f"mscoco_{self.split}2014"
        _dump(out / f"v2_OpenEnded_{name}_questions.json", self._questions(self.vqa))
        _dump(out / f"v2_{name}_annotations.json", self._annotations(self.vqa, self._vqa_answers))
        _dump(out / f"OpenEnded_{name}_questions.json", self._questions(self.okvqa))
        okvqa = self._annotations(self.okvqa, self._okvqa_answers)
        _dump(out / f"{name}_annotations.json", okvqa | {"question_types": OKVQA_TYPE_NAMES})
        _dump(out / f"llava_instruct_{self.split}.json", self.llava)
        _dump(out / f"captions_{self.split}.json", self.captions)
        _dump(out / f"descriptions_{self.split}.json", self.descriptions)
        _dump(out / f"pairs_unseen_in_train_{self.split}.json", self.unseen)

    def _head(self) -> dict[str, Any]:
        return {
            "info": {"description": "EmberVLM's embedded world", "version": "1.0", "year": 2026},
            "license": {"name": "Apache-2.0", "url": ""},
            "data_type": "mscoco",
            "data_subtype": f"{self.split}2014",
        }

    def _questions(self, asked: list[tuple[int, int, Asked]]) -> dict[str, Any]:
        rows = [{"image_id": image, "question": a.question, "question_id": number} for image, number, a in asked]
        return self._head() | {"task_type": "Open-Ended", "questions": rows}

    def _annotations(
        self, asked: list[tuple[int, int, Asked]], answers: Callable[[Asked], dict[str, Any]]
    ) -> dict[str, Any]:
        rows = [
            {
                "question_id": number,
                "image_id": image,
                "question_type": a.template,
                "answer_type": a.answer_type,
                **answers(a),
            }
            for image, number, a in asked
        ]
        return self._head() | {"annotations": [row for row in rows if row["image_id"] in self.annotated]}

    def _vqa_answers(self, asked: Asked) -> dict[str, Any]:
        said = ten_answers(asked.answer, self.rng)
        rows = [
            {"answer": answer, "answer_confidence": "yes" if answer == asked.answer else "maybe", "answer_id": i}
            for i, answer in enumerate(said, start=1)
        ]
        return {"multiple_choice_answer": Counter(said).most_common(1)[0][0], "answers": rows}

    def _okvqa_answers(self, asked: Asked) -> dict[str, Any]:
        rows = [
            {"answer_id": i, "raw_answer": answer, "answer_confidence": "yes", "answer": answer}
            for i, answer in enumerate(five_answers_twice(asked.answer, self.rng), start=1)
        ]
        return {"answers": rows}


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
