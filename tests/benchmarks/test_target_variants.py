"""Targets of the literature that only the comparison has: each against its definition, word by word."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from benchmarks.target_variants import bpm, escd, top4
from embervlm.distill.align import ANCHORED, NONE
from embervlm.distill.project import project_batch
from embervlm.distill.targets import collate_targets
from tests.distill.tiny_text import Vocabulary, make_map, make_outputs

TEACHER = Vocabulary((b"a", b"b", b"c", b"ab", b"abc", b"ca", b"bb"))
STUDENT = Vocabulary((b"a", b"b", b"c", b"aa", b"abb", b"abca", b"cab", b"bbc", b"caa"))


@pytest.mark.parametrize("k", [3, 8])
def test_escd_gives_a_root_all_tokens_that_go_on_from_its_words(k: int) -> None:
    rng = np.random.default_rng(k)
    token_map, sets_seen = make_map(TEACHER, STUDENT), 0
    for _ in range(40):
        text = bytes(rng.choice(list(b"abc"), size=6).tolist())
        student, teacher = STUDENT.spans(text, end=True), TEACHER.spans(text, end=True)
        outputs = make_outputs(teacher, rng.normal(0, 2, (len(teacher.ids), TEACHER.end + 1)), k)
        response = (student.ids, student, outputs)
        (roots,), (sets,) = bpm([response], token_map), escd([response], token_map)
        assert (sets.kinds == roots.kinds).all() and (sets.log_tail == roots.log_tail).all()
        for j in np.flatnonzero(sets.kinds != NONE):
            head = outputs.top_ids[teacher.starts.tolist().index(student.starts[j])]
            expected = defaultdict(set)
            words = {TEACHER.words[w]: STUDENT.encode(TEACHER.words[w])[0] for w in head.tolist() if w < TEACHER.end}
            own = [i for i in roots.ids[j].tolist() if i >= 0]
            for token, spelled in enumerate([*STUDENT.words, b""]):
                begun = [word for word in words if len(word) < len(spelled) and spelled.startswith(word)]
                if token in own:
                    expected[own.index(token)].add(token)
                elif begun:
                    expected[own.index(words[max(begun, key=len)])].add(token)
            found = defaultdict(set)
            for token, event in zip(sets.ids[j].tolist(), sets.events[j].tolist(), strict=True):
                if token >= 0:
                    found[event].add(token)
            assert found == expected
            assert np.array_equal(sets.logprobs[j, : len(own)], roots.logprobs[j, : len(own)])
            sets_seen += any(len(members) > 1 for members in found.values())
    assert sets_seen > 20


def test_sets_are_laid_beside_their_labels_with_their_events() -> None:
    text = b"abcab"
    student, teacher = STUDENT.spans(text, end=True), TEACHER.spans(text, end=True)
    outputs = make_outputs(teacher, np.random.default_rng(0).normal(size=(len(teacher.ids), TEACHER.end + 1)), 8)
    (sets,) = escd([(student.ids, student, outputs)], make_map(TEACHER, STUDENT))
    count = len(student.ids)
    labels = np.full((1, count + 2), -100)
    labels[0, 1 : count + 1] = student.ids
    laid = collate_targets([(0, 1, sets)], labels, temperature=2.0)
    at = np.flatnonzero(sets.kinds != NONE)
    assert len(at) and laid.events is not None
    assert np.array_equal(laid.ids[at, : sets.ids.shape[1]], sets.ids[at])
    assert np.array_equal(
        laid.events[at, : sets.events.shape[1]][sets.ids[at] >= 0], sets.events[at][sets.ids[at] >= 0]
    )
    assert np.allclose(laid.probs.sum(1)[at] + laid.rest[at], 1)
    assert sets.first(2).events.shape[0] == 2


def test_top4_knows_the_mass_of_what_it_does_not_name() -> None:
    """Four words of a position and the exact rest: the likeliest keep their probabilities, the total stays one."""
    rng = np.random.default_rng(1)
    token_map, fewer = make_map(TEACHER, STUDENT), 0
    for _ in range(20):
        text = bytes(rng.choice(list(b"abc"), size=6).tolist())
        student, teacher = STUDENT.spans(text, end=True), TEACHER.spans(text, end=True)
        outputs = make_outputs(teacher, rng.normal(0, 2, (len(teacher.ids), TEACHER.end + 1)), 8)
        response = (student.ids, student, outputs)
        (ours,), (cut,) = project_batch([response], token_map), top4([response], token_map)
        some = cut.kinds == ANCHORED  # within a word those of the four that go on are all there is, or there are none
        assert (some == (ours.kinds == ANCHORED)).all()
        named = [np.exp(told.logprobs[some].astype(np.float64)).sum(1) for told in (ours, cut)]
        rest = [np.exp(told.log_tail[some, 0].astype(np.float64)) for told in (ours, cut)]
        assert np.allclose(named[0] + rest[0], 1, atol=1e-4) and np.allclose(named[1] + rest[1], 1, atol=1e-4)
        assert (named[1] <= named[0] + 1e-6).all()
        fewer += int((named[1] < named[0] - 1e-3).sum())
    assert fewer > 20
