"""examples/stamps/run.sh with a recorder in the place of Python: what it calls, and that these commands exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embervlm.data.settings import PrepareSettings
from embervlm.options import parse
from embervlm.settings import (
    AnswerSettings,
    CacheSettings,
    EvaluateSettings,
    ReportSettings,
    TrainSettings,
)

SCRIPT = Path(__file__).parents[2] / "examples" / "stamps" / "run.sh"
VERBS = {
    "prepare": PrepareSettings,
    "train": TrainSettings,
    "answer": AnswerSettings,
    "cache build": CacheSettings,
    "evaluate": EvaluateSettings,
    "report": ReportSettings,
}


def run(folder: Path, failing: str = "") -> tuple[int, list[list[str]]]:
    """Exit status and all calls; the one whose words hold `failing` fails."""
    log, recorder = folder / "calls.jsonl", folder / "python"
    log.unlink(missing_ok=True)
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\nfails = {failing!r}\nwith open({str(log)!r}, 'a') as log:\n"
        f"    print(json.dumps(sys.argv[1:]), file=log)\nsys.exit(bool(fails) and fails in str(sys.argv))"
    )
    recorder.chmod(0o755)
    places = {name: str(folder / name.lower()) for name in ("OFFICIAL", "ALL", "DATA", "RUN")}
    done = subprocess.run(["bash", str(SCRIPT)], env={**os.environ, "PYTHON": str(recorder), **places}, check=False)
    return done.returncode, [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def test_its_commands_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SCRIPT.parents[2])
    code, calls = run(tmp_path)
    assert code == 0
    verbs = [call[2:] for call in calls if call[:2] == ["-m", "embervlm.cli"]]
    assert len(verbs) == 10
    for words in verbs:
        size = 2 if words[0] == "cache" else 1
        parse(VERBS[" ".join(words[:size])], words[size:])
    settings = [parse(TrainSettings, words[1:]) for words in verbs if words[0] == "train"]
    align, distilled, alone = settings
    assert align.stages == (1,) and distilled.resume_from == alone.resume_from
    assert (distilled.distillation_alpha, distilled.sft_weight, distilled.distillation_temperature) == (0.9, 0.1, 1.0)
    assert alone.disable_distillation and alone.max_steps == distilled.max_steps
    evaluated = [parse(EvaluateSettings, words[1:]).checkpoint for words in verbs if words[0] == "evaluate"]
    assert {path.name for path in map(Path, evaluated)} == {f"checkpoint-{alone.max_steps}"}
    scripts = [Path(call[0]) for call in calls if call[0] != "-m"]
    assert len(scripts) == 3 and all(path.is_file() for path in scripts)


def test_a_run_that_was_stopped_keeps_the_teacher_and_no_other(tmp_path: Path) -> None:
    """The teacher takes a quarter of an hour; half a teacher must not be taken for one."""
    code, first = run(tmp_path, "train_teacher.py")
    assert code and "train_teacher.py" in first[-1][0]
    code, second = run(tmp_path)
    assert code == 0 and not any("train_tower.py" in call[0] for call in second)
    assert sum("train_teacher.py" in call[0] for call in second) == 1
    code, third = run(tmp_path)
    assert code == 0 and not any("train_" in call[0] for call in third)
