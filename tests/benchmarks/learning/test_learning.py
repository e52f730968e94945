"""The whole benchmark on a world of a few pictures, as a person would call it."""

import json

import pytest

from benchmarks.learning import __main__ as program
from benchmarks.learning.cells import Results
from benchmarks.learning.stats import read
from benchmarks.learning.world import Scale

TINY = Scale(
    train_images=16, val_images=8, stage1_steps=2, steps=2, evaluations=1, stop_questions=8, batch_size=8
)  # fmt: skip


@pytest.mark.slow
def test_cells_are_trained_compared_and_not_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "QUICK", TINY)
    page = tmp_path / "page.html"
    words = [
        "--quick",
        "--arms",
        "sft",
        "soft",
        "answers",
        "taught-sft",
        "--regimes",
        "few25",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr("sys.argv", ["learning", *words, "--html", str(page), "--jobs", "1"])
    assert program.main() == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = told["parts"]["grid"]["regimes"]["few25"]
    assert set(rows) == {"sft", "soft", "answers", "taught-sft"} and told["missing"] == 0
    assert rows["sft"]["gain"]["mean"] == 0 and rows["soft"]["teacher_seconds"] > 0
    # Its own training has no teacher, the Stage 1 before it has.
    assert rows["sft"]["teacher_seconds"] == 0 < rows["taught-sft"]["teacher_seconds"]
    assert told["references"]["teacher"] > 60
    assert "</html>" in page.read_text()

    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    assert len(cells) == 5  # and the references
    first = json.loads(next(path for path in cells if ".sft." in path.name).read_text())
    assert len(first["tenths"]) == first["report"]["questions"]
    assert first["report"]["accuracy"] == pytest.approx(read(first["tenths"]).mean() / 100, abs=1e-4)
    assert program.main() == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()} == cells
    assert Results(tmp_path / "out" / "cells").folder.is_dir()
