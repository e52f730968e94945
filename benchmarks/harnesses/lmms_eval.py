"""lmms-eval run for real on the embedded world, and compared with `embervlm evaluate` question by question.

    python -m benchmarks.harnesses.lmms_eval --venv /tmp/lmms-eval

Makes the environment (lmms-eval 0.7.3 from PyPI), a small student (unless one is named), local tasks out of the val
split, runs them with the adapter, and ends with code 1 where a number or an answer differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harnesses.compare import Compared, print_compared
from benchmarks.harnesses.small_student import small_student
from benchmarks.harnesses.venvs import make_venv
from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.dataset import RecordDataset
from embervlm.data.images import resolve_image
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.evaluate.answerers import load_pictures
from embervlm.evaluate.benchmarks import select
from embervlm.evaluate.closed import ClosedAnswerer, build_trie
from embervlm.evaluate.runner import evaluate
from embervlm.evaluate.vqa import record_accuracy
from embervlm.model import EmberVLM

VERSION = "0.7.3"
PACKAGES = [f"lmms-eval=={VERSION}", "filelock<4"]
"""It reaches into `filelock._api`, which filelock 4 does not have, and does not say so in its requirements."""
TASKS = Path(__file__).with_name("lmms_tasks")
CHOICES = 24
BENCHMARKS = ("vqa", "okvqa", "instruct")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, help="environment of lmms-eval, made the first time")
    parser.add_argument("--out", type=Path, default=Path("outputs/lmms_eval"), help="student, tasks and results")
    parser.add_argument("--checkpoint", type=Path, help="a trained student; left out: a small one is trained, minutes")
    parser.add_argument("--dataset_path", type=Path, help="its prepared stage 2; goes with --checkpoint")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--scored_choices", type=int, default=100, help="questions whose every choice is scored")
    parser.add_argument("--pip_args", default="", help="of the first installation, such as another index")
    options = parser.parse_args()
    if (options.checkpoint is None) != (options.dataset_path is None):
        parser.error("--checkpoint and --dataset_path go together")
    python = make_venv(options.venv, PACKAGES, options.pip_args.split())
    made = (options.checkpoint, options.dataset_path)
    checkpoint, data = made if options.checkpoint else small_student(options.out / "student")
    prepared = open_prepared(data)
    chosen = select(prepared.records("val"), BENCHMARKS, "val")
    scored = chosen["vqa"][: options.scored_choices]
    choices = write_tasks(options.out / "tasks", prepared, chosen, scored)
    model = EmberVLM.from_pretrained(checkpoint).eval()
    found = run_tasks(python, checkpoint, options)
    compared = [
        *compare_answers(model, prepared, chosen, found, options.batch_size),
        compare_likelihoods(model, prepared, scored, found["ember_reference"]),
        compare_choices(model, prepared, scored, choices, found["ember_choice"]),
    ]
    return print_compared(f"lmms-eval {VERSION} and embervlm evaluate", "lmms_eval", compared)


def write_tasks(
    folder: Path, prepared: PreparedSet, chosen: Mapping[str, Sequence[Record]], scored: Sequence[Record]
) -> list[str]:
    """The YAML files with their rows beside them; returns the closed set of answers."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(TASKS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    common = Counter(record.response for record in chosen["vqa"]).most_common(CHOICES)
    choices = sorted({answer for answer, _ in common} | {record.response for record in scored})
    for name, records in {**chosen, "choice": scored}.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for record in records:
                row = {
                    "id": record.id,
                    "image": str(resolve_image(prepared.image_root, record.image)) if record.image else None,
                    "question": record.instruction,
                    "answer": record.response,
                    "answers": list(record.answers or (record.response,)),
                }
                if name == "choice":
                    row |= {"choices": choices, "truth": choices.index(record.response)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return choices


def run_tasks(python: Path, checkpoint: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Samples of each task as lmms-eval logged them, in the order of the rows."""
    results = (options.out / "results").resolve()
    shutil.rmtree(results, ignore_errors=True)
    tasks = ",".join(f"ember_{name}" for name in (*BENCHMARKS, "reference", "choice"))
    words = ["-m", "lmms_eval", "--model", "embervlm", "--tasks", tasks, "--device", "cpu", "--log_samples"]
    words += ["--model_args", f"pretrained={checkpoint.resolve()},score_end=True"]
    words += ["--batch_size", str(options.batch_size), "--include_path", str((options.out / "tasks").resolve())]
    words += ["--output_path", str(results)]
    print("$ python", " ".join(words), flush=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LMMS_EVAL_DATASETS_CACHE": str(results / "cache")}
    offline["HF_DATASETS_CACHE"] = offline["LMMS_EVAL_DATASETS_CACHE"]
    subprocess.run([python, *words], check=True, env=os.environ | offline)
    found = {}
    for task in tasks.split(","):
        path = next(results.rglob(f"*_samples_{task}.jsonl"), None)
        if path is None:  # it ends with code 0 whatever happened
            sys.exit(f"lmms-eval left no samples of {task}; what it said stands above.")
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[task] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


def by_record(records: Sequence[Record], samples: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record.id: sample for record, sample in zip(records, samples, strict=True)}


def compare_answers(
    model: EmberVLM,
    prepared: PreparedSet,
    chosen: Mapping[str, Sequence[Record]],
    found: Mapping[str, list[dict[str, Any]]],
    batch_size: int,
) -> list[Compared]:
    """Generated answers, letter by letter, and the scores of both sides."""
    ours = evaluate(model, prepared, BENCHMARKS, "val", batch_size=batch_size, progress=False)
    compared = []
    for name, records in chosen.items():
        samples = by_record(records, found[f"ember_{name}"])
        answers = {
            record.id: (samples[record.id]["filtered_resps"], ours.predictions[name][record.id]) for record in records
        }
        differing = [f"{at}: {theirs!r}, ours {mine!r}" for at, (theirs, mine) in answers.items() if theirs != mine]
        compared.append(
            Compared(f"{name}: answers that are equal", len(answers) - len(differing), len(answers), differing)
        )
        for theirs, variant in _METRICS.get(name, ()):
            scores = {record.id: record_accuracy(answers[record.id][1], record, variant) for record in records}
            unequal = [
                f"{record.id}: {answers[record.id][0]!r} to {record.answers} scores {samples[record.id][theirs]:.3f}, "
                f"ours {scores[record.id]:.3f}"
                for record in records
                if abs(samples[record.id][theirs] - scores[record.id]) > 1e-9
            ]
            mean = sum(samples[record.id][theirs] for record in records) / len(records)
            own = ours.vqa[name].overall.accuracy if variant == "official" else ours.vqa[name].variants[variant]
            compared.append(Compared(f"{name}: {theirs} against ours '{variant}'", 100 * mean, 100 * own, unequal))
    return compared


_METRICS = {
    "vqa": (("official", "official"), ("lmms_eval_vqav2", "lmms-eval")),
    "okvqa": (("official", "official"), ("lmms_eval_ok_vqa", "lmms-eval")),
}
"""(metric of the task, our variant of the same)."""


def compare_likelihoods(
    model: EmberVLM, prepared: PreparedSet, records: Sequence[Record], samples: list[dict[str, Any]]
) -> Compared:
    """Log-likelihoods against the cross-entropy that training computes, one record at a time."""
    dataset, collate = RecordDataset(records, prepared.image_root, model.processor, 512), Collator(model.processor)
    theirs = {at: sample["log_likelihood"] for at, sample in by_record(records, samples).items()}
    total, differing = 0.0, []
    with torch.inference_mode():
        for at, record in enumerate(records):
            own = -float(model(**model_inputs(collate([dataset[at]]), model.device), use_cache=False).parts.ce_sum)
            total += own
            if abs(own - theirs[record.id]) > 1e-4:
                differing.append(f"{record.id}: {theirs[record.id]:.6f}, ours {own:.6f}")
    mean = sum(theirs.values()) / len(records)
    return Compared("reference: mean log-likelihood (nats)", mean, total / len(records), differing)


def compare_choices(
    model: EmberVLM,
    prepared: PreparedSet,
    records: Sequence[Record],
    choices: Sequence[str],
    samples: list[dict[str, Any]],
) -> Compared:
    """The choice that lmms-eval took for the likeliest, against our closed-set decoding."""
    closed = ClosedAnswerer(model, build_trie(model.processor.tokenizer, choices))
    own = closed.choose(load_pictures(records, prepared.image_root), [record.instruction for record in records])
    accuracy = {at: float(sample["acc"]) for at, sample in by_record(records, samples).items()}
    differing = [
        f"{record.id}: right is {record.response!r}, ours {answer!r}, lmms-eval scores {accuracy[record.id]:g}"
        for record, answer in zip(records, own, strict=True)
        if accuracy[record.id] != (answer == record.response)
    ]
    right = sum(answer == record.response for record, answer in zip(records, own, strict=True))
    n = len(records)
    return Compared(
        f"choice: accuracy out of {len(choices)}", 100 * sum(accuracy.values()) / n, 100 * right / n, differing
    )


if __name__ == "__main__":
    sys.exit(main())
