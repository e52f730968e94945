"""VQA-v2 and OK-VQA: a questions file and its annotations file, joined on question_id."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from embervlm.data.official import BadRow, Read, load_json, text
from embervlm.data.record import Record
from embervlm.errors import UserError

ANSWER_TYPES = ("yes/no", "number", "other")


def read_vqa(questions: Path, annotations: Path | None, template: str = "{question}") -> Read:
    """VQA-v2. The response is the file's `multiple_choice_answer`, the most common one; all ten stay for scoring."""
    return _read(questions, annotations, template, "vqa", "vqa_v2", "answer")


def read_okvqa(questions: Path, annotations: Path | None, template: str = "{question}") -> Read:
    """OK-VQA. Trained on `raw_answer`, scored against the stemmed `answer`, as its own scorer does."""
    return _read(questions, annotations, template, "okvqa", "ok_vqa", "raw_answer")


def _read(questions: Path, annotations: Path | None, template: str, prefix: str, source: str, trained_on: str) -> Read:
    if annotations is None:
        raise UserError(f"{questions} was given without its annotations file; pass --{prefix}_annotations")
    asked = load_json(questions, dict, "a VQA questions file")
    if not isinstance(asked.get("questions"), list):
        raise UserError(f"{questions} has no list 'questions'; is it the annotations file?")
    said = load_json(annotations, dict, "a VQA annotations file")
    if not isinstance(said.get("annotations"), list):
        raise UserError(f"{annotations} has no list 'annotations'; is it the questions file?")
    by_id = {str(row.get("question_id")): row for row in said["annotations"] if isinstance(row, dict)}
    subset = str(asked.get("data_subtype") or said.get("data_subtype") or _subset(questions))
    joined = sum(isinstance(q, dict) and str(q.get("question_id")) in by_id for q in asked["questions"])
    if asked["questions"] and not joined:
        raise UserError(f"no question of {questions} has an annotation in {annotations}; they belong to different sets")

    def make(_: int, row: Any) -> Record:
        question = text(row, "question")
        number = str(row.get("question_id"))
        if number not in by_id:
            raise BadRow(f"question {number} has no annotation")
        note = by_id[number]
        if str(note.get("image_id")) != str(row.get("image_id")):
            raise BadRow(
                f"question {number} is about image {row.get('image_id')}, its annotation about {note.get('image_id')}"
            )
        answers = _answers(note, "answer")
        response = str(note.get("multiple_choice_answer") or "").strip()
        if trained_on == "raw_answer" or not response:
            # The first among equals: Counter keeps the order of first appearance.
            response = Counter(_answers(note, trained_on)).most_common(1)[0][0]
        kind = str(note.get("answer_type"))
        return Record(
            id=f"{prefix}-{number}",
            image=_image_name(row.get("image_id"), subset),
            instruction=template.replace("{question}", question),
            response=response,
            answers=tuple(answers),
            answer_type=kind if kind in ANSWER_TYPES else "other",
            metadata={
                "source": source,
                "difficulty": "high" if source == "ok_vqa" else "medium",
                "question_id": row["question_id"],
                "question": question,
                "question_type": str(note.get("question_type", "")),
            },
        )

    found = Read()
    found.rows(questions, asked["questions"], make)
    return found


def _answers(note: dict[str, Any], key: str) -> list[str]:
    """The people's answers; converted files hold texts instead of objects."""
    rows = note.get("answers")
    if not isinstance(rows, list) or not rows:
        raise BadRow(f"question {note.get('question_id')} has no answers")
    answers = [str(row.get(key, row.get("answer", ""))) if isinstance(row, dict) else str(row) for row in rows]
    if not any(answer.strip() for answer in answers):
        raise BadRow(f"question {note.get('question_id')} has only empty answers")
    return answers


def _image_name(image_id: Any, subset: str) -> str:
    try:
        return f"COCO_{subset}_{int(image_id):012d}.jpg"
    except (TypeError, ValueError):
        raise BadRow(f"image_id is {image_id!r}; expected a number") from None


def _subset(questions: Path) -> str:
    """From the official file name, where the file itself does not say."""
    known = [name for name in ("train2014", "val2014", "test-dev2015", "test2015") if name in questions.name]
    if not known:
        raise UserError(
            f"{questions} does not say which pictures it is about (no data_subtype); expected e.g. 'train2014'"
        )
    return known[0]
