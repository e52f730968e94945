"""Baselines over the same cache: each must be what its tool or paper does, or a comparison with it says nothing."""

from __future__ import annotations

import numpy as np

from embervlm.distill import variants
from embervlm.distill.align import ANCHORED, NONE
from embervlm.distill.project import ResponseTargets, project_batch
from embervlm.distill.targets import collate_targets
from embervlm.distill.variants import TRUNCATED_TO, truncated
from embervlm.teachers.outputs import TEMPERATURE_GRID
from tests.distill.tiny_text import Vocabulary, make_map, make_outputs

LETTERS = Vocabulary(tuple(bytes([letter]) for letter in b"abcdefghijklmnopqrstuvwxyz"))


def test_truncated_keeps_the_likeliest_16_and_forgets_the_rest():
    text = b"cab"
    spans = LETTERS.spans(text, end=True)
    logits = np.random.default_rng(0).normal(size=(len(spans.ids), LETTERS.end + 1))
    outputs = make_outputs(spans, logits, k=20)
    response = (spans.ids, spans, outputs)
    token_map = make_map(LETTERS, LETTERS)
    (ours,), (cut,) = project_batch([response], token_map), truncated([response], token_map)
    assert np.isfinite(ours.log_tail).all() and np.isneginf(cut.log_tail).all()
    for j in range(len(spans.ids)):
        p = np.exp(logits[j]) / np.exp(logits[j]).sum()
        kept = np.argsort(-p)[:TRUNCATED_TO]
        assert set(cut.ids[j].tolist()) == set(kept.tolist())
        np.testing.assert_allclose(np.exp(cut.logprobs[j]), p[cut.ids[j]] / p[kept].sum(), rtol=1e-5)


def test_truncated_has_no_target_where_all_the_mass_is_in_the_tail(monkeypatch):
    """An empty target with a probability of 0 / 0 would make the loss a NaN."""
    size = len(TEMPERATURE_GRID)
    told = ResponseTargets(
        np.array([ANCHORED, ANCHORED], np.int8),
        np.array([[3, -1], [-1, -1]], np.int32),
        np.array([[-2.0, -np.inf], [-np.inf, -np.inf]], np.float32),
        np.zeros((2, size), np.float32),
    )
    monkeypatch.setattr(variants, "project_batch", lambda responses, token_map: [told])
    (cut,) = truncated([], make_map(LETTERS, LETTERS))
    assert cut.kinds.tolist() == [ANCHORED, NONE]
    targets = collate_targets([(0, 0, cut)], np.zeros((1, 2), int), temperature=2.0)
    assert targets.probs[:, 0].tolist() == targets.has_target.float().tolist()
    assert targets.has_target.tolist() == [True, False] and targets.rest[0] == 0
