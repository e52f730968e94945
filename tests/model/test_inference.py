"""`embervlm infer`: what a person sees when asking a checkpoint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from embervlm import EmberVLM, cli
from embervlm.errors import UserError
from embervlm.model.explain import SHOWN
from embervlm.model.inference import ask, run_inference
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
    assert len(answered.positions) == 1 and len(answered.positions[0].likeliest) == SHOWN
    told = [p for _, p in answered.positions[0].likeliest]
    assert told == pytest.approx(sorted(expected.tolist(), reverse=True)[:SHOWN])


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


def test_every_position_is_explained_with_what_was_said(student: EmberVLM) -> None:
    """Alternatives of a shifted position look as plausible as the right ones."""
    torch.manual_seed(1)
    picture = Image.new("RGB", (96, 96), "red")
    answered = ask(student, picture, "What is it?", 6, explain=True, do_sample=True, temperature=5.0, top_p=0.9)
    assert len(answered.positions) == answered.tokens == len(answered.ids)
    batch = student.processor.prompts([picture], ["What is it?"])
    start = batch["input_ids"].shape[1]
    batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([answered.ids])], 1)
    logits = student(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"]).logits[0, start - 1 : -1]
    logits[:, student.processor.tokenizer.convert_tokens_to_ids([PAD, IMAGE, USER, ASSISTANT])] = -torch.inf
    for position, row, said in zip(answered.positions, logits.double().softmax(-1), answered.ids, strict=True):
        assert position.said[1] == pytest.approx(row[said].item(), rel=1e-3)
        assert position.rank == 1 + int((row > row[said]).sum())
        assert [p for _, p in position.likeliest] == pytest.approx(row.topk(SHOWN).values.tolist(), rel=1e-3)
    assert any(position.rank > 1 for position in answered.positions), (
        "at T = 5 other tokens than the likeliest are drawn"
    )


def test_explaining_and_drawing_change_no_answer(checkpoint: Path, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (120, 60), "red").save(tmp_path / "red.png")
    words = ["infer", "--checkpoint", str(checkpoint), "--image", str(tmp_path / "red.png"), "--max_length", "4"]
    assert cli.main(words) == 0
    plain = capsys.readouterr().out.splitlines()[0]
    assert cli.main([*words, "--explain", "--heatmap", str(tmp_path / "new" / "where.png")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == plain and any(line.startswith("4 tokens in") for line in said)
    assert Image.open(tmp_path / "new" / "where.png").format == "PNG"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["where.png"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--heatmap", "{new}/a.png"], "name one with --image"),
        (["--image", "{image}", "--heatmap", "{new}/a.txt"], "no ending of a picture"),
        (["--image", "{image}", "--heatmap", "{image}/a.png"], "is a file, not a folder"),
        (["--image", "{image}", "--heatmap", "{folder}"], "is a folder"),
        (["--image", "{new}.png"], "there is no picture"),
        (["--image", "{folder}"], "not a readable picture"),
        (["--image", "{image}", "--checkpoint", "{other}"], "another kind of model"),
        (["--image", "{image}", "--checkpoint", "{other}/.."], "it holds other.png: name one of them"),
        (["--image", "{image}", "--checkpoint", "{damaged}"], "damaged or cut off"),
        (["--prompt", "word " * 300], "the model reads 256"),
    ],
)
def test_what_people_get_wrong_is_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    places = {name: tmp_path / "folder" / f"{name}.png" for name in ("image", "other", "damaged")}
    places["folder"], places["new"] = tmp_path / "folder" / "of.png", tmp_path / "new"
    places["folder"].mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(places["image"])
    places["other"].mkdir()
    (places["other"] / "config.json").write_text('{"model_type": "gpt2"}')
    if "{damaged}" in words:
        shutil.copytree(checkpoint, places["damaged"])
        weights = places["damaged"] / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    asked = ["infer", "--checkpoint", str(checkpoint), "--max_length", "2", "--device", "cpu"]
    assert cli.main([*asked, *(word.format(**places) if "{" in word else word for word in words)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and len(said.err.strip().splitlines()) == 1 and not said.out
    assert not places["new"].exists()


def test_missing_picture_is_said_before_the_model_loads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png"):
        run_inference(InferenceSettings(checkpoint=str(tmp_path / "none"), image=tmp_path / "none.png"))
