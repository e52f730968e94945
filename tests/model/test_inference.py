"""`embervlm infer`: what a person sees when asking a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from embervlm import EmberVLM
from embervlm.errors import UserError
from embervlm.model.inference import SHOWN, ask, run_inference
from embervlm.model.tokenizer import ASSISTANT, IMAGE, PAD, USER
from embervlm.settings import InferenceSettings


@pytest.fixture(scope="module")
def student() -> EmberVLM:
    torch.manual_seed(0)
    return EmberVLM.from_preset("tiny").eval()


@pytest.fixture(scope="module")
def checkpoint(student: EmberVLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    student.save_pretrained(folder)
    return folder


def test_alternatives_are_the_models_own(student: EmberVLM) -> None:
    """What is shown as likely is the distribution at the first position, without the tokens that no answer holds."""
    picture = Image.new("RGB", (96, 96), "red")
    answered = ask(student, picture, "What colour is it?", max_length=5, do_sample=True, temperature=3.0)
    batch = student.processor.prompts([picture], ["What colour is it?"])
    logits = student(**batch).logits[0, -1]
    logits[student.processor.tokenizer.convert_tokens_to_ids([PAD, IMAGE, USER, ASSISTANT])] = -torch.inf
    expected = logits.softmax(-1)
    assert len(answered.first) == SHOWN
    assert [p for _, p in answered.first] == pytest.approx(sorted(expected.tolist(), reverse=True)[:SHOWN])


def test_speed_counts_every_token_once(student: EmberVLM) -> None:
    answered = ask(student, None, "Hello", max_length=5)
    assert 1 <= answered.tokens <= 5
    assert math.isfinite(answered.tokens / answered.seconds)
    assert answered.text == student.generate(prompt="Hello", max_length=5)


def test_answer_is_printed_as_it_is(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in an answer are not markup, and a checkpoint loads from its folder alone."""
    run_inference(InferenceSettings(checkpoint=str(checkpoint), prompt="Hello", max_length=4, device="cpu"))
    out = capsys.readouterr().out
    assert "how it could have begun" in out and "tokens/s" in out


def test_missing_picture_is_said_before_the_model_loads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png"):
        run_inference(InferenceSettings(checkpoint=str(tmp_path / "none"), image=tmp_path / "none.png"))
