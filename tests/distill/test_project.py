"""The projected teacher against enumeration on vocabularies small enough to enumerate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embervlm import tokens
from embervlm.distill.align import ANCHORED, INTERIOR, NONE
from embervlm.distill.branch import DEEPER, FLOOR
from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.distill.project import ResponseTargets, project, project_batch, student_targets
from embervlm.distill.targets import collate_targets
from embervlm.model.tokenizer import student_tokenizer
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs, dense, outputs_from_logits
from embervlm.tokens import Spans
from tests.distill.tiny_text import Vocabulary, make_map, make_outputs

LETTERS = [b"a", b"b", b" ", b"1"]
vocabularies = st.lists(
    st.lists(st.sampled_from(LETTERS), min_size=2, max_size=4).map(b"".join), max_size=8, unique=True
).map(lambda words: Vocabulary((*LETTERS, *words)))
texts = st.lists(st.sampled_from(LETTERS), max_size=10).map(b"".join)


def distribution(targets: ResponseTargets, row: int, size: int, temperature: float = 1.0) -> tuple[np.ndarray, float]:
    """Probabilities [size] of one row as the loss will see them, and the rest."""
    labels = np.zeros((1, len(targets.kinds)), dtype=np.int64)
    batch = collate_targets([(0, 0, targets)], labels, temperature)
    dense = np.zeros(size)
    for token, p in zip(batch.ids[row].tolist(), batch.probs[row].tolist(), strict=True):
        if token >= 0:
            assert dense[token] == 0, "an event must occur once"
            dense[token] = p
    return dense, float(batch.rest[row])


def setting(teacher: Vocabulary, student: Vocabulary, text: bytes, seed: int, k: int | None = None):
    rng = np.random.default_rng(seed)
    teacher_spans, student_spans = teacher.spans(text, end=True), student.spans(text, end=False)
    logits = rng.normal(0, 3, (len(teacher_spans.ids), teacher.end + 1))
    outputs = make_outputs(teacher_spans, logits, k or teacher.end + 1)
    student_ids = np.append(student_spans.ids, student.end).astype(np.int32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return outputs, student_ids, student_spans, p


def brute_force(teacher: Vocabulary, student: Vocabulary, text: bytes, outputs: TeacherOutputs, p: np.ndarray, j: int):
    """(kind, distribution [V_student], rest) of student position j, word by word, from the definitions alone; the
    words after the first are known where they are in the head."""
    t_ids, s_ids = [*teacher.encode(text), teacher.end], [*student.encode(text), student.end]
    t_bytes = [teacher.words[i] if i < teacher.end else b"" for i in t_ids]
    s_bytes = [student.words[i] if i < student.end else b"" for i in s_ids]
    t_starts = [sum(map(len, t_bytes[:i])) for i in range(len(t_ids))]
    s_starts = [sum(map(len, s_bytes[:i])) for i in range(len(s_ids))]
    start, stop = s_starts[j], s_starts[j] + len(s_bytes[j])
    i = max(i for i in range(len(t_ids)) if t_starts[i] <= start)
    if t_starts[i] not in s_starts:
        return NONE, None, None
    j0 = max(x for x in range(len(s_ids)) if s_starts[x] == t_starts[i])
    read, wanted = s_ids[j0:j], s_ids[j]
    reaching = max([i, *(x for x in range(len(t_ids)) if t_starts[x] < stop)]) + 1
    identical = teacher is student
    out, fate = np.zeros(student.end + 1), {"lost": 0.0, "incompatible": 0.0}

    def give(spelled: list[int], mass: float) -> None:
        if spelled[: len(read)] != read:
            fate["incompatible"] += mass
        elif len(spelled) == len(read):
            fate["lost"] += mass
        else:
            out[spelled[len(read)]] += mass

    for w in range(teacher.end + 1):
        if w != t_ids[i]:
            give(student.encode(teacher.words[w]) if w < teacher.end else [student.end], p[i, w])
    mass, said, x = p[i, t_ids[i]], t_bytes[i], i + 1
    while not identical and x < min(len(t_ids), reaching + DEEPER + 1):
        spelled = student.encode(said)
        for w in range(teacher.end + 1):
            share = mass * p[x, w]
            looked_at = w < teacher.end and w in outputs.top_ids[x] and share >= FLOOR
            if w != t_ids[x]:
                give(student.encode(said + teacher.words[w]) if looked_at else spelled, share)
        mass *= p[x, t_ids[x]]
        if t_ids[x] == teacher.end or (x >= reaching and spelled[: len(read) + 1] == [*read, wanted]):
            break
        said, x = said + t_bytes[x], x + 1
    out[wanted] += mass
    total = out.sum() + fate["lost"] if start > t_starts[i] else 1.0
    rest = fate["lost"] + (fate["incompatible"] if start == t_starts[i] else 0.0)
    return (ANCHORED if start == t_starts[i] else INTERIOR), out / total, rest / total


@settings(max_examples=150, deadline=None, derandomize=True)
@given(vocabularies, vocabularies, texts, st.integers(0, 10**6))
def test_projection_equals_enumeration(teacher: Vocabulary, student: Vocabulary, text: bytes, seed: int):
    """Anchored and interior positions, the realised chain included, with the whole teacher in the head."""
    outputs, student_ids, spans, p = setting(teacher, student, text, seed)
    targets = project(student_ids, spans, outputs, make_map(teacher, student))
    for j in range(len(student_ids)):
        kind, expected, expected_rest = brute_force(teacher, student, text, outputs, p, j)
        assert targets.kinds[j] == kind
        if kind == NONE:
            assert (targets.ids[j] == -1).all()
            continue
        got, rest = distribution(targets, j, student.end + 1)
        np.testing.assert_allclose(got, expected, atol=3e-6)
        assert rest == pytest.approx(expected_rest, abs=3e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(vocabularies, vocabularies, texts, st.integers(0, 10**6), st.integers(1, 5))
def test_cut_head_keeps_its_entries_and_the_rest_is_exact_at_each_temperature(
    teacher: Vocabulary, student: Vocabulary, text: bytes, seed: int, k: int
):
    outputs, student_ids, spans, p = setting(teacher, student, text, seed, k)
    targets = project(student_ids, spans, outputs, make_map(teacher, student))
    for j in np.flatnonzero(targets.kinds == ANCHORED):
        i = np.flatnonzero(outputs.starts == (spans.starts[j] if j < len(spans.ids) else len(text)))[-1]
        head = {*outputs.top_ids[i].tolist(), int(outputs.token_ids[i])}
        outside = p[i, [w for w in range(teacher.end + 1) if w not in head]]
        inside = p.copy()
        inside[i, [w for w in range(teacher.end + 1) if w not in head]] = 0
        _, events, _ = brute_force(teacher, student, text, outputs, inside, int(j))
        for temperature in TEMPERATURE_GRID:
            tail = (outside ** (1 / temperature)).sum()
            normaliser = (events ** (1 / temperature)).sum() + tail
            got, rest = distribution(targets, int(j), student.end + 1, temperature)
            assert rest == pytest.approx(tail / normaliser, abs=2e-5)
            np.testing.assert_allclose(got, events ** (1 / temperature) / normaliser, atol=2e-5)


@pytest.mark.parametrize("read, outside, kind", [(0.25, 0.45, INTERIOR), (0.2, 0.5, NONE), (0.0, 0.0, INTERIOR)])
def test_an_interior_position_of_which_little_is_known_has_no_target(read: float, outside: float, kind: int):
    """The student reads "a" of the teacher's "ab"; what lies outside the head may begin with "a", too."""
    others = (b"aa", b"a ", b"a1", b"1a", b" a")
    teacher, student = Vocabulary((*LETTERS, b"ab", *others)), Vocabulary((*LETTERS,))
    p = np.full((2, teacher.end + 1), 1e-9)
    p[0, teacher.words.index(b"ab")], p[0, teacher.words.index(b"b")] = read or 0.9, 1 - (read or 0.9) - outside
    p[0, -1 - len(others) : -1] = outside / len(others) or 1e-9
    p[1, teacher.end] = 1
    outputs = make_outputs(teacher.spans(b"ab", end=True), np.log(p), 2)
    spans = student.spans(b"ab", end=False)
    targets = project(np.append(spans.ids, student.end).astype(np.int32), spans, outputs, make_map(teacher, student))
    assert targets.kinds.tolist() == [ANCHORED, kind, ANCHORED]
    assert (targets.ids[1] >= 0).any() == (kind == INTERIOR)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equal_tokenizers_give_exact_kl(temperature: float):
    """With one vocabulary and the whole head, the trained-against KL is the full-vocabulary KL of the two models."""
    vocabulary = Vocabulary((*LETTERS, b"ab", b" a", b"ba ", b"11"))
    text = b"ab ba 11 ab"
    outputs, ids, spans, p = setting(vocabulary, vocabulary, text, seed=3)
    targets = project(ids, spans, outputs, make_map(vocabulary, vocabulary))
    assert (targets.kinds == ANCHORED).all()
    logits = torch.randn(len(ids), vocabulary.end + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = collate_targets([(0, 0, targets)], ids[None].astype(np.int64), temperature)
    options = LossOptions(1.0, 0.0, temperature)
    parts = chunked_loss(
        logits, torch.eye(vocabulary.end + 1).double(), None, torch.from_numpy(ids).long(), batch, options
    )
    teacher = (torch.from_numpy(p).log() / temperature).log_softmax(1)
    student = (logits / temperature).log_softmax(1)
    exact = (teacher.exp() * (teacher - student)).sum(1).mean()
    exact_reverse = (student.exp() * (student - teacher)).sum(1).mean()
    assert parts.kd.item() == pytest.approx(exact.item(), abs=1e-6)
    assert parts.reverse_kd.item() == pytest.approx(exact_reverse.item(), abs=1e-5)


def test_a_student_token_over_several_teacher_tokens_gets_their_product():
    """Without the move, a number that the teacher writes digit by digit would look impossible to the student."""
    teacher, student = Vocabulary((b"1", b"0", b"a")), Vocabulary((b"1", b"0", b"a", b"10"))
    p = np.array([[0.6, 0.1, 0.2, 0.1], [0.2, 0.5, 0.1, 0.2], [0.1, 0.1, 0.1, 0.7]])
    outputs = make_outputs(teacher.spans(b"10", end=True), np.log(p), 4)
    targets = project(
        np.array([3, 4], dtype=np.int32), student.spans(b"10", end=False), outputs, make_map(teacher, student)
    )
    got, rest = distribution(targets, 0, 5)
    np.testing.assert_allclose(got, [0.3, 0.1, 0.2, 0.3, 0.1], atol=1e-6)
    assert rest == 0
    np.testing.assert_allclose(distribution(targets, 1, 5)[0], [0.1, 0.1, 0.1, 0, 0.7], atol=1e-6)


def test_the_realised_token_is_an_event_even_outside_the_head():
    teacher = Vocabulary((b"a", b"b", b"1"))
    p = np.array([[0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1]])
    outputs = make_outputs(teacher.spans(b"1", end=True), np.log(p), 2)
    targets = project(
        np.array([2, 3], dtype=np.int32), teacher.spans(b"1", end=False), outputs, make_map(teacher, teacher)
    )
    got, rest = distribution(targets, 0, 4)
    np.testing.assert_allclose(got, [0.5, 0.3, 0.15, 0], atol=1e-6)
    assert rest == pytest.approx(0.05, abs=1e-6)


def test_a_blank_that_the_template_left_to_the_first_token_is_taken_off():
    """LLaVA's first word is "▁red" though the answer is "red": the student must be told of "red", not of " red"."""
    teacher, student = Vocabulary((b"a", b" a", b" b", b"b")), Vocabulary((b"a", b" a", b" b", b"b"))
    spans = Spans(np.array([1, 4], dtype=np.int32), np.array([0, 1], dtype=np.int32), np.array([1, 1], dtype=np.int32))
    p = np.array([[0.1, 0.4, 0.3, 0.1, 0.1], [0.1, 0.2, 0.2, 0.1, 0.4]])
    outputs = make_outputs(spans, np.log(p), 5)
    targets = project(
        np.array([0, 4], dtype=np.int32), student.spans(b"a", end=False), outputs, make_map(teacher, student)
    )
    np.testing.assert_allclose(distribution(targets, 0, 5)[0], [0.5, 0, 0, 0.4, 0.1], atol=1e-6)
    np.testing.assert_allclose(distribution(targets, 1, 5)[0], [0.1, 0.2, 0.2, 0.1, 0.4], atol=1e-6)


def test_a_teacher_token_without_spelling_goes_to_the_rest():
    teacher = Vocabulary((b"a", b"b"))
    token_map = make_map(teacher, teacher)
    outputs = make_outputs(teacher.spans(b"a", end=True), np.log([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.7, 0.1]]), 4)
    targets = project(np.array([0, 2], dtype=np.int32), teacher.spans(b"a", end=False), outputs, token_map)
    got, rest = distribution(targets, 0, 4)  # id 3 is beyond the tokenizer: a padded row of the teacher's head
    np.testing.assert_allclose(got, [0.4, 0.3, 0.2, 0], atol=1e-6)
    assert rest == pytest.approx(0.1, abs=1e-6)


