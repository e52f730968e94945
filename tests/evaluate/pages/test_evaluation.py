"""The page of one evaluation: one safe file with the worst questions first."""

import dataclasses
import re

import pytest

from embervlm.evaluate.command import run_evaluate
from embervlm.evaluate.pages.evaluation import render_evaluation, write_page
from embervlm.evaluate.pages.templates import read_asset, script_source
from embervlm.evaluate.runner import evaluate
from embervlm.settings import EvaluateSettings
from tests.evaluate import synthetic
from tests.evaluate.pages.checks import HOSTILE, check
from tests.evaluate.test_runner import ALL, Oracle

SCRIPT = (read_asset("page.js"),)


@pytest.fixture(scope="module")
def result(prepared):
    about = {"checkpoint": "runs/final", "do_sample": False, "num_beams": 1}
    return evaluate(Oracle("vqa-4"), prepared, ALL, name="student", progress=False, settings=about)


def test_figures_and_questions_of_an_evaluation(result, prepared, tmp_path):
    path = write_page(result, prepared.records("val"), prepared.image_root, tmp_path / "deep" / "eval.html")
    html = path.read_text(encoding="utf-8")
    page = check(html, SCRIPT)
    shown = (
        "VQA accuracy83.3%",
        "OK-VQA accuracy100.0%",
        "Instruction score1.000",
        "what color",
        "yes/no",
        "runs/final",
    )
    text = re.sub(r"\s*\n\s*", "", page.text)
    assert [words for words in shown if words not in text] == []
    assert html.count('<article class="shot"') == 12 and "All 12." in page.text
    # The wrong answer comes first, with what people said.
    first = html[html.index('<article class="shot"') :].split("</article>")[0]
    assert 'data-verdict="wrong"' in first and "no idea" in first and "9 × blue" in first and "1 × pink" in first
    assert [file.name for file in path.parent.iterdir()] == ["eval.html"]


def test_each_picture_is_embedded_once(result, prepared):
    """Many questions are about one picture; a page with as many copies would not open on a phone."""
    html = render_evaluation(result, prepared.records("val"), prepared.image_root)
    uris = re.findall(r"url\((data:[^)]*)\)", html)
    assert len(uris) == len(set(uris)) == 3


def test_the_browser_may_run_our_script_alone(result, prepared):
    html = render_evaluation(result, prepared.records("val"), prepared.image_root)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'") and policy.endswith(f"script-src {script_source(SCRIPT[0])}")


def test_what_models_and_people_wrote_is_escaped(result, prepared):
    records = [
        dataclasses.replace(
            record, instruction=HOSTILE, response=HOSTILE, answers=record.answers and (HOSTILE, "x"),
            answer_type=HOSTILE, metadata=record.metadata | {"question_type": HOSTILE},
        )
        for record in prepared.records("val")
    ]  # fmt: skip
    predictions = {name: dict.fromkeys(said, HOSTILE) for name, said in result.predictions.items()}
    hostile = dataclasses.replace(
        result, system=HOSTILE, split=HOSTILE, predictions=predictions,
        settings={HOSTILE: HOSTILE, "checkpoint": HOSTILE}, environment={HOSTILE: HOSTILE}, seconds={HOSTILE: 1.0},
    )  # fmt: skip
    page = check(render_evaluation(hostile, records, prepared.image_root), SCRIPT)
    assert "alert('x')" in page.text


def test_a_page_is_bounded_and_says_what_it_leaves_out(result, prepared):
    html = render_evaluation(result, prepared.records("val"), prepared.image_root, most=5)
    assert html.count('<article class="shot"') == 5 and "5 of 12; 7 left out" in html
    assert (
        "article" not in check(render_evaluation(result, prepared.records("val"), prepared.image_root, 0), SCRIPT).tags
    )


def test_a_picture_that_is_gone_is_told_not_an_end(result, prepared, tmp_path):
    assert "3 pictures are not there any more" in render_evaluation(result, prepared.records("val"), tmp_path)


def test_the_verb_writes_the_page_unless_told_not_to(student, prepared, tmp_path):
    student.save_pretrained(tmp_path / "final")
    settings = EvaluateSettings(
        checkpoint=tmp_path / "final", dataset_path=prepared.folder, output_file=tmp_path / "eval.json",
        benchmarks=("vqa",), max_samples=2, max_new_tokens=2, device="cpu", page=False,
    )  # fmt: skip
    run_evaluate(settings)
    assert not (tmp_path / "eval.html").exists()
    run_evaluate(dataclasses.replace(settings, page=True, page_questions=1))
    page = check((tmp_path / "eval.html").read_text(encoding="utf-8"), SCRIPT)
    assert "1 of 2; 1 left out" in page.text and "answers greedy" in page.text


def test_where_it_differs_from_the_teacher_is_shown_and_escaped(result, prepared):
    place = {"place": "3 to 4", "n": 1234, "student_teacher": 0.5, "teacher_student": 0.25, "agreement": 0.75}
    worst = {
        "record": "r", "question": HOSTILE, "so_far": HOSTILE, "reference": HOSTILE, "student": HOSTILE,
        "student_probability": 0.125, "teacher": HOSTILE, "teacher_probability": 0.875, "student_teacher": 9.5,
    }  # fmt: skip
    far = synthetic.result("student", 0.6, kl=0.5).divergence
    far = dataclasses.replace(far, by_place=[place], most_different=[worst], calibration_error=0.0625)
    html = render_evaluation(dataclasses.replace(result, divergence=far), prepared.records("val"), prepared.image_root)
    text = check(html, SCRIPT).text
    for words in ("3 to 4", "1,234", "0.500", "75.0%", "12.5%", "87.5%", "9.50", "6.2%"):
        assert words in text
