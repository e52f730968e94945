"""Runs beside each other: the right questions against each other, and no more said than is known."""

import dataclasses

import numpy as np
import pytest

from embervlm.errors import UserError
from embervlm.evaluate.comparison import Exchange, compare_runs
from embervlm.evaluate.paired import paired_bootstrap
from embervlm.evaluate.resampling import pictures_of
from embervlm.evaluate.runner import evaluate
from embervlm.evaluate.runs import open_runs
from tests.evaluate.world import Sayer, save


@pytest.fixture(scope="module")
def comparison(compared, prepared):
    names = ("a.json", "b.json", "blind.json")
    return compare_runs(open_runs([compared / "results" / name for name in names]), prepared, 2000, seed=1)


def test_scores_are_paired_by_question(comparison):
    """Scores put against each other in another order would still have the right means."""
    vqa = comparison.benchmarks[0]
    by_id = {row[0].record.id: [one.score for one in row] for row in vqa.questions}
    assert {row[0].record.id for row in vqa.questions} == {one.record.id for row in vqa.questions for one in row}
    assert by_id == {
        "vqa-0": [1, 0, 0], "vqa-1": [1, 1, 1], "vqa-4": [0, 1, 0], "vqa-5": [1, 0, 0], "vqa-8": [1, 1, 0],
        "vqa-9": [1, 1, 0],
    }  # fmt: skip
    pictures = pictures_of([row[0].record for row in vqa.questions])
    expected = paired_bootstrap(np.array(list(by_id.values()), dtype=float).T, 2000, 1, pictures)
    assert vqa.overall.scores == pytest.approx((5 / 6, 4 / 6, 1 / 6))
    assert vqa.overall.differences == expected.differences and vqa.overall.intervals == expected.intervals


def test_who_answers_what_the_other_does_not(comparison):
    against_b, against_blind = comparison.benchmarks[0].exchanges
    assert against_b["all"] == Exchange(both=3, only_first=2, only_other=1, neither=0)
    assert against_b["yes/no"] == Exchange(2, 1, 0, 0) and against_b["other"] == Exchange(1, 1, 1, 0)
    assert against_blind["all"] == Exchange(both=1, only_first=4, only_other=0, neither=1)
    assert list(against_b) == ["all", "yes/no", "other"]


def test_kinds_of_questions_have_their_own_differences(comparison):
    rows = {row.name: row for row in comparison.benchmarks[0].question_types}
    assert set(rows) == {"what color", "is it"} and rows["is it"].n == 3
    assert rows["is it"].differences[0].mean == pytest.approx(-1 / 3)


def test_a_run_that_was_not_asked_stands_aside(comparison):
    assert [(found.benchmark, found.runs) for found in comparison.benchmarks] == [
        ("vqa", (0, 1, 2)), ("okvqa", (0, 1)), ("instruct", (0, 1)),
    ]  # fmt: skip
    assert "blind was not asked OK-VQA." in comparison.notes


def test_the_blind_run_belongs_to_its_own_checkpoint(comparison):
    ((seeing, blind, sight),) = comparison.sights
    assert (seeing, blind, sight.n) == (0, 2, 6) and sight.gain == pytest.approx(4 / 6)


def test_other_subsets_are_compared_on_what_they_share(compared, prepared, tmp_path):
    part = evaluate(Sayer(), prepared, ("vqa",), name="student", max_samples=4, seed=3, progress=False)
    runs = open_runs([compared / "results" / "a.json", save(part, prepared, tmp_path / "part.json")])
    (vqa,) = compare_runs(runs, prepared).benchmarks
    assert vqa.overall.n == 4 and vqa.left_out == 2
    assert {row[0].record.id for row in vqa.questions} == set(part.predictions["vqa"])
    assert "Compared are the 4 that all were asked; 2 are left out" in compare_runs(runs, prepared).notes[0]


def test_no_question_or_benchmark_in_common_is_an_error(compared, prepared, tmp_path):
    whole = evaluate(Sayer(), prepared, ("vqa",), progress=False)
    halves = []
    for name, some in (("one", slice(0, 3)), ("two", slice(3, 6))):
        kept = dict(list(whole.predictions["vqa"].items())[some])
        scores = dataclasses.replace(whole.vqa["vqa"], overall=dataclasses.replace(whole.vqa["vqa"].overall, n=3))
        half = dataclasses.replace(whole, predictions={"vqa": kept}, vqa={"vqa": scores})
        halves.append(save(half, prepared, tmp_path / f"{name}.json"))
    with pytest.raises(UserError, match="VQA: the evaluations have no question in common"):
        compare_runs(open_runs(halves), prepared)
    told = evaluate(Sayer(), prepared, ("instruct",), progress=False)
    with pytest.raises(UserError, match="No two of these .*one: vqa; told: instruct"):
        compare_runs(open_runs([halves[0], save(told, prepared, tmp_path / "told.json")]), prepared)


def test_without_the_data_figures_stand_side_by_side(compared, prepared, tmp_path):
    """Scores must not be invented for answers that nobody can judge any more."""
    runs = open_runs([compared / "results" / name for name in ("a.json", "b.json")])
    found = compare_runs(runs, None)
    assert not found.paired and "The data set is not at hand any more" in found.notes[0]
    vqa = found.benchmarks[0]
    assert vqa.overall.scores == pytest.approx((5 / 6, 4 / 6)) and not vqa.overall.differences and not vqa.exchanges
    part = evaluate(Sayer(), prepared, ("vqa",), max_samples=4, progress=False)
    runs = open_runs([runs[0].path, save(part, prepared, tmp_path / "part.json")])
    with pytest.raises(UserError, match="part.json was asked other questions than .*a.json, and the data set is not"):
        compare_runs(runs, None)


def test_the_numbers_on_disk(comparison):
    data = comparison.to_json()
    assert data["schema"] == "embervlm/comparison-1" and data["paired"] and data["draws"] == 2000
    vqa = data["benchmarks"]["vqa"]
    assert vqa["exchanges"]["b"]["all"] == {"both": 3, "only_first": 2, "only_other": 1, "neither": 0}
    assert set(vqa["overall"]["differences"][0]) == {"mean", "interval", "above", "p"}
    assert data["sights"][0]["run"] == "a" and data["sights"][0]["sentence"].startswith("a gains 66.7 points")
