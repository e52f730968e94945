"""What all arms are compared with: the teacher, and guessing. Asked once a world, on the half that is reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.cells import EDITION, Results
from benchmarks.learning.world import TEACHER, Scale, World
from embervlm.errors import UserError
from embervlm.evaluate.answerers import TeacherAnswerer
from embervlm.evaluate.baselines import majority_per_question, majority_per_template
from embervlm.evaluate.runner import evaluate
from embervlm.teachers.registry import load_teacher
from embervlm.train.checkpoint import write_json


def write_references(world: World, results: Results) -> None:
    """Teacher and floors, unless they are there."""
    path = _path(world.scale, results)
    if path.is_file():
        return
    report = world.report
    train = report.records("train")
    systems = {
        "teacher": TeacherAnswerer(load_teacher(TEACHER)),
        "majority by question": majority_per_question(train),
        "majority by template": majority_per_template(train),
    }
    found = {}
    for name, system in systems.items():
        scores = evaluate(system, report, ("vqa",), name=name, batch_size=64).vqa["vqa"]
        assert scores.without_yes_no is not None
        found[name] = 100 * scores.overall.accuracy
        found[f"{name}, without yes/no"] = 100 * scores.without_yes_no.accuracy
    pictures = [Path(str(record.image)).stem[-6:] for record in report.records("val")]
    results.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"references": found, "pictures": " ".join(pictures)})


def read_references(scale: Scale, results: Results) -> tuple[dict[str, float], Sequence[str]]:
    """Points, and the picture of each question that is reported."""
    path = _path(scale, results)
    if not path.is_file():
        raise UserError(
            f"{results.folder} has no figures of the teacher and of guessing for this world; run a cell first"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["references"], found["pictures"].split()


def _path(scale: Scale, results: Results) -> Path:
    world = {"edition": EDITION, "images": (scale.train_images, scale.val_images)}
    digest = hashlib.sha256(json.dumps(world, sort_keys=True).encode()).hexdigest()[:10]
    return results.folder / f"references.{digest}.json"
