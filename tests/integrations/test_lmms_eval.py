"""The adapter's own logic, without lmms-eval: `benchmarks.harnesses.lmms_eval` runs the real one."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from embervlm import EmberVLM
from embervlm.errors import UserError
from embervlm.model.likelihood import log_likelihoods
from tests.integrations import stubs

ROOT = Path(__file__).parents[2]
QUESTIONS = ["What is it?", "Is there a red ball on the table, or a blue one?", "How many?"]
CHOICES = ["red", "a ball", "12"]


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    stubs.install(monkeypatch)
    return importlib.import_module("embervlm.integrations.lmms_eval")


@pytest.fixture
def model(adapter: Any, checkpoint: Path, pictures: list[Image.Image]) -> Any:
    made = adapter.EmberVLM(pretrained=str(checkpoint), batch_size="2", device="cpu", max_batch_size=None)
    rows = [{"question": q, "image": image, "answer": "red"} for q, image in zip(QUESTIONS, pictures, strict=True)]
    rows.append({"question": "Two?", "image": pictures[:2], "answer": "no"})
    made.task_dict = {"task": {"val": rows}}
    return made


def visual(row: dict) -> list:
    return row["image"] if isinstance(row["image"], list) else [row["image"]]


def generate(at: int, **options: Any) -> stubs.Instance:
    return stubs.Instance((QUESTIONS[at % 3], options, visual, at, "task", "val"))


def scored(model: Any, requests: list) -> list[tuple[float, bool]]:
    """What lmms-eval's evaluator makes of the adapter's outputs."""
    return [stubs.unwrap_generation_output(output)[0] for output in model.loglikelihood(requests)]


def test_generate_until_is_generate(model: Any, student: EmberVLM, pictures: list) -> None:
    requests = [generate(2, max_new_tokens=8), generate(0, max_new_tokens=3), generate(1, max_new_tokens=8)]
    own = [
        student.generate(image=pictures[at], prompt=QUESTIONS[at], max_length=length)
        for at, length in ((2, 8), (0, 3), (1, 8))
    ]
    assert model.generate_until(requests) == own
    end = own[0][1]
    assert model.generate_until([generate(2, max_new_tokens=8, until=[end])]) == [own[0].split(end)[0].strip()]


def test_loglikelihood_is_a_log_probability(model: Any, student: EmberVLM, pictures: list) -> None:
    """A loglikelihood task's target is a function of the row; perplexity takes exp(-mean) of what comes back."""
    requests = [stubs.Instance((QUESTIONS[n], lambda row: row["answer"], visual, n, "task", "val")) for n in (1, 0, 2)]
    own = [log_likelihoods(student, [pictures[n]], [QUESTIONS[n]], ["red"])[0] for n in (1, 0, 2)]
    for found, expected in zip(scored(model, requests), own, strict=True):
        assert found == (pytest.approx(expected[0], abs=1e-4), expected[1]) and found[0] < 0


def choices(at: int = 0) -> list[stubs.Instance]:
    return [stubs.Instance((QUESTIONS[at], f" {choice}", visual, at, "task", "val")) for choice in CHOICES]


def test_pairs_stay_pairs_in_an_evaluator_that_leaves_them_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["lmms_eval.api.instance"], "unwrap_generation_output", lambda output: (output, None)
    )
    assert all(isinstance(output, tuple) for output in model.loglikelihood(choices()))


@pytest.mark.parametrize("task", [stubs.ConfigurableTask, stubs.FollowingTask])
def test_multiple_choice_takes_the_likeliest(model, student, pictures, monkeypatch, task: type) -> None:
    """lmms-eval 0.7.3 takes the smallest value: plain log-probabilities would give it the unlikeliest choice."""
    monkeypatch.setattr(sys.modules["lmms_eval.api.task"], "ConfigurableTask", task)
    scores = [score for score, _ in log_likelihoods(student, [pictures[0]] * 3, [QUESTIONS[0]] * 3, CHOICES)]
    values = [value for value, _ in scored(model, choices())]
    assert task().process_results(values) == max(range(3), key=scores.__getitem__)
    assert [abs(value) for value in values] == pytest.approx([-score for score in scores], abs=1e-4)


def test_score_end_counts_the_end(
    adapter: Any, model: Any, checkpoint: Path, student: EmberVLM, pictures: list
) -> None:
    ended = adapter.EmberVLM(pretrained=str(checkpoint), batch_size=3, device="cpu", score_end=True)
    ended.task_dict = model.task_dict
    own = log_likelihoods(student, [pictures[0]] * 3, [QUESTIONS[0]] * 3, CHOICES, end=True)
    assert [-v for v, _ in scored(ended, choices())] == pytest.approx([score for score, _ in own], abs=1e-4)


def test_what_cannot_be_done_is_one_sentence(adapter: Any, model: Any, checkpoint: Path) -> None:
    with pytest.raises(UserError, match="Question 3 of task shows 2 pictures"):
        model.generate_until([generate(3)])
    first = adapter.EmberVLM(pretrained=str(checkpoint), device="cpu", first_picture=True)
    first.task_dict = model.task_dict
    assert len(first.generate_until([generate(3)])) == 1
    with pytest.raises(UserError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(UserError, match="acc_mutual_info"):
        model.loglikelihood([stubs.Instance(("", "red"))])
    for words, sentence in (
        ({}, "pretrained=FOLDER"),
        ({"pretrained": str(checkpoint), "checkpoint": "x"}, "--model_args has checkpoint"),
        ({"pretrained": str(checkpoint), "batch_size": "auto"}, "--batch_size is 'auto'"),
        ({"pretrained": "nowhere/at/all"}, "no checkpoint folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            adapter.EmberVLM(**words)


def test_entry_point_names_the_class(adapter: Any) -> None:
    """lmms-eval loads `module:object` from the package's metadata, then the class by its path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["embervlm"].partition(":")
    found = getattr(importlib.import_module(module), name)()
    path, _, kind = found.simple_class_path.rpartition(".")
    assert found.model_id == "embervlm" and getattr(importlib.import_module(path), kind) is adapter.EmberVLM
    assert adapter.EmberVLM.is_simple and not adapter.EmberVLM.__abstractmethods__


def test_the_package_does_not_need_the_harnesses() -> None:
    """And their entry point costs their other users no import of ours."""
    code = (
        "import sys; import embervlm, embervlm.integrations, embervlm.integrations.vlmevalkit; "
        "assert not {'lmms_eval', 'vlmeval'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
