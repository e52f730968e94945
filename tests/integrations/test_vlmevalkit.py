"""The adapter against VLMEvalKit's documented interface: `benchmarks.harnesses.vlmevalkit` runs the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from embervlm import EmberVLM
from embervlm.errors import UserError
from embervlm.integrations.vlmevalkit import NAME, main, model_class
from tests.integrations import stubs


class BaseModel:
    """vlmeval/vlm/base.py, as far as run.py goes through it."""

    allowed_types = ["text", "image", "video"]

    def __init__(self) -> None:
        self.dump_image_func = None

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)  # type: ignore[attr-defined]


@pytest.fixture
def shown(pictures: list[Image.Image], tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{n}.png") for n in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths


def message(*parts: tuple[str, str]) -> list[dict[str, str]]:
    return [{"type": kind, "value": value} for kind, value in parts]


def test_a_message_is_a_picture_and_a_question(
    student: EmberVLM, checkpoint: Path, pictures: list, shown: list
) -> None:
    model: Any = model_class(BaseModel)(model_path=str(checkpoint), device="cpu", max_new_tokens=6)
    asked = message(("image", shown[1]), ("text", "What is it?"), ("text", "One word."))
    own = student.generate(image=pictures[1], prompt="What is it?\nOne word.", max_length=6)
    assert model.generate(asked, "MyVQA") == own
    blind = student.generate(prompt="What is it?", max_length=6)
    assert model.generate(message(("text", "What is it?"))) == blind != own


def test_several_pictures_and_videos(student: EmberVLM, checkpoint: Path, pictures: list, shown: list) -> None:
    two = message(("image", shown[0]), ("image", shown[1]), ("text", "Which?"))
    model: Any = model_class(BaseModel)(model_path=str(checkpoint), device="cpu")
    with pytest.raises(UserError, match="A question of MMMU shows 2 pictures"):
        model.generate(two, "MMMU")
    with pytest.raises(UserError, match="no video"):
        model.generate(message(("video", "clip.mp4"), ("text", "What happens?")))
    model = model_class(BaseModel)(model_path=str(checkpoint), device="cpu", first_picture=True, max_new_tokens=5)
    assert model.generate(two) == student.generate(image=pictures[0], prompt="Which?", max_length=5)


def test_main_registers_and_becomes_run_py(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """run.py looks the model up by name in `supported_VLM`, which has no hook of its own."""
    stubs.install_kit(monkeypatch, BaseModel)
    (tmp_path / "run.py").write_text(
        "import json, sys\nfrom pathlib import Path\nfrom vlmeval.config import supported_VLM\n"
        "model = supported_VLM[sys.argv[-1]]()\n"
        "answer = model.generate([{'type': 'text', 'value': 'What is it?'}])\n"
        "Path(__file__).with_name('said.json').write_text(json.dumps([sys.argv, answer]))\n"
    )
    monkeypatch.setattr("sys.argv", ["kept"])
    main(
        [
            "--kit",
            str(tmp_path),
            "--checkpoint",
            str(checkpoint),
            "--device",
            "cpu",
            "--data",
            "Mine",
            "--mode",
            "infer",
        ]
    )
    said = (tmp_path / "said.json").read_text()
    assert f'"--data", "Mine", "--mode", "infer", "--model", "{NAME}"]' in said
    with pytest.raises(UserError, match="no run.py"):
        main(["--kit", str(tmp_path / "elsewhere"), "--checkpoint", str(checkpoint)])
