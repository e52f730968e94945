"""Any pair of Hugging Face tokenizers: what a sure teacher says must be what the student reads, at every position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from embervlm import tokens
from embervlm.distill.align import ANCHORED, NONE
from embervlm.distill.project import ResponseTargets, project_batch, student_targets
from embervlm.distill.token_map import TokenMap, build_token_map
from embervlm.distill.variants import TARGETS
from embervlm.model.tokenizer import student_tokenizer
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from tests.test_tokens import Bytes, byte_level, llama, word_piece

STUDENT = student_tokenizer(2000)
FAMILIES: dict[str, Any] = {
    "byte level": byte_level(),
    "byte level, prefix blank": byte_level(add_prefix_space=True),
    "NFC": byte_level(normalizer=normalizers.NFC()),
    "lower case": byte_level(normalizer=normalizers.Lowercase()),
    "SentencePiece, old": llama("normalizer"),
    "SentencePiece, new": llama("metaspace"),
    "WordPiece": word_piece(),
    "bytes of remote code": Bytes(),
    "another GPT-2": student_tokenizer(700),
}
TEXTS = [
    "The quick brown fox jumps in 2019.",
    "def f(x):\n\n\n    return x\n\n\tif y:\n\t\t  pass\n",
    "two  blanks,   three    four \n \n x\r\n\r\ny ",
    "café, naïve façades, 日本 and 🎉🎉 it's we'll",
    "lines\n\nThe lines\nA\n\n\n",
    "x",
    "",
]
END = 0
"""Any teacher token can end a turn here: the spans say where it stands."""


def sure(tokenizer: Any, text: str) -> TeacherOutputs:
    """A teacher that gives the whole probability to what it wrote."""
    spans = tokens.encode_spans(tokenizer, text)
    ids = np.append(spans.ids, END).astype(np.int32)
    size = len(text.encode())
    return TeacherOutputs(
        record_id=text,
        turn=0,
        token_ids=ids,
        starts=np.append(spans.starts, size).astype(np.int32),
        ends=np.append(spans.ends, size).astype(np.int32),
        top_ids=np.stack([ids, np.roll(ids, 1)], axis=1),
        top_logprobs=np.tile(np.array([0.0, -40.0], dtype=np.float32), (len(ids), 1)),
        log_normalisers=np.zeros((len(ids), len(TEMPERATURE_GRID)), dtype=np.float32),
        realised_logprobs=np.zeros(len(ids), dtype=np.float32),
    )


_maps: dict[str, TokenMap] = {}


def targets_of(family: str, text: str, kind: str = "resolved") -> tuple[np.ndarray, ResponseTargets]:
    tokenizer = FAMILIES[family]
    if family not in _maps:
        words = tokens.token_bytes(tokenizer)
        words[END] = None
        _maps[family] = build_token_map(words, family, END, STUDENT)
    spans = tokens.encode_spans(STUDENT, text)
    ids = np.append(spans.ids, np.int32(STUDENT.eos_token_id))
    (targets,) = TARGETS[kind]([(ids, spans, sure(tokenizer, text))], _maps[family])
    return ids, targets


def assert_sure(ids: np.ndarray, targets: ResponseTargets) -> None:
    """Wherever there is a target, it is the student's own token and nothing else."""
    some = targets.kinds != NONE
    np.testing.assert_array_equal(targets.ids[some, 0], ids[some])
    total = np.exp(targets.logprobs[some]).sum(1) + np.exp(targets.log_tail[some, 0])
    np.testing.assert_allclose(np.exp(targets.logprobs[some, 0]) / total, 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["resolved", "strict"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sure_teacher_is_sure_of_the_students_own_token(family: str, kind: str):
    """White space that collapses, characters cut in two, blanks in front: each would give another token here."""
    for text in TEXTS:
        try:
            ids, targets = targets_of(family, text, kind)
        except tokens.UserError:
            assert family in ("NFC", "lower case", "WordPiece") and not text.isascii() or not text.strip()
            continue
        assert_sure(ids, targets)


FAITHFUL = ["byte level", "SentencePiece, new", "bytes of remote code", "another GPT-2"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(FAITHFUL), st.text(st.sampled_from("ab c1\n\t\r.'é日🎉 sT"), max_size=24))
def test_any_text_of_white_space_digits_and_wide_characters(family: str, text: str):
    assert_sure(*targets_of(family, text))


@pytest.mark.parametrize("family", FAITHFUL)
def test_most_positions_have_a_target(family: str):
    kinds = np.concatenate([targets_of(family, text)[1].kinds for text in TEXTS])
    assert (kinds != NONE).mean() > 0.9
    assert targets_of(family, "")[1].kinds.tolist() == [ANCHORED]


def test_white_space_tokens_stay_apart():
    """Spelled as one and the same token, they would cost the student its line breaks."""
    words = [b" ", b"  ", b"    ", b"\n", b"\n\n", b"\t", b"\r\n", b" \n"]
    token_map = build_token_map([None, *words], "teacher", 0, STUDENT)
    alphabet = tokens.token_bytes(STUDENT)
    spelled = [token_map.spelling(1 + i) for i in range(len(words))]
    assert [b"".join(alphabet[i] or b"" for i in ids) for ids in spelled] == words
    assert len({tuple(ids) for ids in spelled}) == len(words)


def line_breaks(words: list[bytes | None], p: np.ndarray, ids: list[int], text: str):
    """The full student's targets [rows of (token, probability)] from a teacher with these words; id 0 ends the turn."""
    student = student_tokenizer()
    token_map = build_token_map(words, "line breaks", 0, student)
    sizes = [len(words[i] or b"") for i in ids]
    ends = np.cumsum(sizes).astype(np.int32)
    outputs = TeacherOutputs(
        record_id="r",
        turn=0,
        token_ids=np.array(ids, dtype=np.int32),
        starts=ends - np.array(sizes, dtype=np.int32),
        ends=ends,
        top_ids=np.tile(np.arange(len(words), dtype=np.int32), (len(ids), 1)),
        top_logprobs=np.log(p).astype(np.float32),
        log_normalisers=np.stack([np.log((p ** (1 / t)).sum(1)) for t in TEMPERATURE_GRID], 1).astype(np.float32),
        realised_logprobs=np.log(p[np.arange(len(ids)), ids]).astype(np.float32),
    )
    spans = tokens.encode_spans(student, text)
    (targets,) = project_batch([(spans.ids, spans, outputs)], token_map)
    rows = zip(targets.ids, np.exp(targets.logprobs), strict=True)
    return [{student.decode([i]): float(q) for i, q in zip(*row, strict=True) if i >= 0} for row in rows]


def test_a_run_of_line_breaks_before_a_word_is_not_the_run_by_itself():
    """The student writes "\n\nThe" as three tokens; two line breaks of the teacher must not become its "\n\n"."""
    p = np.array([[0.05, 0.9, 0.05], [0.1, 0.7, 0.2], [0.8, 0.1, 0.1]])
    told = line_breaks([None, b"\n", b"The"], p, [1, 2, 0], "\nThe")
    assert told[0]["\n"] == pytest.approx(0.9, abs=1e-5)


def test_a_word_after_a_run_of_line_breaks_parts_the_run():
    """The teacher has a token for two line breaks: with a word after it, the student would have begun with one."""
    p = np.array([[0.1, 0.8, 0.1], [0.4, 0.0001, 0.5999]])
    told = line_breaks([None, b"\n\n", b"The"], p, [1, 0], "\n\n")
    assert told[0]["\n\n"] == pytest.approx(0.8 * 0.4, abs=1e-3)
    assert told[0]["\n"] == pytest.approx(0.8 * 0.6, abs=1e-3)


def test_a_teacher_that_lowers_case_is_not_asked_where_it_did():
    """Its "the" is neither "The" nor "the" there: no target, instead of a guess that would unlearn capitals."""
    ids, targets = targets_of("lower case", "The quick THE fox")
    text = [STUDENT.decode([i]) for i in ids]
    asked = dict(zip(text, (targets.kinds != NONE).tolist(), strict=True))
    assert not asked["The"] and not asked[" T"] and asked[" f"]
    assert targets.kinds[-1] == ANCHORED and len(asked) > 4


def test_targets_for_another_trainer_from_two_tokenizers():
    """One call, no trainer: rows are the student's tokens and the EOS; temperatures come from the log-probabilities."""
    teacher, texts = FAMILIES["another GPT-2"], ["two lines\n\nhere", "12 cats"]
    outputs = []
    for text in texts:
        said = sure(teacher, text)
        said.token_ids[-1] = teacher.eos_token_id
        said.top_ids[-1] = teacher.eos_token_id, 5
        outputs.append(said)
    for text, target in zip(texts, student_targets(texts, outputs, teacher, STUDENT), strict=True):
        ids = [*STUDENT(text, add_special_tokens=False)["input_ids"], STUDENT.eos_token_id]
        assert target.ids.shape == target.logprobs.shape and target.log_tail.shape == (len(ids), len(TEMPERATURE_GRID))
        assert_sure(np.array(ids), target)
        assert target.kinds[-1] == ANCHORED


def test_pairing_by_position_names_ranks_and_ends_with_the_shorter():
    ids, targets = targets_of("bytes of remote code", "two  blanks", "uld")
    assert targets.ids[0].tolist() == [0, 1]
    assert (targets.kinds == ANCHORED).all() and len(targets.kinds) == len(ids)
    longer = targets_of("byte level", "日本", "uld")[1]
    assert longer.kinds.tolist() == [ANCHORED] * len(longer.kinds)
