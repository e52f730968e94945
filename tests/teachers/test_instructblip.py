"""InstructBLIP, tiny and random: the Q-Former reads the question beside the picture, and never the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.instructblip import InstructBlipTeacher
from embervlm.teachers.registry import load_teacher
from tests.tiny_families import TEXT
from tests.tiny_teacher import make_tiny_tokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] what color is the circle it a star how many ? .".split()
TURNS = (("What color is it?", "red green"), ("Is it a star?", "No, it is not."))
RECORDS = [
    Record("one", "one.png", "What color is the circle?", "red"),
    Record("many", "two.png", *TURNS[0], conversations=TURNS),
]


def save_instructblip(folder: Path) -> Path:
    """In the hub's layout: two tokenizers, 4 queries."""
    tokenizer = make_tiny_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    processor = InstructBlipProcessor(
        BlipImageProcessor(size={"height": 16, "width": 16}),
        tokenizer,
        BertTokenizer(str(folder / "vocab.txt")),
        num_query_tokens=4,
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = InstructBlipConfig(
        vision_config={**small, "image_size": 16, "patch_size": 8, "initializer_range": 0.3},
        qformer_config={
            **small,
            "vocab_size": len(WORDS),
            "encoder_hidden_size": 16,
            "cross_attention_frequency": 1,
            "initializer_range": 0.5,
            "max_position_embeddings": 32,
        },
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    torch.nn.init.normal_(model.language_projection.weight, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> InstructBlipTeacher:
    loaded = load_teacher(str(save_instructblip(tmp_path_factory.mktemp("instructblip"))))
    assert isinstance(loaded, InstructBlipTeacher)
    return loaded


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("one", "two")):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_scores_equal_a_plain_forward_pass_in_which_the_qformer_sees_the_question(teacher, root: Path):
    processor, model = teacher.processor, teacher.model
    for record, turns in zip(RECORDS, teacher.score(RECORDS, root, top_k=5), strict=True):
        text = "".join(f"{human} {answer}</s>" for human, answer in record.turns())
        inputs = processor(images=Image.open(root / record.image), text=text, return_tensors="pt")
        question = processor.qformer_tokenizer(record.turns()[0][0], return_tensors="pt")
        assert question["input_ids"][0, -1] == WORDS.index("[SEP]")
        asked = {f"qformer_{key}": question[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logprobs = model(**{**inputs, **asked}).logits[0].double().log_softmax(-1)
        ids, end = inputs["input_ids"][0].tolist(), 0
        for outputs in turns:
            end = ids.index(teacher.tokenizer.eos_token_id, end + 1)
            there = slice(end + 1 - len(outputs), end + 1)
            assert outputs.token_ids.tolist() == ids[there]
            realised = logprobs[there.start - 1 : end].gather(1, torch.tensor(ids[there])[:, None])[:, 0]
            np.testing.assert_allclose(outputs.realised_logprobs, realised, atol=2e-4)
            assert outputs.starts[0] == 0


def test_question_and_picture_reach_the_answer_through_the_qformer(teacher, root: Path):
    def first(record: Record) -> np.ndarray:
        return teacher.score([record], root, top_k=5)[0][0].realised_logprobs[:1]

    base, other = first(RECORDS[0]), first(Record("x", "two.png", RECORDS[0].instruction, "red"))
    assert abs(base - other) > 1e-3
    longer = first(Record("x", "one.png", RECORDS[0].instruction, "red, and it is a star"))
    np.testing.assert_allclose(base, longer, atol=1e-4)  # what follows is not read before


def test_a_picture_is_looked_at_once(root: Path, tmp_path: Path, monkeypatch):
    """Whatever is asked about it; but of a bounded number of pictures."""
    teacher = load_teacher(str(save_instructblip(tmp_path)))
    assert isinstance(teacher, InstructBlipTeacher)
    looked = []
    look = teacher._look
    monkeypatch.setattr(
        teacher,
        "_look",
        lambda pixel_values, **kwargs: looked.append(len(pixel_values)) or look(pixel_values, **kwargs),
    )
    questions = [replace(record, id=f"{record.id}{n}", instruction="Is it?") for n in range(3) for record in RECORDS]
    together = teacher.score([*RECORDS, *questions[::2]], root, top_k=5)
    assert sum(looked) == 2
    monkeypatch.setattr("embervlm.teachers.instructblip.PICTURES_KEPT", 0)
    for record, turns in zip([*RECORDS, *questions[::2]], together, strict=True):
        for one, other in zip(turns, teacher.score([record], root, top_k=5)[0], strict=True):
            np.testing.assert_allclose(one.realised_logprobs, other.realised_logprobs, atol=1e-4)
    assert not teacher._seen


def test_answers_in_a_batch_as_alone(teacher, root: Path):
    together = teacher.generate(RECORDS, root, max_new_tokens=4)
    assert together == [teacher.generate([record], root, max_new_tokens=4)[0] for record in RECORDS]


def test_a_record_without_a_picture_is_refused(teacher, root: Path):
    with pytest.raises(UserError, match="record text has no picture"):
        teacher.score([Record("text", None, "Is it?", "red")], root, top_k=5)
