"""The page of a comparison: safe, whole, and with every part that there is something to say about."""

import dataclasses

import pytest

from embervlm.evaluate.comparison import compare_runs
from embervlm.evaluate.pages.comparison import render_comparison
from embervlm.evaluate.pages.templates import read_asset
from embervlm.evaluate.runs import open_runs
from tests.evaluate import synthetic
from tests.evaluate.pages.checks import HOSTILE, check

SCRIPT = (read_asset("page.js"),)


@pytest.fixture(scope="module")
def comparison(compared, prepared):
    names = ("a.json", "b.json", "blind.json")
    runs = open_runs([compared / "results" / name for name in names])
    return compare_runs(runs, prepared, 500)


def test_a_comparison_has_its_parts(comparison):
    html = render_comparison(comparison)
    page = check(html, SCRIPT)
    shown = (
        "a against 2 others", "its difference to a, −16.7 points, may be chance", "a gains 66.7 points from seeing",
        "blind was not asked OK-VQA.", "only a answers, not b (2 of 2)", "only b answers, not a (1 of 1)",
        "training: distillation_alpha", "Stage 2: cross-entropy", "9 × red, 1 × pink",
    )  # fmt: skip
    text = " ".join(page.text.split())
    assert [words for words in shown if words not in text] == []
    assert html.count(".p0{") == 1 and page.tags.count("svg") == 1
    assert html.count('class="line student"') == html.count('class="line teacher"') == 1  # the blind run's is a's own


def test_examples_are_bounded(comparison):
    assert render_comparison(comparison, 1).count('<article class="shot"') == 4
    assert "article" not in check(render_comparison(comparison, 0), SCRIPT).tags


def test_what_models_and_people_wrote_is_escaped(comparison):
    benchmarks = tuple(
        dataclasses.replace(
            found,
            questions=tuple(
                tuple(
                    dataclasses.replace(
                        one,
                        answer=HOSTILE,
                        record=dataclasses.replace(one.record, instruction=HOSTILE, response=HOSTILE, id=HOSTILE),
                    )
                    for one in row
                )
                for row in found.questions
            ),
            question_types=tuple(dataclasses.replace(row, name=HOSTILE) for row in found.question_types),
        )
        for found in comparison.benchmarks
    )
    runs = tuple(dataclasses.replace(run, name=HOSTILE) for run in comparison.runs)
    hostile = dataclasses.replace(
        comparison, runs=runs, benchmarks=benchmarks, settings={HOSTILE: [HOSTILE] * 3}, notes=(HOSTILE,)
    )
    assert "alert('x')" in check(render_comparison(hostile), SCRIPT).text


def test_without_data_there_are_no_differences(compared):
    runs = open_runs([compared / "results" / name for name in ("a.json", "b.json")])
    measured = [synthetic.result("x", 0.5, kl).divergence for kl in (0.1, 0.2)]
    runs = [
        dataclasses.replace(run, result=dataclasses.replace(run.result, divergence=divergence))
        for run, divergence in zip(runs, measured, strict=True)
    ]
    page = check(render_comparison(compare_runs(runs, None)), SCRIPT)
    assert "not at hand any more" in page.text and "draws above 0" not in page.text and "article" not in page.tags
    assert "KL(student ‖ teacher), nats" in page.text and "0.200" in page.text
