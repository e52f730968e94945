"""The families of the registry, tiny: every answer scored from the position before it, in a batch as alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm.data.record import Record
from embervlm.teachers.hf import HFTeacher
from tests.tiny_families import FAMILIES

TURNS = (("What color is it?", "red green"), ("Is it a star?", "No, it is not."))
RECORDS = [
    Record("wide", "wide.png", "What color is the circle?", "red"),
    Record("many", "tall.png", *TURNS[0], conversations=TURNS),
    Record("text", None, "Is it?", "Yes, déjà vu, 東京 😀."),
]


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request) -> HFTeacher:
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size in (("wide", (30, 60, 3)), ("tall", (62, 33, 3))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_scores_equal_a_plain_forward_pass(teacher: HFTeacher, root: Path):
    """Pictures of unlike sizes in one batch, positions in three dimensions, tiles: none may shift an answer."""
    for record, turns in zip(RECORDS, teacher.score(RECORDS, root, top_k=5), strict=True):
        messages = []
        for number, (human, assistant) in enumerate(record.turns()):
            picture = [{"type": "image"}] if record.image and not number else []
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": human}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": assistant}]})
        text = teacher.processor.apply_chat_template(messages, tokenize=False)
        images = [[Image.open(root / record.image)]] if record.image else None
        inputs = teacher.processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
        ids = inputs["input_ids"][0].tolist()
        with torch.no_grad():
            logprobs = teacher.model(**inputs).logits[0].double().log_softmax(-1)
        end = 0
        for outputs, (_, answer) in zip(turns, record.turns(), strict=True):
            end = ids.index(teacher.end_of_turn_id, end + 1)
            while teacher.tokenizer.decode(ids[end + 1 - len(outputs) : end]).strip() != answer:
                end = ids.index(teacher.end_of_turn_id, end + 1)  # the end of a human turn
            here = slice(end + 1 - len(outputs), end + 1)
            assert outputs.token_ids.tolist() == ids[here]
            realised = logprobs[here.start - 1 : end].gather(1, torch.tensor(ids[here])[:, None])[:, 0]
            np.testing.assert_allclose(outputs.realised_logprobs, realised, atol=2e-4)
            assert outputs.starts[0] == 0 and outputs.ends[-1] == len(answer.encode())
            np.testing.assert_array_equal(outputs.starts[1:], outputs.ends[:-1])


def test_the_picture_matters(teacher: HFTeacher, root: Path):
    other = Record("other", "tall.png", RECORDS[0].instruction, RECORDS[0].response)
    (a,), (b,) = teacher.score([RECORDS[0], other], root, top_k=5)
    assert np.abs(a.realised_logprobs - b.realised_logprobs).max() > 1e-3


def test_answers_in_a_batch_as_alone(teacher: HFTeacher, root: Path):
    together = teacher.generate(RECORDS, root, max_new_tokens=4)
    assert together == [teacher.generate([record], root, max_new_tokens=4)[0] for record in RECORDS]
