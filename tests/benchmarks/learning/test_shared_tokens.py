"""The ceiling is one only if nothing is lost between a teacher and a student of the same tokens."""

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.learning.arms import SHARED
from benchmarks.learning.shared_tokens import offer, shared_tokenizer, teacher_bpe
from embervlm import tokens
from embervlm.distill.align import ANCHORED
from embervlm.distill.project import student_targets
from embervlm.model.presets import PRESETS
from embervlm.model.processing import build_processor
from embervlm.teachers.registry import TEACHERS
from tests.distill.tiny_text import make_outputs

TEXTS = ["a turquoise trapezoid", "bottom left", "yes", "12 chartreuse stars, at the top."]


def test_every_position_is_anchored_and_gets_the_teachers_softmax():
    teacher, student = AutoTokenizer.from_pretrained(TEACHERS["toy-llava"].source), shared_tokenizer()
    end = teacher.eos_token_id
    random = np.random.default_rng(0)
    outputs, logits = [], []
    for text in TEXTS:
        spans = tokens.encode_spans(teacher, text)
        spans = tokens.Spans(
            np.append(spans.ids, end), np.append(spans.starts, spans.ends[-1]), np.append(spans.ends, spans.ends[-1])
        )
        logits.append(random.normal(size=(len(spans.ids), len(teacher))))
        outputs.append(make_outputs(spans, logits[-1], k=len(teacher)))
    spelled = {tuple(student.convert_ids_to_tokens([i])): i for i in range(teacher_bpe().get_vocab_size())}
    same = {i: spelled.get(tuple(teacher.convert_ids_to_tokens([i]))) for i in range(len(teacher))}
    same[end] = student.eos_token_id
    for told, said in zip(student_targets(TEXTS, outputs, teacher, student), logits, strict=True):
        assert (told.kinds == ANCHORED).all() and len(told.kinds) == len(said)
        softmax = torch.from_numpy(said).softmax(-1).numpy()
        for row, expected in zip(range(len(said)), softmax, strict=True):
            got = {int(i): np.exp(p) for i, p in zip(told.ids[row], told.logprobs[row], strict=True) if i >= 0}
            wanted = {same[i]: p for i, p in enumerate(expected) if same[i] is not None}
            assert got.keys() == wanted.keys()
            np.testing.assert_allclose([got[i] for i in wanted], list(wanted.values()), rtol=1e-4)


def test_the_student_is_tiny_but_for_its_tokens(monkeypatch):
    monkeypatch.setattr("embervlm.model.processing.student_tokenizer", build_processor.__globals__["student_tokenizer"])
    monkeypatch.delitem(PRESETS, SHARED, raising=False)
    offer()
    try:
        tiny, shared = build_processor("tiny").tokenizer, build_processor(SHARED).tokenizer
        assert shared.get_vocab() == shared_tokenizer().get_vocab() and len(tiny) == 2053
        assert PRESETS[SHARED].config == PRESETS["tiny"].config
        assert PRESETS[SHARED].special_ids()["eos_token_id"] == shared.eos_token_id
    finally:
        PRESETS.pop(SHARED)
