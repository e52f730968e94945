"""The report is one safe file, tells the truth, and leaves out what it does not have."""

import dataclasses

import pytest

from embervlm.errors import UserError
from embervlm.evaluate.pages.report import findings, gap_closed, lead, render, targets, write_report
from embervlm.evaluate.pages.report_inputs import ReportInputs, SystemRow, load_inputs, save_inputs
from embervlm.evaluate.pages.templates import duration
from embervlm.evaluate.sight import Sight
from tests.evaluate import synthetic
from tests.evaluate.pages.checks import HOSTILE, check


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return synthetic.inputs()


def test_the_whole_report_is_valid_and_self_contained(inputs, tmp_path):
    path = write_report(inputs, tmp_path / "deep" / "report.html")
    page = check(path.read_text(encoding="utf-8"))
    assert page.tags.count("section") == 7 and page.tags.count("img") == 13 and page.tags.count("svg") == 5
    shown = ("VQA accuracy", "68.5%", "✓ met", "0.57×", "21.4 bytes", "1.74 nats", "where is the SHAPE", "␣turquoise")
    assert [words for words in shown if words not in page.text] == []
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_what_models_and_people_wrote_is_escaped(inputs):
    """A model's answer must not become part of the page."""
    said = tuple(dataclasses.replace(said, answer=HOSTILE, system=HOSTILE) for said in inputs.pictures[0].said)
    picture = dataclasses.replace(inputs.pictures[0], question=HOSTILE, reference=HOSTILE, said=said)
    following = dataclasses.replace(inputs.next_token, so_far=HOSTILE, student=((HOSTILE, 0.5),), actual=HOSTILE)
    rows = (SystemRow(HOSTILE, "student", inputs.systems[1].result), *inputs.systems)
    runs = tuple(dataclasses.replace(run, name=HOSTILE) for run in inputs.runs)
    hostile = dataclasses.replace(
        inputs, title=HOSTILE, subtitle=HOSTILE, systems=rows, runs=runs, pictures=(picture,), next_token=following,
        settings={HOSTILE: HOSTILE}, environment={HOSTILE: HOSTILE}, notes=(HOSTILE,), phases=((HOSTILE, 1.0),),
    )  # fmt: skip
    page = check(render(hostile))
    assert "script" not in page.tags and "alert('x')" in page.text


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ReportInputs)])
def test_any_part_may_be_missing(inputs, name):
    check(render(dataclasses.replace(inputs, **{name: getattr(ReportInputs(), name)})))


def test_an_empty_report_is_still_a_page():
    assert "section" not in check(render(ReportInputs())).tags


def test_inputs_survive_the_disk(inputs, tmp_path):
    save_inputs(inputs, tmp_path / "inputs.json")
    loaded = load_inputs(tmp_path / "inputs.json")
    assert loaded == inputs and render(loaded) == render(inputs)


def test_a_file_that_holds_no_report_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"systems": [1]}')
    with pytest.raises(UserError, match="x.json holds no report"):
        load_inputs(tmp_path / "x.json")


def _with(inputs: ReportInputs, kind: str, level: float, kl: float | None = None, score: float | None = None):
    rows = [
        SystemRow(row.name, row.kind, synthetic.result("x", level, kl, score)) if row.kind == kind else row
        for row in inputs.systems
    ]
    return dataclasses.replace(inputs, systems=tuple(rows))


def test_targets_are_the_guides_and_a_missed_one_says_so(inputs):
    assert [(t.name[:3], t.goal, t.met) for t in targets(inputs)] == [
        ("VQA", 0.6, True), ("Ins", 0.75, True), ("KL(", 1.0, True), ("Coh", 0.8, True),
    ]  # fmt: skip
    missed = _with(inputs, "student", 0.55, 1.2, 0.7)
    assert [t.met for t in targets(missed)] == [False] * 4
    assert "✗ not met" in check(render(missed)).text


def test_a_model_that_ignores_the_picture_is_called_so(inputs):
    tone, sentence = findings(inputs)[0]
    assert tone == "good" and sentence.startswith("The student gains 23.0 points from seeing")
    blind = dataclasses.replace(inputs, sights=(Sight(2000, 0.685, 0.67, "without it", (-0.002, 0.031)),))
    tone, sentence = findings(blind)[0]
    assert tone == "warn" and sentence.startswith(
        "The student ignores the picture: 68.5% with the picture, 67.0% without"
    )


def test_a_distilled_student_that_is_worse_is_not_praised(inputs):
    assert "7.3 points more than" in lead(inputs)
    assert "5.7 points less than" in lead(_with(inputs, "student", 0.555))
    assert findings(_with(inputs, "student", 0.685, kl=0.3))[-1][0] == "warn"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.21, "3.2 s"), (59.7, "60 s"), (61, "1 min 01 s"), (3599, "59 min 59 s"), (3725, "1 h 02 min")],
)
def test_durations_in_words(seconds, said):
    assert duration(seconds) == said


def test_the_share_of_the_gap(inputs):
    assert gap_closed(0.7, 0.6, 0.8) == pytest.approx(0.5) and gap_closed(0.5, 0.6, 0.8) == pytest.approx(-0.5)
    assert gap_closed(0.7, 0.6, 0.6) is None and gap_closed(0.7, None, 0.8) is None
    assert any("distillation closes" in sentence for _, sentence in findings(inputs))
