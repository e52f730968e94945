"""`embervlm test-teacher`: a broken teacher must be seen here, before days of caching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.errors import UserError
from embervlm.settings import TeacherCheckSettings
from embervlm.teachers import check
from embervlm.teachers.registry import load_teacher
from tests.tiny_teacher import make_tiny_teacher


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"))


def settings(folder: Path, **more: object) -> TeacherCheckSettings:
    return replace(TeacherCheckSettings(model=str(folder), max_new_tokens=8, device="cpu"), **more)


def test_says_all_that_a_person_asks(teacher_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run_test_teacher(settings(teacher_folder)) == 0
    out = capsys.readouterr().out
    for part in ("0.1M parameters", "tokens/s", "GB at most", "300,000 samples", "bytes a token", "could have begun"):
        assert part in out


def test_own_picture_is_shown(teacher_folder: Path, tmp_path: Path) -> None:
    """Another picture, other probabilities: the picture must reach the teacher."""
    teacher = load_teacher(str(teacher_folder))
    first = []
    for colour in ("black", "white"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
        heard = check.ask(teacher, tmp_path / f"{colour}.png", "What is it?", 4, 5)
        first.append(heard.outputs.top_logprobs[0])
    assert not np.allclose(*first)


def test_teacher_that_scores_another_prompt_fails(
    teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts see it by the exit code."""
    heard = check.ask

    def elsewhere(*args: object) -> check.Heard:
        found = heard(*args)  # type: ignore[arg-type]
        outputs = replace(found.outputs, token_ids=found.outputs.top_ids.max(1) + 1)
        return replace(found, outputs=outputs)

    monkeypatch.setattr(check, "ask", elsewhere)
    assert check.run_test_teacher(settings(teacher_folder)) == 1
    assert "do not read the same prompt" in " ".join(capsys.readouterr().out.split())


def test_missing_picture_is_a_sentence(teacher_folder: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png"):
        check.run_test_teacher(settings(teacher_folder, image=Path("none.png")))


def test_unknown_device_is_a_sentence(teacher_folder: Path) -> None:
    with pytest.raises(UserError, match="no device 'gpu'"):
        check.run_test_teacher(settings(teacher_folder, device="gpu"))
