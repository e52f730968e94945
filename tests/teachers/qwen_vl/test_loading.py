"""The published layout, from pickled shards to scores, answers, a cache and a distilled student."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.registry import load_teacher
from tests.teachers.qwen_vl.tiny import make_model, save_published

TURNS = (("What color is the circle?", "red green"), ("Is it a star?", "No, it is not."))
RECORDS = [
    Record("one", "one.png", "What color is the circle?", "red"),
    Record("many", "one.png", *TURNS[0], conversations=TURNS),
    Record("text", None, "Is it?", "Yes, déjà vu, 東京 😀."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    save_published(make_model(), folder / "chat")
    return folder


@pytest.fixture(scope="module")
def teacher(folder):
    return load_teacher(str(folder / "chat"))


def test_weights_come_from_the_published_shards(teacher):
    for (name, loaded), made in zip(
        teacher.model.state_dict().items(), make_model().state_dict().values(), strict=True
    ):
        assert torch.equal(loaded, made), name


def test_scores_equal_a_plain_forward_pass(teacher, folder: Path):
    for record, turns in zip(RECORDS, teacher.score(RECORDS, folder, top_k=5), strict=True):
        messages = []
        for number, (human, assistant) in enumerate(record.turns()):
            picture = [{"type": "image"}] if record.image and not number else []
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": human}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": assistant}]})
        text = teacher.processor.apply_chat_template(messages, tokenize=False)
        images = [Image.open(folder / record.image)] if record.image else None
        inputs = teacher.processor([text], images, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        with torch.no_grad():
            logprobs = teacher.model(**inputs).logits[0].double().log_softmax(-1)
        starts = [
            at + 3 for at in range(len(ids)) if ids[at : at + 3] == [151644, 77091, 198]
        ]  # <|im_start|>assistant\n
        assert len(starts) == len(turns)
        for start, outputs in zip(starts, turns, strict=True):
            there = slice(start, start + len(outputs))
            assert outputs.token_ids.tolist() == ids[there] and ids[there][-1] == 151645
            realised = logprobs[start - 1 : there.stop - 1].gather(1, torch.tensor(ids[there])[:, None])[:, 0]
            np.testing.assert_allclose(outputs.realised_logprobs, realised, atol=2e-4)


def test_answers_stop_at_the_end_of_the_turn_and_do_not_depend_on_the_batch(teacher, folder: Path):
    assert teacher.model.generation_config.eos_token_id == [151645, 151644, 151643]
    together = teacher.generate(RECORDS, folder, max_new_tokens=4)
    assert together == [teacher.generate([record], folder, max_new_tokens=4)[0] for record in RECORDS]


def test_what_people_type_is_never_a_control_token(teacher, folder: Path):
    record = Record("bad", "one.png", "Is <|im_end|> or <img> it?", "red")
    ((outputs,),) = teacher.score([record], folder, top_k=5)
    assert np.isfinite(outputs.realised_logprobs).all()


def test_the_base_model_answers_behind_a_plain_prompt(folder: Path):
    base = load_teacher(str(save_published(make_model(), folder / "base", chat=False)))
    assert base.end_of_turn_id == 151643
    outputs = base.score(RECORDS, folder, top_k=5)
    assert [len(turns) for turns in outputs] == [1, 2, 1]
    assert outputs[0][0].starts[0] == 0 and outputs[0][0].ends[-1] == 3
    assert base.fingerprint()["template"] != load_teacher(str(folder / "chat")).fingerprint()["template"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_request(folder: Path, dtype: str):
    half = load_teacher(str(folder / "chat"), dtype=dtype)
    assert half.model.dtype == getattr(torch, dtype)
    assert half.score(RECORDS[:1], folder, top_k=5)[0][0].top_logprobs.shape[1] == 5


def test_files_that_are_not_whole_are_a_sentence(folder: Path, tmp_path: Path):
    chat = save_published(make_model(), tmp_path / "chat")
    index = json.loads((chat / "pytorch_model.bin.index.json").read_text())
    (chat / "pytorch_model-00002-of-00002.bin").write_bytes(b"half")
    with pytest.raises(UserError, match="does not load"):
        load_teacher(str(chat))
    save_published(make_model(), chat)
    state = torch.load(chat / "pytorch_model-00001-of-00002.bin", weights_only=True)
    gone = next(iter(state))
    torch.save(
        {name: value for name, value in state.items() if name != gone}, chat / "pytorch_model-00001-of-00002.bin"
    )
    index["weight_map"].pop(gone)
    (chat / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"lacks 1 of the model's tensors \\({gone}"):
        load_teacher(str(chat))
    (chat / "qwen.tiktoken").unlink()
    with pytest.raises(UserError, match="no qwen.tiktoken"):
        load_teacher(str(chat))
    config = json.loads((chat / "config.json").read_text())
    (chat / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "visual"}))
    with pytest.raises(UserError, match="text alone"):
        load_teacher(str(chat))
