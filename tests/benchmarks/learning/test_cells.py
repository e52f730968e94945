"""What is finished is not run again, and what was something else is never taken for it."""

import fcntl
import json
import threading
from dataclasses import replace

import pytest

from benchmarks import target_variants
from benchmarks.learning import arms, runner
from benchmarks.learning import worker as program
from benchmarks.learning.arms import Arm
from benchmarks.learning.cells import Cell, Results
from benchmarks.learning.plan import Grid, chosen_rate
from benchmarks.learning.runner import run_cells
from benchmarks.learning.stage1 import align, stage1_of, stage1_words
from benchmarks.learning.worker import best_step, curve, lent, train_settings, train_words, work
from benchmarks.learning.world import FULL, QUICK, World
from embervlm.distill import variants
from embervlm.errors import UserError
from embervlm.options import parse
from embervlm.settings import TrainSettings

CELL = Cell(FULL, "one", "soft", 0, 2e-3)


def measured(*accuracies: float) -> dict:
    points = [{"step": 10 * (at + 1), "vqa_accuracy": value} for at, value in enumerate(accuracies)]
    return {"curve": points, "best_step": best_step(points), "report": {"accuracy": accuracies[-1]}}


def test_a_cell_is_another_one_when_anything_that_decides_it_changes(monkeypatch):
    others = [
        replace(CELL, seed=1),
        replace(CELL, rate=1e-3),
        replace(CELL, arm="guide"),
        replace(CELL, regime="all"),
        replace(CELL, scale=QUICK),
        replace(CELL, scale=replace(FULL, steps=FULL.steps + 1)),
    ]
    keys = {cell.key for cell in (CELL, *others)}
    assert len(keys) == 1 + len(others)
    monkeypatch.setitem(arms.ARMS, "soft", Arm("soft", "", "--distillation_alpha 0.8"))
    assert CELL.key not in keys


def test_arms_that_read_no_label_are_one_cell_in_all_regimes():
    """The teacher's answers do not depend on the labels: trained once."""
    answers = replace(CELL, arm="answers")
    assert answers.key == replace(answers, regime="wrong40").key
    assert CELL.key != replace(CELL, regime="wrong40").key


def test_a_finished_cell_comes_back_and_a_foreign_one_is_refused(tmp_path):
    results = Results(tmp_path)
    assert results.get(CELL) is None
    results.put(CELL, measured(0.5))
    assert results.get(CELL)["report"] == {"accuracy": 0.5}
    content = json.loads(results.path(CELL).read_text())
    content["definition"]["seed"] = 7
    results.path(CELL).write_text(json.dumps(content))
    with pytest.raises(UserError, match="another cell"):
        results.get(CELL)
    results.path(CELL).write_text("{")
    with pytest.raises(UserError, match="delete it"):
        results.get(CELL)


def worker(tmp_path, monkeypatch, code: str) -> None:
    """The processes run `code` in place of the training."""
    monkeypatch.setattr(runner, "prepare", lambda cells, world: None)
    monkeypatch.setattr(runner, "command", lambda file, world, results: ["sh", "-c", code.format(file=file)])


def test_a_grid_that_was_stopped_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    results, world = Results(tmp_path / "cells"), World(tmp_path / "world", FULL)
    cells = [replace(CELL, seed=seed) for seed in range(4)]
    results.put(cells[1], measured(0.5))
    here = tmp_path / "ran"
    here.mkdir()
    worker(tmp_path, monkeypatch, f"touch {here}/$(basename {{file}})")
    monkeypatch.setattr(runner.Progress, "finished", lambda self, job, results: None)
    run_cells(cells, world, results, jobs=2)
    assert {path.name for path in here.iterdir()} == {f"{cells[at].key}.json" for at in (0, 2, 3)}


def test_a_cell_that_fails_stops_the_grid_and_names_its_log(tmp_path, monkeypatch):
    worker(tmp_path, monkeypatch, "echo so it goes; exit 3")
    with pytest.raises(UserError, match="log") as told:
        run_cells([CELL], World(tmp_path, FULL), Results(tmp_path / "cells"), jobs=1)
    log = runner.log_of(CELL, World(tmp_path, FULL))
    assert str(log) in str(told.value) and log.read_text() == "so it goes\n"


def test_each_arm_gets_the_rate_that_was_best_on_the_half_to_stop_on(tmp_path):
    """The half that is reported must not choose: here it would choose otherwise."""
    results, grid = Results(tmp_path), Grid(FULL, ("one",), ("sft", "soft"), (0, 1))
    for rate, stopped, reported in ((1e-3, 0.5, 0.9), (2e-3, 0.7, 0.6), (4e-3, 0.6, 0.8)):
        found = measured(stopped) | {"report": {"accuracy": reported}}
        results.put(Cell(FULL, "all", "soft", 0, rate), found)
    assert chosen_rate(grid, "soft", results) == 2e-3
    assert {(cell.arm, cell.rate) for cell in grid.cells(results)} == {("sft", 2e-3), ("soft", 2e-3)}
    assert len(grid.search()) == 8 and not replace(grid, rates=(1e-3,)).search()
    with_filled = replace(grid, arms=(*grid.arms, "filled"))  # as SFT: nothing of its own to search
    assert chosen_rate(with_filled, "filled", results) == chosen_rate(grid, "sft", results)
    assert with_filled.search() == grid.search()


def test_the_best_step_is_the_last_of_equals():
    assert best_step([{"step": 1, "vqa_accuracy": 0.5}, {"step": 2, "vqa_accuracy": 0.7}]) == 2
    assert best_step([{"step": 1, "vqa_accuracy": 0.7}, {"step": 2, "vqa_accuracy": 0.5}]) == 1
    assert best_step([{"step": 1, "vqa_accuracy": 0.7}, {"step": 2, "vqa_accuracy": 0.7}]) == 2