def test_a_response_that_was_cut_short_has_no_end():
    teacher = Vocabulary((b"a", b"b", b"ab"))
    outputs, ids, spans, _ = setting(teacher, teacher, b"abba", seed=0)
    whole = project(ids, spans, outputs, make_map(teacher, teacher))
    cut = project(ids[:2], spans, outputs, make_map(teacher, teacher))
    assert cut.kinds.tolist() == whole.kinds[:2].tolist()
    np.testing.assert_array_equal(cut.ids, whole.ids[:2])
    with pytest.raises(ValueError, match="not of the same text"):
        project(np.array([1, 1], dtype=np.int32), spans, outputs, make_map(teacher, teacher))


def test_a_batch_is_projected_as_its_responses_one_by_one():
    teacher, student = Vocabulary((*LETTERS, b"ab", b"11")), Vocabulary((*LETTERS, b"ba", b" 1"))
    token_map = make_map(teacher, student)
    responses = []
    for seed, text in enumerate([b"abba 11", b"", b"1", b" a b 1ab"]):
        outputs, ids, spans, _ = setting(teacher, student, text, seed, k=4)
        responses.append((ids, spans, outputs))
    for batched, item in zip(project_batch(responses, token_map), responses, strict=True):
        single = project(*item, token_map)
        width = single.ids.shape[1]
        np.testing.assert_array_equal(batched.kinds, single.kinds)
        np.testing.assert_array_equal(batched.ids[:, :width], single.ids)
        np.testing.assert_allclose(batched.logprobs[:, :width], single.logprobs)
        np.testing.assert_allclose(batched.log_tail, single.log_tail)
    assert project_batch([], token_map) == []


