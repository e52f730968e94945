"""Scores of a batch against plain forward passes, one conversation at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers import passes, read_out
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.outputs import TEMPERATURE_GRID, Answer, Sampling
from embervlm.teachers.registry import load_teacher
from tests.tiny_teacher import draw_noise, make_tiny_processor, make_tiny_teacher

TURNS = (("What color is it?", "red green"), ("Is it a star?", "No, it is not."), ("Say nothing.", ""))
RECORDS = [
    Record(id="short", image="0.png", instruction="What color is the circle?", response="red"),
    Record(id="many", image="1.png", instruction=TURNS[0][0], response=TURNS[0][1], conversations=TURNS),
    Record(id="text", image=None, instruction="Is it?", response="Yes, déjà vu, 東京 😀."),
    Record(
        id="long", image="2.png", instruction="What is there?", response="There is a small red circle. " * 3 + "Yes."
    ),
    Record(id="number", image="0.png", instruction="How many squares are there?", response="12"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    make_tiny_teacher(folder)
    draw_noise(folder, 3)
    return folder


@pytest.fixture(scope="module")
def teacher(root: Path) -> HFTeacher:
    loaded = load_teacher(str(root))
    assert isinstance(loaded, HFTeacher)
    return loaded


def plain_logprobs(teacher: HFTeacher, record: Record, root: Path) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities [L, V] and ids of the whole conversation: one row, no padding, no hook, all logits."""
    text = "<s>"
    for number, (human, assistant) in enumerate(record.turns()):
        picture = "<image>\n" if record.image and number == 0 else ""
        text += f"USER: {picture}{human}\nASSISTANT:\n{assistant}</s>"
    images = [Image.open(root / record.image)] if record.image else None
    inputs = teacher.processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        logits = teacher.model(**inputs).logits[0]
    return logits.double().log_softmax(-1), inputs["input_ids"][0].tolist()


def test_forced_logprobs_equal_a_plain_forward_pass(teacher: HFTeacher, root: Path):
    """Every assistant turn, each token and the end of turn, predicted from the position before it."""
    scored = teacher.score(RECORDS, root, top_k=8)
    for record, turns in zip(RECORDS, scored, strict=True):
        logprobs, ids = plain_logprobs(teacher, record, root)
        ends = [at for at, token_id in enumerate(ids) if token_id == teacher.end_of_turn_id]
        assert len(turns) == len(record.turns()) == len(ends)
        for outputs, (_, answer), end in zip(turns, record.turns(), ends, strict=True):
            assert (outputs.record_id, outputs.token_ids[-1]) == (record.id, teacher.end_of_turn_id)
            assert teacher.tokenizer.decode(outputs.token_ids[:-1]) == answer
            begin = end + 1 - len(outputs)
            assert outputs.token_ids.tolist() == ids[begin : end + 1]
            here = logprobs[begin - 1 : end]
            realised = here[torch.arange(len(here)), torch.tensor(ids[begin : end + 1])]
            np.testing.assert_allclose(outputs.realised_logprobs, realised, atol=1e-4)
            top = here.topk(8)
            np.testing.assert_array_equal(outputs.top_ids, top.indices)
            np.testing.assert_allclose(outputs.top_logprobs, top.values, atol=1e-4)
            for column, temperature in enumerate(TEMPERATURE_GRID):
                exact = (here / temperature).logsumexp(-1)
                np.testing.assert_allclose(outputs.log_normalisers[:, column], exact, atol=1e-4)


def test_a_batch_scores_as_one_by_one(teacher: HFTeacher, root: Path):
    together = teacher.score(RECORDS, root, top_k=5)
    for record, turns in zip(RECORDS, together, strict=True):
        (alone,) = teacher.score([record], root, top_k=5)
        for a, b in zip(turns, alone, strict=True):
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            np.testing.assert_allclose(a.top_logprobs, b.top_logprobs, atol=1e-4)
            np.testing.assert_allclose(a.log_normalisers, b.log_normalisers, atol=1e-4)


