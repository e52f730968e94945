"""What an evaluation found, and its form on disk: results/*.json and the predictions beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.evaluate.divergence import Divergence
from embervlm.evaluate.instruct import InstructResult
from embervlm.evaluate.judge import JudgeResult, read_judge_result
from embervlm.evaluate.vqa import Share, VqaScores
from embervlm.files import write_whole

SCHEMA = "embervlm/evaluation-1"


@dataclass(frozen=True)
class EvalResult:
    """One system on one split. On disk all shares and scores are 0 to 1, divergences nats, times seconds.

    {"schema", "system", "split", "data": fingerprint, "benchmarks": {"vqa" | "okvqa": {"overall": {"n", "accuracy",
    "exact_match", "interval": [low, high]}, "without_yes_no", "by_answer_type": {..}, "by_question_type": {..},
    "variants": {"lmms-eval" | "pre-2021": accuracy}},
    "instruct": {"n", "score", "relevance", "completeness", "coherence", "interval"}},
    "closed": {"vqa" | "okvqa": as above}, "divergence": {..} or null,
    "judge": {"model", "prompt": its hash, "mean", "interval", "n", "unparsable"} or null,
    "model": {"checkpoint", "sha256", "parameters"}, "prompts": {"template", "vqa" | ..: the first question as the model
    reads it}, "decoding": {"do_sample", "num_beams", "max_new_tokens": {"vqa" | ..: tokens}, ..},
    "baselines": [names of the result files beside this one], "unread": {"vqa" | ..: questions that the model could not
    read, which count as wrong},
    "settings": {..}, "seconds": {..}, "environment": {..}}; interval: 95%, bootstrap over pictures.
    """

    system: str  # "student", "teacher", "majority per template", ...
    split: str
    data: str  # PreparedSet.fingerprint
    vqa: dict[str, VqaScores]  # "vqa", "okvqa"
    instruct: InstructResult | None = None
    divergence: Divergence | None = None
    predictions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # benchmark -> record id -> answer
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    closed: dict[str, VqaScores] = field(default_factory=dict)  # as vqa, out of a closed set of answers
    model: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    baselines: list[str] = field(default_factory=list)
    judge: JudgeResult | None = None  # of the answers to instruct
    unread: dict[str, int] = field(
        default_factory=dict
    )  # benchmark -> questions longer than the model reads: no answer

    @property
    def vqa_accuracy(self) -> float | None:
        """VQA-v2's overall accuracy, 0 to 1."""
        return self.vqa["vqa"].overall.accuracy if "vqa" in self.vqa else None

    def to_json(self) -> dict[str, Any]:
        benchmarks: dict[str, Any] = {name: dataclasses.asdict(scores) for name, scores in self.vqa.items()}
        if self.instruct is not None:
            benchmarks["instruct"] = dataclasses.asdict(self.instruct)
        return {
            "schema": SCHEMA,
            "system": self.system,
            "split": self.split,
            "data": self.data,
            "benchmarks": benchmarks,
            "closed": {name: dataclasses.asdict(scores) for name, scores in self.closed.items()},
            "divergence": None if self.divergence is None else dataclasses.asdict(self.divergence),
            "judge": None if self.judge is None else dataclasses.asdict(self.judge),
            "model": self.model,
            "prompts": self.prompts,
            "decoding": self.decoding,
            "baselines": self.baselines,
            "unread": self.unread,
            "settings": self.settings,
            "seconds": self.seconds,
            "environment": self.environment,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvalResult:
        """The inverse of `to_json`; predictions are not in there."""
        benchmarks = data["benchmarks"]
        instruct, divergence = benchmarks.get("instruct"), data.get("divergence")
        return cls(
            system=data["system"],
            split=data["split"],
            data=data["data"],
            vqa={name: _vqa_scores(benchmarks[name]) for name in ("vqa", "okvqa") if name in benchmarks},
            closed={name: _vqa_scores(scores) for name, scores in data.get("closed", {}).items()},
            instruct=None if instruct is None else InstructResult(**_with_interval(instruct)),
            divergence=None if divergence is None else Divergence(**divergence),
            judge=read_judge_result(data.get("judge")),
            model=data.get("model", {}),
            prompts=data.get("prompts", {}),
            decoding=data.get("decoding", {}),
            baselines=list(data.get("baselines", [])),
            unread=data.get("unread", {}),
            settings=data.get("settings", {}),
            seconds=data.get("seconds", {}),
            environment=data.get("environment", {}),
        )


def save_result(result: EvalResult, path: Path, question_ids: Mapping[str, Any]) -> list[Path]:
    """Write `path` and, beside it, `<stem>_predictions_<benchmark>.json` for each benchmark.

    VQA predictions are a list of {"question_id", "answer"}: the official form, ready to be submitted. `question_ids`
    maps record ids to question ids; records without one go by their own id.
    """
    written = [path]
    for benchmark, answers in result.predictions.items():
        rows = [{"question_id": question_ids.get(record, record), "answer": text} for record, text in answers.items()]
        beside = predictions_path(path, benchmark)
        write_json(beside, rows)
        written.append(beside)
    write_json(path, result.to_json())
    return written


def is_result(path: Path) -> bool:
    """Whether `save_result` wrote this JSON file, rather than the predictions beside it."""
    data = read_json(path)
    return isinstance(data, dict) and data.get("schema") == SCHEMA


def load_result(path: Path) -> EvalResult:
    """Read what `save_result` wrote, predictions aside."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise UserError(f"{path} is not a result of embervlm evaluate (its schema is not {SCHEMA}).")
    try:
        return EvalResult.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged or of another version ({error!r}); run embervlm evaluate again.") from error


def predictions_path(path: Path, benchmark: str) -> Path:
    return path.with_name(f"{path.stem}_predictions_{benchmark}.json")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} could not be read as JSON ({error}).") from error


def write_json(path: Path, data: Any) -> None:
    """Whole or not at all."""
    write_whole(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _vqa_scores(data: Mapping[str, Any]) -> VqaScores:
    without = data["without_yes_no"]
    return VqaScores(
        overall=_share(data["overall"]),
        without_yes_no=None if without is None else _share(without),
        by_answer_type={kind: _share(share) for kind, share in data["by_answer_type"].items()},
        by_question_type={kind: _share(share) for kind, share in data["by_question_type"].items()},
        variants=data.get("variants", {}),
    )


def _share(data: Mapping[str, Any]) -> Share:
    return Share(**_with_interval(data))


def _with_interval(data: Mapping[str, Any]) -> dict[str, Any]:
    low, high = data["interval"]
    return {**data, "interval": (low, high)}