def test_what_a_realised_token_without_spelling_leaves_behind_goes_to_the_rest():
    """The student cannot write "1" alone: what the teacher puts on anything but "10" is no event."""
    teacher, student = Vocabulary((b"1", b"0")), Vocabulary((b"0", b"10"))
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    outputs = make_outputs(teacher.spans(b"10", end=True), np.log(p), 3)
    ids = np.array([1, 2], dtype=np.int32)
    token_map = make_map(teacher, student)
    got, rest = distribution(project(ids, student.spans(b"10", end=False), outputs, token_map), 0, 3)
    np.testing.assert_allclose(got, [0.3, 0.3, 0.1], atol=1e-6)
    assert rest == pytest.approx(0.3, abs=1e-6)


def test_a_word_that_goes_on_is_another_token():
    """ " cat" is settled by itself, but the teacher says what may follow: "alog" makes it one token of the student."""
    teacher, student = Vocabulary((b" cat", b"alog", b"s", b" a")), Vocabulary((b" cat", b" catalog", b"s", b" a"))
    p = np.array([[0.7, 0.1, 0.1, 0.05, 0.05], [0.05, 0.3, 0.2, 0.35, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]])
    outputs = make_outputs(teacher.spans(b" cat a", end=True), np.log(p), 5)
    ids = np.array([0, 3, 4], dtype=np.int32)
    targets = project(ids, student.spans(b" cat a", end=False), outputs, make_map(teacher, student))
    got, _ = distribution(targets, 0, 5)
    np.testing.assert_allclose(got, [0.7 * 0.7, 0.7 * 0.3, 0.1, 0.05, 0.05], atol=1e-6)


