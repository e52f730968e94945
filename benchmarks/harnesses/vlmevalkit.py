"""VLMEvalKit run for real on the embedded world, and compared with `embervlm evaluate` question by question.

    git clone https://github.com/open-compass/VLMEvalKit
    python -m benchmarks.harnesses.vlmevalkit --kit VLMEvalKit --venv /tmp/vlmevalkit

Makes the environment (the checkout's own requirements), a small student (unless one is named) and a TSV out of the val
split, runs the checkout's run.py with the adapter, and ends with code 1 where an answer or its own VQA score differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harnesses.compare import Compared, print_compared
from benchmarks.harnesses.small_student import small_student
from benchmarks.harnesses.venvs import ROOT, make_venv
from embervlm.data.images import resolve_image
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.evaluate.benchmarks import BENCHMARKS, select
from embervlm.evaluate.runner import evaluate
from embervlm.evaluate.vqa import record_accuracy
from embervlm.integrations.vlmevalkit import NAME
from embervlm.model import EmberVLM

EXTRA = ("rouge_score",)
"""What importing the kit needs and its requirements.txt leaves out."""
DATASET = "ember_vqa"
SCORE = """
import json, sys
from vlmeval.dataset.utils.vqa_eval import process_line
print("scores " + json.dumps([sum(process_line(row)["match"]) / 10 for row in json.load(open(sys.argv[1]))]))
"""
"""The kit's own VQA accuracy, which it applies to its built-in sets only."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="checkout of VLMEvalKit")
    parser.add_argument("--venv", type=Path, required=True, help="its environment, made the first time")
    parser.add_argument("--out", type=Path, default=Path("outputs/vlmevalkit"), help="student, data and results")
    parser.add_argument("--checkpoint", type=Path, help="a trained student; left out: a small one is trained, minutes")
    parser.add_argument("--dataset_path", type=Path, help="its prepared stage 2; goes with --checkpoint")
    parser.add_argument("--pip_args", default="", help="of the first installation, such as another index")
    options = parser.parse_args()
    if (options.checkpoint is None) != (options.dataset_path is None):
        parser.error("--checkpoint and --dataset_path go together")
    requirements = f"-r{options.kit.resolve() / 'requirements.txt'}"
    python = make_venv(options.venv, [requirements, *EXTRA], options.pip_args.split())
    made = (options.checkpoint, options.dataset_path)
    checkpoint, data = made if options.checkpoint else small_student(options.out / "student")
    prepared = open_prepared(data)
    (records,) = select(prepared.records("val"), ("vqa",), "val").values()
    answers = run_kit(python, checkpoint, prepared, records, options)
    scores = kit_scores(python, records, answers, options)
    own = evaluate(EmberVLM.from_pretrained(checkpoint).eval(), prepared, ("vqa",), "val", progress=False)
    compared = [compare_answers(records, answers, own.predictions["vqa"]), compare_scores(records, answers, scores)]
    return print_compared("VLMEvalKit and embervlm evaluate", "vlmevalkit", compared)


def run_kit(
    python: Path, checkpoint: Path, prepared: PreparedSet, records: Sequence[Record], options: argparse.Namespace
) -> list[str]:
    """The kit's answers, in the order of the records."""
    work, tables = (options.out / "results").resolve(), (options.out / "LMUData").resolve()
    shutil.rmtree(work, ignore_errors=True)
    tables.mkdir(parents=True, exist_ok=True)
    with (tables / f"{DATASET}.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image_path", "question", "answer"])
        for at, record in enumerate(records):
            assert record.image is not None
            table.writerow([at, resolve_image(prepared.image_root, record.image), record.instruction, record.response])
    words = ["-m", "embervlm.integrations.vlmevalkit", "--kit", str(options.kit.resolve()), "--device", "cpu"]
    words += ["--checkpoint", str(checkpoint.resolve()), "--max_new_tokens", str(BENCHMARKS["vqa"].max_new_tokens)]
    words += ["--data", DATASET, "--mode", "infer", "--work-dir", str(work)]
    print("$ python", " ".join(words), flush=True)
    # An answer such as "12" would become a number in the kit's default spreadsheet.
    given = {"LMUData": str(tables), "PRED_FORMAT": "json", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([python, *words], check=True, env=os.environ | given, cwd=options.out)
    path = next(work.rglob(f"{NAME}_{DATASET}.json"), None)
    if path is None:
        sys.exit(f"VLMEvalKit left no {NAME}_{DATASET}.json; what it said stands above.")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [str(row["prediction"]) for row in sorted(rows, key=lambda row: int(row["index"]))]


def kit_scores(
    python: Path, records: Sequence[Record], answers: Sequence[str], options: argparse.Namespace
) -> list[float]:
    """The accuracy that the kit's own code gives to each answer."""
    rows = [
        {"answer": str(list(record.answers or ())), "prediction": answer}
        for record, answer in zip(records, answers, strict=True)
    ]
    path = (options.out / "scored.json").resolve()
    path.write_text(json.dumps(rows), encoding="utf-8")
    told = subprocess.run(
        [python, "-c", SCORE, str(path)], check=True, cwd=options.kit, stdout=subprocess.PIPE, text=True
    ).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("scores ")]
    return json.loads(line.removeprefix("scores "))


def compare_answers(records: Sequence[Record], answers: Sequence[str], own: dict[str, str]) -> Compared:
    differing = [
        f"{record.id}: {answer!r}, ours {own[record.id]!r}"
        for record, answer in zip(records, answers, strict=True)
        if answer != own[record.id]
    ]
    return Compared("answers that are equal", len(answers) - len(differing), len(answers), differing)


def compare_scores(records: Sequence[Record], answers: Sequence[str], scores: Sequence[float]) -> Compared:
    """Its vqa_score normalises both sides always, as lmms-eval does."""
    own = [record_accuracy(answer, record, "lmms-eval") for record, answer in zip(records, answers, strict=True)]
    differing = [
        f"{record.id}: {answer!r} to {record.answers} scores {theirs:.3f}, ours {mine:.3f}"
        for record, answer, theirs, mine in zip(records, answers, scores, own, strict=True)
        if abs(theirs - mine) > 1e-9
    ]
    n = len(records)
    return Compared("vqa_score against ours 'lmms-eval'", 100 * sum(scores) / n, 100 * sum(own) / n, differing)


if __name__ == "__main__":
    sys.exit(main())
