"""The study is what was run, all of it, and nothing that was run is left out of it."""

import json
from pathlib import Path

import pytest

from benchmarks.learning import __main__ as program
from benchmarks.learning.arms import ARMS
from benchmarks.learning.cells import Results
from benchmarks.learning.page import Figures, title_of
from benchmarks.learning.plan import RATES, Grid, Part, once
from benchmarks.learning.study import STUDY
from benchmarks.learning.world import FULL, QUICK
from tests.benchmarks.learning.test_cells import measured

RUN = Results(Path(program.__file__).parent / "results")


def test_every_cell_of_the_study_was_run_and_there_is_no_other():
    """A cell that turned out badly cannot be left out, nor one be reported that the command does not make."""
    asked = once(cell for part in STUDY for cell in (*part.search(), *part.cells(RUN)))
    assert {cell.key for cell in asked if RUN.get(cell) is None} == set()
    there = {path.stem for path in RUN.folder.glob("*.json") if not path.name.startswith("references.")}
    assert there == {cell.key for cell in asked}


def test_each_question_has_one_scale_and_each_arm_a_place():
    assert all(grid.scale == part.scale for part in STUDY for grid in part.grids)
    assert {arm for part in STUDY for grid in part.grids for arm in grid.arms} == set(ARMS)
    assert len({part.name for part in STUDY}) == len(STUDY)


def test_several_rates_of_an_arm_are_lines_of_their_own(tmp_path):
    results = Results(tmp_path)
    grids = tuple(
        Grid(FULL, ("all",), arms, (0,), (rate,))
        for arms, rate in ((("sft",), 1e-3), (("soft",), 1e-3), (("soft",), 2e-3))
    )
    part = Part("rates", "", grids)
    for at, cell in enumerate(part.cells(results)):
        results.put(cell, measured(0.1 * (1 + at)))
    figures = Figures.read(part, results, {}, ())
    assert list(figures.cells["all"]) == ["sft", "soft@0.001", "soft@0.002"]
    assert figures.rates["soft@0.002"] == 2e-3 and title_of("soft@0.002").endswith(", at 0.002")


def test_what_is_told_keeps_small_rates():
    assert program.rounded({"rate": 5e-4, "many": [12.345678]}) == {"rate": 5e-4, "many": [12.346]}


def test_without_words_it_is_the_study_and_with_an_arm_a_grid_of_ones_own():
    assert tuple(program.read_options([]).parts) == STUDY
    assert [part.name for part in program.read_options(["--parts", "time", "labels"]).parts] == ["labels", "time"]
    (own,) = program.read_options(["--arms", "sft", "--steps", "100"]).parts
    assert [grid.arms for grid in own.grids] == [["sft"]] and own.scale.steps == 100 and own.grids[0].rates == RATES
    (quick,) = program.read_options(["--quick"]).parts
    assert quick.scale == QUICK


@pytest.mark.parametrize(
    "words", (["--parts", "labels", "--seeds", "1"], ["--parts", "labels", "--quick"], ["--png", "a.png"])
)
def test_words_that_contradict_each_other_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        program.read_options(words)
    assert "own" in capsys.readouterr().err


def test_the_page_and_the_line_are_of_the_study(tmp_path, monkeypatch, capsys):
    page, picture = tmp_path / "page.html", tmp_path / "curves.png"
    words = [
        "--results",
        str(RUN.folder),
        "--report_only",
        "--html",
        str(page),
        "--png",
        str(picture),
        "--parts",
        "further",
    ]
    monkeypatch.setattr("sys.argv", ["learning", *words])
    assert program.main() == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = told["parts"]["further"]["regimes"]["sure"]["filled"]
    assert told["missing"] == 0 and row["seeds"] == 3 and row["learning_rate"] == 1e-3
    assert f"{row['accuracy']:.1f}" in page.read_text() and picture.stat().st_size > 10_000