def test_logits_to_targets_without_a_trainer():
    """What another trainer needs: logits -> cached form -> dense, and cached form -> targets, with real tokenizers."""
    student, text = student_tokenizer(2048), "A red car, 17 apples — naïve."
    spans = tokens.encode_spans(student, text)
    size = len(text.encode())
    ids = np.append(spans.ids, student.eos_token_id)
    said_spans = Spans(ids, np.append(spans.starts, size), np.append(spans.ends, size))
    logits = np.random.default_rng(0).normal(0, 3, (len(ids), len(student)))
    outputs = outputs_from_logits(logits, ids, said_spans, top_k=len(student))
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    np.testing.assert_allclose(dense(outputs, 2.0, len(student)), expected, atol=1e-6)
    (targets,) = student_targets([text], [outputs], student, student)
    assert (targets.kinds == ANCHORED).all()
    known = np.array([word is not None for word in tokens.token_bytes(student)])
    known[student.eos_token_id] = True
    for row in range(len(ids)):
        got, _ = distribution(targets, row, len(student), 2.0)
        np.testing.assert_allclose(got[known], expected[row][known], atol=1e-6)
    cut = outputs_from_logits(logits, ids, said_spans, top_k=5)
    assert dense(cut, 2.0, len(student)).sum(1) == pytest.approx(np.ones(len(ids)), abs=1e-6)
    with pytest.raises(ValueError, match="not in tuple"):
        dense(cut, 2.5, len(student))
