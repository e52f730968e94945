"""Runs one cell in a process of its own: train, choose a step on one half of val, report on the other.

python -m benchmarks.learning.worker WORLD RESULTS CELL.json
"""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import target_variants
from benchmarks.learning.arms import Arm
from benchmarks.learning.cells import Cell, Results, arm_of, regime_of
from benchmarks.learning.regimes import cache_folder, data_folder, seconds_of
from benchmarks.learning.stage1 import stage1_of
from benchmarks.learning.stats import written
from benchmarks.learning.world import ALL_TOKENS, World, quoted
from embervlm.data.record import Record
from embervlm.distill.variants import TARGETS
from embervlm.evaluate.command import run_evaluate
from embervlm.evaluate.results import EvalResult, load_result, predictions_path
from embervlm.evaluate.vqa import record_accuracy
from embervlm.options import parse
from embervlm.settings import EvaluateSettings, TrainSettings
from embervlm.train.run import run_train


def train_words(cell: Cell, world: World, out: Path) -> list[str]:
    """The command line of this cell's training."""
    scale, arm = cell.scale, arm_of(cell)
    every = -(-scale.steps // scale.evaluations)
    words = f"--stages 2 --resume_from {quoted(stage1_of(world, arm.student, arm.alignment))} "
    words += f"--data_dir {quoted(data_folder(world, cell.data))} "
    words += f"--output_dir {quoted(out)} --max_length 256 --dataloader_workers 0 --batch_size {scale.batch_size} "
    words += f"--learning_rate {cell.rate:g} --max_steps {scale.steps} --warmup_steps {scale.steps // 20} "
    words += f"--eval_steps {every} --save_steps {every} --logging_steps {max(1, scale.steps // 20)} "
    # Half of the samples of an evaluation are answered, and scored.
    words += f"--eval_samples {2 * scale.stop_questions} --seed {cell.seed} "
    words += f"--unfreeze_vision {scale.unfreeze_vision} --features_dir {quoted(world.folder / 'features')} {arm.flags}"
    if arm.cached:
        words += f" --use_cached_teacher_outputs {quoted(cache_folder(world, cell.data))}"
    if arm.live:
        words += f" --teacher_model {arm.live} --teacher_top_k {ALL_TOKENS}"
    return shlex.split(words)


def train_settings(cell: Cell, world: World, out: Path) -> TrainSettings:
    """The same, read; an arm may name targets that only `lent` knows."""
    settings = parse(TrainSettings, train_words(cell, world, out))
    return replace(settings, distillation_targets=arm_of(cell).targets or settings.distillation_targets)


@contextmanager
def lent(name: str) -> Iterator[None]:
    """Inside, the package has targets that it does not offer; without a name nothing changes."""
    if name:
        TARGETS[name] = getattr(target_variants, name)
    try:
        yield
    finally:
        if name:
            del TARGETS[name]


def run_cell(cell: Cell, world: World, out: Path) -> dict[str, Any]:
    """Trains and measures; what it wrote below `out` is deleted, what it found is returned."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    with lent(arm_of(cell).targets):
        code = run_train(train_settings(cell, world, out))
    if code:
        sys.exit(code)
    trained = time.monotonic() - began
    history = json.loads((out / "stage2" / "metrics.json").read_text(encoding="utf-8"))["history"]
    points = curve(history)
    best = best_step(points)
    result = measure(world, arm_of(cell), out / "stage2" / f"checkpoint-{best}", out / "result.json")
    answers = json.loads(predictions_path(out / "result.json", "vqa").read_text(encoding="utf-8"))
    records = world.report.records("val")
    said = {row["question_id"]: row["answer"] for row in answers}
    scores = [round(10 * record_accuracy(said[r.metadata["question_id"]], r)) for r in records]
    losses = [{"step": row["step"], **row} for row in history if "stage2/total_loss" in row]
    arm, regime = arm_of(cell), regime_of(cell)
    found = {
        "curve": points,
        "best_step": best,
        "report": summary(result),
        "unseen": unseen(records, scores, world.unseen),
        "tenths": written(scores),  # of each question of the half that is reported, in its order
        "training_loss": [[row["step"], round(row["stage2/total_loss"], 4)] for row in losses],
        "seconds": {
            "training": round(trained, 1),
            "all": round(time.monotonic() - began, 1),
            "teacher": round(seconds_of(world, regime, arm), 1),
        },
        "environment": result.environment,
    }
    shutil.rmtree(out, ignore_errors=True)
    return found


def measure(world: World, arm: Arm, checkpoint: Path, file: Path) -> EvalResult:
    """`embervlm evaluate` on the half that is reported."""
    blind = arm.reads == "blind"
    report = world.blind_report if blind else world.report
    words = f"--checkpoint {quoted(checkpoint)} --dataset_path {quoted(report.folder)} --benchmarks vqa "
    words += "" if blind else f"--teacher_outputs {quoted(world.report_cache)} "
    words += f"--batch_size 128 --baselines none --output_file {quoted(file)}"
    run_evaluate(parse(EvaluateSettings, shlex.split(words)))
    return load_result(file)


def curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What was measured during training, on the half to stop on."""
    names = {"stage2/vqa_accuracy": "vqa_accuracy", "stage2/eval_loss": "eval_loss"}
    rows = [row for row in history if "stage2/vqa_accuracy" in row]
    return [{"step": row["step"], **{short: round(row[name], 5) for name, short in names.items()}} for row in rows]


def best_step(points: Sequence[Mapping[str, float]]) -> int:
    """The step with the highest accuracy on the half to stop on; of two equal the later."""
    return int(max(points, key=lambda point: (point["vqa_accuracy"], point["step"]))["step"])


def summary(result: EvalResult) -> dict[str, Any]:
    """Shares of 1, and the KL in nats a token at T = 1."""
    scores = result.vqa["vqa"]
    assert scores.without_yes_no is not None
    found: dict[str, Any] = {
        "questions": scores.overall.n,
        "accuracy": scores.overall.accuracy,
        "without_yes_no": scores.without_yes_no.accuracy,
        "by_answer_type": {kind: share.accuracy for kind, share in scores.by_answer_type.items()},
        "by_question_type": {kind: share.accuracy for kind, share in scores.by_question_type.items()},
    }
    if result.divergence is not None:
        found["kl_student_teacher"] = result.divergence.student_teacher
        found["kl_teacher_student"] = result.divergence.teacher_student
        found["calibration_error"] = result.divergence.calibration_error
    return _rounded(found)


def unseen(records: Sequence[Record], tenths: Sequence[int], pictures: frozenset[str]) -> dict[str, float]:
    """Accuracy on pictures with a colour-shape pair that train never shows, and on the others."""
    parts: dict[str, list[int]] = {"unseen_pairs": [], "seen_pairs": []}
    for record, score in zip(records, tenths, strict=True):
        new = str(record.image).rpartition("/")[2] in pictures
        parts["unseen_pairs" if new else "seen_pairs"].append(score)
    return {name: round(sum(some) / len(some) / 10, 5) for name, some in parts.items() if some}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def main() -> int:
    folder, results, cell_file = map(Path, sys.argv[1:])
    cell = Cell.from_json(json.loads(cell_file.read_text(encoding="utf-8")))
    work(cell, World(folder, cell.scale), Results(results))
    return 0


def work(cell: Cell, world: World, results: Results) -> None:
    """Runs a cell unless another grid does so at this moment, or has done: then that one's outcome stands."""
    out = world.folder / "runs" / cell.key
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f"{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits; goes with the process, however it ends
        if results.get(cell) is None:
            results.put(cell, run_cell(cell, world, out))


if __name__ == "__main__":
    sys.exit(main())