def test_small_passes_and_blocks_change_nothing(teacher: HFTeacher, root: Path, monkeypatch):
    together = teacher.score(RECORDS, root, top_k=5)
    monkeypatch.setattr(passes, "LOGITS_AT_ONCE", len(teacher.tokenizer) * 12)
    monkeypatch.setattr(read_out, "POSITIONS_AT_ONCE", 3)
    for turns, again in zip(together, teacher.score(RECORDS, root, top_k=5), strict=True):
        for a, b in zip(turns, again, strict=True):
            np.testing.assert_allclose(a.realised_logprobs, b.realised_logprobs, atol=1e-4)


def test_the_picture_matters(teacher: HFTeacher, root: Path):
    """A teacher that never sees the picture would still give tidy numbers."""
    (a,), (b,) = teacher.score([RECORDS[0], replace(RECORDS[0], image="1.png")], root, top_k=5)
    assert np.abs(a.realised_logprobs - b.realised_logprobs).max() > 1e-3


def test_byte_spans_cover_the_answer(teacher: HFTeacher, root: Path):
    for record, turns in zip(RECORDS, teacher.score(RECORDS, root, top_k=2), strict=True):
        for outputs, (_, answer) in zip(turns, record.turns(), strict=True):
            size = len(answer.encode())
            assert outputs.starts[0] == 0 and outputs.starts[-1] == outputs.ends[-1] == size
            np.testing.assert_array_equal(outputs.starts[1:], outputs.ends[:-1])


def test_blanks_around_an_answer_shift_the_spans_and_leave_the_end_unknown(root: Path):
    """A template that trims: the spans must count in the answer as the student reads it."""
    template = make_tiny_processor().chat_template.replace(
        "{{ item['text'] }}{% endif %}{% endfor %}{{ eos", "{{ item['text'] | trim }}{% endif %}{% endfor %}{{ eos"
    )
    trimming = load_teacher(str(root))
    trimming.processor.chat_template = template
    records = [replace(RECORDS[0], response=" red"), replace(RECORDS[0], response="red ")]
    (front,), (back,) = trimming.score(records, root, top_k=2)
    assert front.starts.tolist() == [1, 3, 4] and front.ends.tolist() == [3, 4, 4]
    assert back.starts.tolist() == [0, 2, -1]


def test_generate_equals_greedy_decoding_by_hand(teacher: HFTeacher, root: Path):
    said = teacher.generate(RECORDS, root, max_new_tokens=5)
    for record, answer in zip(RECORDS, said, strict=True):
        text = f"<s>USER: {'<image>' + chr(10) if record.image else ''}{record.turns()[0][0]}\nASSISTANT:\n"
        images = [Image.open(root / record.image)] if record.image else None
        inputs = teacher.processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
        ids = inputs["input_ids"]
        for _ in range(5):
            inputs["input_ids"], inputs["attention_mask"] = ids, torch.ones_like(ids)
            with torch.no_grad():
                best = teacher.model(**inputs).logits[0, -1].argmax()
            if best == teacher.end_of_turn_id:
                break
            ids = torch.cat([ids, best.view(1, 1)], 1)
        prompt = teacher.processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
        new = ids[0, prompt["input_ids"].shape[1] :]
        assert answer == teacher.tokenizer.decode(new, skip_special_tokens=True).strip()


def assert_said(expected: list[Answer], found: list[Answer]) -> None:
    """Word by word; a batch moves its probability in the last digits."""
    assert [(answer.text, answer.finished) for answer in expected] == [(a.text, a.finished) for a in found]
    np.testing.assert_allclose([a.logprob for a in found], [answer.logprob for answer in expected], atol=1e-3)


def test_an_answer_is_the_same_in_any_batch_and_reads_the_turns_before_it(teacher: HFTeacher, root: Path, monkeypatch):
    """Else a run that was stopped would go on with other words; and a reference could give its own answer away."""
    sampling = Sampling(1.5, 0.9, range(len(RECORDS)))
    for drawn in (None, sampling):
        together = teacher.answer(RECORDS, root, 5, drawn)
        monkeypatch.setattr(teacher, "batch_size", 1)
        assert_said(together, teacher.answer(RECORDS, root, 5, drawn))
        monkeypatch.undo()
    last = replace(RECORDS[1], conversations=(*TURNS[:2], (TURNS[2][0], "red red red")))
    other = replace(RECORDS[1], conversations=(("What color is it?", "blue yellow 12"), *TURNS[1:]))
    said, same, moved = teacher.answer([RECORDS[1], last, other], root, 12)
    assert_said([said], [same])
    assert said.text != moved.text


