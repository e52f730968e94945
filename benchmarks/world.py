"""Is the embedded world worth learning from? Gates on the teacher, on students without it, and on guessing.

    python -m benchmarks.world                 # the demo on two seeds, and the student alone on all labels
    python -m benchmarks.world --quick         # the teacher against guessing alone, on a few pictures

A small student that is taught by a teacher no better than itself learns nothing: the gap comes first.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from embervlm.console import console
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.demo import FULL, TEACHER, plan, prepare_words, run_demo
from embervlm.evaluate.answerers import TeacherAnswerer
from embervlm.evaluate.baselines import majority_per_question, majority_per_template
from embervlm.evaluate.command import run_evaluate
from embervlm.evaluate.results import EvalResult, load_result
from embervlm.evaluate.runner import evaluate
from embervlm.options import parse
from embervlm.settings import DemoSettings, EvaluateSettings, TrainSettings
from embervlm.teachers.registry import load_teacher
from embervlm.train.run import run_train

FIND_BY_SHAPE = "what color is the SHAPE"


@dataclass(frozen=True)
class Gate:
    """One condition: `value` must be at least (or at most) `bound`. Accuracies in points."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def passed(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/world"), help="runs are kept here and used again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    gates = quick_gates(options.out / "quick") if options.quick else full_gates(options)
    table = Table("gate", "found", "asked", "", title="The embedded world", title_justify="left")
    for gate in gates:
        bound = f"{'<=' if gate.at_most else '>='} {gate.bound:g}"
        table.add_row(gate.name, f"{gate.value:.1f}", bound, "[green]yes[/]" if gate.passed else "[red]no[/]")
    console.print(table)
    found = {gate.name: round(gate.value, 2) for gate in gates}
    passed = all(gate.passed for gate in gates)
    print(json.dumps({"benchmark": "world", "quick": options.quick, "passed": passed, "gates": found}))
    return 0 if passed else 1


def quick_gates(folder: Path) -> list[Gate]:
    """Teacher and guessing only, on 80 pictures of val; guessing is fitted on 1,000 of train."""
    prepared = drawn(folder, 1000, 80, seed=5)
    teacher = evaluate(TeacherAnswerer(load_teacher(TEACHER)), prepared, ("vqa",), name="teacher", batch_size=64)
    return teacher_gates(teacher, prepared)


def full_gates(options: argparse.Namespace) -> list[Gate]:
    """Runs the demo for each seed where that was not done, and the student alone on all labels; then compares."""
    gates: list[Gate] = []
    for seed in options.seeds:
        settings = DemoSettings(out=options.out / f"seed{seed}", seed=seed)
        run_demo(settings)
        results = settings.out / "results"
        teacher = load_result(results / "student_teacher.json")
        if not gates:
            gates += teacher_gates(teacher, labelled(settings))
            gates.append(
                Gate("blind student", _accuracy(load_result(results / "student_blind.json")), 50, at_most=True)
            )
            gates.append(_spanning(load_result(results / "student.json")))
        for steps in (FULL.stage2_steps // 2, FULL.stage2_steps):
            student = load_result(trained_alone(settings, steps))
            where = f"seed {seed}, {steps} steps"
            gap = _accuracy(teacher) - _accuracy(student)
            gates.append(Gate(f"teacher - student without it ({where})", gap, 10))
            gates.append(Gate(f"the same without yes/no ({where})", _rest(teacher) - _rest(student), 10))
    return gates


def labelled(demo: DemoSettings) -> PreparedSet:
    """The demo's pictures and questions, every one of them answered by people."""
    folder = demo.out / "labelled"
    if (made := folder / "data" / "stage2").is_dir():
        return open_prepared(made)
    return drawn(folder, FULL.train_images, FULL.val_images, demo.seed)


def drawn(folder: Path, train_images: int, val_images: int, seed: int) -> PreparedSet:
    """The world with all its annotations, as the demo reads it."""
    write_toy(folder / "toy", train_images, val_images, seed)
    run_prepare(parse(PrepareSettings, prepare_words(folder / "toy", folder / "data")))
    return open_prepared(folder / "data" / "stage2")


def trained_alone(demo: DemoSettings, steps: int) -> Path:
    """The demo's student without a teacher, trained on all labels for `steps` from the same Stage 1; its evaluation."""
    name = f"labels_{steps}"
    result = demo.out / "results" / f"{name}.json"
    if not result.is_file():
        (words,) = [phase.words[1:] for phase in plan(demo) if "--disable_distillation" in phase.words]
        every = {"max_steps": steps, "warmup_steps": steps // 20, "eval_steps": steps, "save_steps": steps}
        data = labelled(demo).folder
        settings = replace(
            parse(TrainSettings, words), data_dir=data.parent, output_dir=demo.out / "outputs" / name, **every
        )
        code = run_train(settings)
        if code:
            sys.exit(code)
        final = settings.output_dir / "stage2" / "checkpoint-final"
        asked = EvaluateSettings(checkpoint=final, dataset_path=data, output_file=result, batch_size=64, baselines=None)
        run_evaluate(asked)
    return result


def teacher_gates(teacher: EvalResult, prepared: PreparedSet) -> list[Gate]:
    """The teacher alone, and against answers that need no picture."""
    train = prepared.records("train")
    floors = {
        "per exact question": evaluate(majority_per_question(train), prepared, ("vqa",), progress=False),
        "per template": evaluate(majority_per_template(train), prepared, ("vqa",), progress=False),
    }
    floor = max(_accuracy(result) for result in floors.values())
    by_template = teacher.vqa["vqa"].by_question_type
    guessed = floors["per exact question"].vqa["vqa"].by_question_type
    margins = {name: 100 * (share.accuracy - guessed[name].accuracy) for name, share in by_template.items()}
    worst = min(margins, key=lambda name: margins[name])
    return [
        Gate("teacher", _accuracy(teacher), 85),
        Gate("teacher finds by shape", 100 * by_template[FIND_BY_SHAPE].accuracy, 80),
        *(Gate(f"guessing {name}", _accuracy(result), 50, at_most=True) for name, result in floors.items()),
        Gate("teacher - guessing", _accuracy(teacher) - floor, 35),
        Gate(f"teacher - guessing in its worst template ({worst})", margins[worst], 1),
    ]


def _spanning(student: EvalResult) -> Gate:
    assert student.divergence is not None
    return Gate("positions that are not anchored (%)", 100 * (student.divergence.interior + student.divergence.none), 5)


def _accuracy(result: EvalResult) -> float:
    return 100 * result.vqa["vqa"].overall.accuracy


def _rest(result: EvalResult) -> float:
    rest = result.vqa["vqa"].without_yes_no
    assert rest is not None
    return 100 * rest.accuracy


if __name__ == "__main__":
    sys.exit(main())