def test_the_curve_is_what_evaluations_measured():
    history = [{"step": 5, "stage2/total_loss": 1.0}, {"step": 9, "stage2/vqa_accuracy": 0.4, "stage2/eval_loss": 2.0}]
    assert curve(history) == [{"step": 9, "vqa_accuracy": 0.4, "eval_loss": 2.0}]


@pytest.mark.parametrize("arm", arms.ARMS)
def test_arms_are_settings_that_training_knows_and_differ_in_nothing_else(arm, tmp_path):
    """An arm with more steps, another batch or another order of the data would not be comparable."""
    world = World(tmp_path, FULL)
    mine, sft = (
        parse(TrainSettings, train_words(replace(CELL, arm=name), world, tmp_path / "out")) for name in (arm, "sft")
    )
    same = (
        "max_steps",
        "batch_size",
        "learning_rate",
        "seed",
        "warmup_steps",
        "max_length",
        "eval_steps",
    )
    assert all(getattr(mine, name) == getattr(sft, name) for name in same)
    usual = arms.ARMS[arm].student == arms.STUDENT and arms.ARMS[arm].alignment == arms.CAPTIONS
    assert (mine.resume_from == sft.resume_from) is usual
    assert mine.save_steps == mine.eval_steps and FULL.steps % FULL.evaluations == 0


@pytest.mark.parametrize("alignment", arms.ALIGNMENTS)
def test_a_stage_1_differs_from_the_usual_one_in_what_it_says_and_has_its_own_place(alignment, tmp_path):
    world = World(tmp_path, FULL)
    mine, usual = (
        parse(TrainSettings, stage1_words(world, "tiny", name)).for_stage(1) for name in (alignment, arms.CAPTIONS)
    )
    assert usual.disable_distillation and mine.disable_distillation is not arms.ALIGNMENTS[alignment].taught
    assert (mine.use_cached_teacher_outputs is None) is mine.disable_distillation
    chosen = arms.ALIGNMENTS[alignment]
    said = {word.removeprefix("--") for word in chosen.flags.split() if word.startswith("--")}
    said = {name.removeprefix("no_") for name in said}
    said |= {"use_cached_teacher_outputs"} if chosen.taught else set()
    said |= {"max_steps", "warmup_steps", "logging_steps", "eval_steps", "save_steps"} if chosen.longer != 1 else set()
    said |= {"output_dir"} if alignment != arms.CAPTIONS else set()
    assert {name for name in vars(usual) if getattr(mine, name) != getattr(usual, name)} == said
    assert stage1_of(world, alignment=alignment) == mine.output_dir / "stage1" / "checkpoint-final"


def test_no_two_stages_1_share_a_place_and_one_with_other_flags_is_not_taken(tmp_path, monkeypatch):
    world = World(tmp_path, FULL)
    presets = (arms.STUDENT, arms.SHARED)
    places = {stage1_of(world, preset, name) for preset in presets for name in arms.ALIGNMENTS}
    assert len(places) == len(presets) * len(arms.ALIGNMENTS)
    ran = []
    monkeypatch.setattr("embervlm.train.run.run_train", lambda settings: ran.append(settings.seed))
    for name in (arms.CAPTIONS, "seed1", "seed2", "seed1"):
        align(world, arms.STUDENT, name)
    assert ran == [0, 1, 2]
    monkeypatch.setitem(arms.ALIGNMENTS, "seed1", arms.Alignment("seed1", "--seed 7"))
    with pytest.raises(UserError, match="other flags"):
        align(world, arms.STUDENT, "seed1")


def test_no_two_arms_that_read_the_same_are_trained_the_same(tmp_path):
    world = World(tmp_path, FULL)
    kinds = [(arm.reads, arm.cached, arm.decides) for arm in arms.ARMS.values()]
    assert len(set(kinds)) == len(kinds)
    borrowed = train_settings(replace(CELL, arm="bpm"), world, tmp_path / "out")
    with lent(borrowed.distillation_targets):
        assert variants.TARGETS["bpm"] is target_variants.bpm
    assert "bpm" not in variants.TARGETS, "a benchmark left its targets in the package"
    assert train_settings(replace(CELL, arm="soft"), world, tmp_path / "out").distillation_targets == "resolved"
    shared = train_settings(replace(CELL, arm="shared"), world, tmp_path / "out")
    assert shared.teacher_model == ("toy-llava",) and not shared.use_cached_teacher_outputs
    assert shared.resume_from == stage1_of(world, "tiny-shared") != stage1_of(world)


def test_a_cell_that_another_grid_has_finished_meanwhile_is_not_run_again(tmp_path, monkeypatch):
    """Two grids that share cells would train them twice, and delete each other's checkpoints."""
    world, results, ran = World(tmp_path, FULL), Results(tmp_path / "cells"), []
    monkeypatch.setattr(program, "run_cell", lambda cell, world, out: ran.append(cell) or measured(0.5))
    work(CELL, world, results)
    work(CELL, world, results)
    assert ran == [CELL]


def test_a_second_process_waits_for_the_first_one(tmp_path, monkeypatch):
    world, results, ran = World(tmp_path, FULL), Results(tmp_path / "cells"), []
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(program, "run_cell", lambda cell, world, out: ran.append(cell) or measured(0.1))
    other = tmp_path / "runs" / f"{CELL.key}.lock"
    with other.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=work, args=(CELL, world, results))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        results.put(CELL, measured(0.5))
    thread.join(10)
    assert not thread.is_alive() and not ran