def test_a_batch_of_answers_that_does_not_fit_is_halved(root: Path, monkeypatch, capsys):
    """The answers are the same, drawn ones too; what did not fit is not tried again."""
    teacher = load_teacher(str(root))
    drawn = Sampling(2.0, 1.0, list(range(len(RECORDS))))
    expected = [teacher.answer(RECORDS, root, 6), teacher.answer(RECORDS, root, 6, drawn)]
    ask, sizes = teacher._answer_batch, []

    def small(records, *arguments):
        sizes.append(len(records))
        if len(records) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ask(records, *arguments)

    monkeypatch.setattr(teacher, "_answer_batch", small)
    assert_said(expected[0], teacher.answer(RECORDS, root, 6))
    assert capsys.readouterr().out.count("now answers 2 records at once") == 1 and max(sizes) == 4
    sizes.clear()
    assert_said(expected[1], teacher.answer(RECORDS, root, 6, drawn))
    assert max(sizes) == 2
    monkeypatch.setattr(teacher, "_answer_batch", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(UserError, match="record .* does not fit into the memory of cpu"):
        teacher.answer(RECORDS[:1], root, 6)


def test_a_question_that_leaves_no_room_to_answer_is_refused(teacher: HFTeacher, root: Path):
    """Positions beyond those of the training give words without sense, and no error."""
    with pytest.raises(UserError, match="record long: its prompt is .* reads 256"):
        teacher.generate([RECORDS[0], Record(id="long", image="0.png", instruction="red " * 300, response="")], root, 2)


def test_a_placeholder_in_a_question_is_no_second_picture(teacher: HFTeacher, root: Path):
    (outputs,) = teacher.score([replace(RECORDS[0], instruction="What is <image> here?")], root, top_k=2)
    assert len(outputs) == 1


def test_fingerprint_tells_weights_and_templates_apart(teacher: HFTeacher, root: Path, tmp_path):
    other = load_teacher(str(make_tiny_teacher(tmp_path, seed=1)))
    same = load_teacher(str(root))
    assert teacher.fingerprint() == same.fingerprint()
    assert teacher.fingerprint()["weights"] != other.fingerprint()["weights"]
    assert teacher.fingerprint()["tokenizer"] == other.fingerprint()["tokenizer"]
    same.processor.chat_template += " "
    assert teacher.fingerprint()["template"] != same.fingerprint()["template"]
    in_memory = HFTeacher("made here", teacher.model, teacher.processor)
    assert len(in_memory.fingerprint()["weights"]) == 16


def test_too_long_a_conversation_is_refused(teacher: HFTeacher, root: Path):
    with pytest.raises(UserError, match="record long .*reads 256"):
        teacher.score([Record(id="long", image="0.png", instruction="?", response="red " * 300)], root, top_k=2)


def test_a_processor_that_cuts_the_conversation_is_refused(root: Path, monkeypatch):
    teacher = load_teacher(str(root))
    plain = teacher._inputs
    monkeypatch.setattr(
        teacher, "_inputs", lambda *args, **kw: {key: value[:, :-2] for key, value in plain(*args, **kw).items()}
    )
    with pytest.raises(UserError, match="record short: .*its answers cannot be located"):
        teacher.score(RECORDS[:1], root, top_k=2)


def test_a_missing_picture_is_refused(teacher: HFTeacher, root: Path):
    with pytest.raises(UserError, match="absent.png"):
        teacher.score([replace(RECORDS[0], image="absent.png")], root, top_k=2)


def test_numbers_that_are_none_are_refused(root: Path):
    broken = load_teacher(str(root))
    broken.model.get_output_embeddings().weight.data[7] = float("nan")
    with pytest.raises(UserError, match="record short: .*not numbers"):
        broken.score(RECORDS[:1], root, top_k=2)


def test_no_chat_template_is_refused(root: Path):
    teacher = load_teacher(str(root))
    teacher.processor.chat_template = teacher.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        HFTeacher("base", teacher.model, teacher.processor)


def test_a_template_that_does_not_write_the_answer_is_refused(root: Path):
    teacher = load_teacher(str(root))
    with pytest.raises(UserError, match="does not write the assistant's words"):
        teacher.processor.chat_template = "{{ bos_token }}USER"
        HFTeacher("mute", teacher.model, teacher.processor)
