"""`embervlm compare` as a person runs it."""

import json

import pytest

from embervlm.cli import main
from embervlm.evaluate.pages.templates import read_asset
from tests.evaluate.pages.checks import check


def test_the_verb_prints_a_table_and_writes_page_and_numbers(compared, tmp_path, capsys):
    a, b, blind = (str(compared / "results" / f"{name}.json") for name in ("a", "b", "blind"))
    page = tmp_path / "deep" / "compare.html"
    assert main(["compare", a, b, "--draws", "500", blind, "--output", str(page)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("VQA 6 questions", "a 83.3% [", "b 66.7% [", "−16.7 [", "1/2", "a gains 66.7 points from seeing"):
        assert words in out
    check(page.read_text(encoding="utf-8"), (read_asset("page.js"),))
    data = json.loads(page.with_suffix(".json").read_text())
    assert [run["name"] for run in data["runs"]] == ["a", "b", "blind"]
    assert sorted(path.name for path in page.parent.iterdir()) == ["compare.html", "compare.json"]


def test_two_times_the_same_numbers(compared, tmp_path, capsys):
    a, b = (str(compared / "results" / f"{name}.json") for name in ("a", "b"))
    for name in ("one", "two"):
        assert main(["compare", "--runs", a, b, "--output", str(tmp_path / f"{name}.html")]) == 0
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.json"], "takes two evaluations or more, found 1"),
        ([], "takes two evaluations or more, found 0"),
        (["a.json", "gone.json"], "gone.json does not exist"),
        (["a.json", "b.json", "--output", "a.html"], "a.json is no place for the page"),
        (["a.json", "b.json", "--output", "x.json"], "x.json is no place for the page"),
        (["a.json", "b.json", "--outptu", "x"], "There is no flag --outptu; did you mean --output?"),
        (["a.json", "b.json", "--dataset_path", "."], "is not a prepared data set"),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(compared, monkeypatch, capsys, words, said):
    monkeypatch.chdir(compared / "results")
    before = {path.name: path.read_bytes() for path in compared.glob("results/*")}
    assert main(["compare", *words]) == 2
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split()) and "Traceback" not in shown.err
    assert {path.name: path.read_bytes() for path in compared.glob("results/*")} == before


def test_data_that_was_named_must_be_the_same(compared, prepared, tmp_path, capsys):
    from tests.evaluate.world import make_world

    other = make_world(tmp_path / "other", val=8)
    a, b = (str(compared / "results" / f"{name}.json") for name in ("a", "b"))
    assert main(["compare", a, b, "--dataset_path", str(other.folder), "--output", str(tmp_path / "x.html")]) == 2
    assert "is not what" in capsys.readouterr().err and not (tmp_path / "x.html").exists()
