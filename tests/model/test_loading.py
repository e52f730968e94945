"""Saved students come back whole, and nothing else passes for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline

from embervlm import EmberVLM, EmberVLMProcessor
from embervlm.errors import UserError
from embervlm.model.processing import build_processor
from embervlm.model.tokenizer import student_tokenizer


@pytest.fixture
def saved(tiny: EmberVLM, tmp_path: Path) -> Path:
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def same_weights(one: EmberVLM, other: EmberVLM) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_round_trip_keeps_weights_processor_and_answers(tiny: EmberVLM, saved: Path, picture: Callable) -> None:
    loaded = EmberVLM.from_pretrained(saved)
    assert same_weights(tiny, loaded) and not loaded.training
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert isinstance(loaded.processor, EmberVLMProcessor)
    ask = {"image": picture(0), "prompt": "What <image> is it?", "max_length": 6}
    assert loaded.generate(**ask) == tiny.generate(**ask)
    assert loaded.config.preset == "tiny"


def test_pytorch_model_bin_alone_is_enough(tiny: EmberVLM, saved: Path) -> None:
    """The guide's checkpoints hold pytorch_model.bin."""
    torch.save(tiny.state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    assert same_weights(tiny, EmberVLM.from_pretrained(str(saved)))


def test_a_pickled_bin_is_not_run(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save({"x": Path("x")}, saved / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than tensors"):
        EmberVLM.from_pretrained(saved)


def test_frozen_parts_are_frozen_again(fresh_tiny: Callable[..., EmberVLM], tmp_path: Path) -> None:
    fresh_tiny(unfreeze_vision=1).save_pretrained(tmp_path)
    loaded = EmberVLM.from_pretrained(tmp_path)
    trained = [p.requires_grad for p in loaded.vision.parameters()]
    assert any(trained) and not all(trained)
    assert all(p.requires_grad for p in EmberVLM.from_pretrained(tmp_path, unfreeze_vision=-1).parameters())


def test_the_auto_classes_and_the_pipeline_know_it(tiny: EmberVLM, saved: Path, picture: Callable) -> None:
    model, processor = AutoModelForImageTextToText.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    assert isinstance(model, EmberVLM) and isinstance(processor, EmberVLMProcessor)
    assert same_weights(tiny, model)
    chat = [{"role": "user", "content": [{"type": "image", "image": picture(0)}, {"type": "text", "text": "What?"}]}]
    pipe = pipeline("image-text-to-text", model=str(saved))
    said = pipe(text=chat, max_new_tokens=5, return_full_text=False, generate_kwargs={"do_sample": False})
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    made = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert said[0]["generated_text"] == processor.decode(made, skip_special_tokens=True)
    batch = pipe(text=[chat, chat], max_new_tokens=5, batch_size=2, return_full_text=False)
    assert len(batch) == 2


def test_a_processor_is_optional(saved: Path) -> None:
    for path in saved.glob("*token*"):
        path.unlink()
    (saved / "processor_config.json").unlink()
    assert EmberVLM.from_pretrained(saved).processor is None


def test_usual_mistakes_get_a_sentence(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "gpt2"}')
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "config.json").write_text('{"model_type": ')
    for path, what in (
        (tmp_path / "none", "no checkpoint folder"),
        (tmp_path / "empty", "no config.json"),
        (saved / "config.json", "is a file"),
        (other, "model_type 'gpt2'"),
        (torn, "cannot be read"),
        ("tests/none", "no checkpoint folder"),
    ):
        with pytest.raises(UserError, match=what):
            EmberVLM.from_pretrained(path)
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        EmberVLM.from_pretrained(saved)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "vocabulary"])
def test_weights_that_do_not_fit_are_never_filled_up_at_random(saved: Path, change: str) -> None:
    weights = load_file(saved / "model.safetensors")
    name = "projector.narrow.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["projector.third.weight"] = torch.zeros(2)
    elif change == "shape":
        weights[name] = torch.zeros(5, 5)
    else:
        config = json.loads((saved / "config.json").read_text())
        config["text_config"]["vocab_size"] = 2000
        (saved / "config.json").write_text(json.dumps(config))
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit|cannot be loaded"):
        EmberVLM.from_pretrained(saved)


def test_a_processor_of_another_preset_is_refused(saved: Path, tmp_path: Path) -> None:
    """Ids of a larger vocabulary would index past the embedding, or worse, mean other words."""
    student_tokenizer(1000).save_pretrained(tmp_path / "small")
    shutil.copy(tmp_path / "small" / "tokenizer.json", saved / "tokenizer.json")
    assert len(AutoTokenizer.from_pretrained(saved)) == 1005
    with pytest.raises(UserError, match="1005 tokens, the model 2053"):
        EmberVLM.from_pretrained(saved)
    build_processor("37m").save_pretrained(saved)
    with pytest.raises(UserError, match="does not fit"):
        EmberVLM.from_pretrained(saved)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("vision", 5),
        ("vision", {}),
        ("text_config", {"model_type": "gpt2", "embd_pdrop": "x"}),
        ("unfreeze_vision", "1"),
    ],
)
def test_a_damaged_configuration_is_a_sentence(saved: Path, changed: str, value: object) -> None:
    content = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(content | {changed: value}))
    with pytest.raises(UserError, match="cannot be loaded"):
        EmberVLM.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 5}', b'{"a":' * 2000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_damaged_file_of_the_processor_is_a_sentence(saved: Path, name: str, content: bytes) -> None:
    (saved / name).write_bytes(content)
    try:
        assert EmberVLM.from_pretrained(saved).processor is not None  # some are not needed
    except UserError as error:
        assert "The processor in" in str(error)
