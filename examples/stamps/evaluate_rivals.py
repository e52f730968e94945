"""What stands beside the students in the report: the teacher, and the distilled student without its pictures.

python examples/stamps/evaluate_rivals.py --data_dir data/stamps --teacher outputs/stamps/teacher --run outputs/stamps
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from embervlm import EmberVLM
from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.evaluate.answerers import Answerer, StudentAnswerer, TeacherAnswerer, WithoutImage
from embervlm.evaluate.results import save_result
from embervlm.evaluate.runner import evaluate
from embervlm.teachers.registry import load_teacher


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of `embervlm prepare`")
    parser.add_argument("--teacher", type=str, required=True, help="folder or name of the teacher")
    parser.add_argument("--run", type=Path, required=True, help="holds stage2/; results/ is written there")
    args = parser.parse_args()
    try:
        prepared = open_prepared(args.data_dir / "stage2")
        ids = {r.id: r.metadata["question_id"] for r in prepared.records("val") if "question_id" in r.metadata}
        student = EmberVLM.from_pretrained(args.run / "stage2" / "checkpoint-final")
        rivals: dict[str, Answerer] = {
            "teacher": TeacherAnswerer(load_teacher(args.teacher)),
            "blind": WithoutImage(StudentAnswerer(student)),
        }
        for name, system in rivals.items():
            benchmarks = ("vqa", "instruct") if name == "teacher" else ("vqa",)
            result = evaluate(system, prepared, benchmarks, "val", name=name)
            save_result(result, args.run / "results" / f"{name}.json", ids)
            print(f"{name}: VQA accuracy {100 * (result.vqa_accuracy or 0):.1f}%")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
