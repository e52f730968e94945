"""The teacher that ships: small, real, read in the very form in which it was trained, and good."""

import random
import sys
from pathlib import Path

import pytest
from transformers import LlavaForConditionalGeneration

from embervlm.data.prepare import run_prepare
from embervlm.data.settings import LLAVA_SHORT, PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.demo import prepare_words
from embervlm.distill.align import ANCHORED, align
from embervlm.evaluate.answerers import TeacherAnswerer
from embervlm.evaluate.runner import evaluate
from embervlm.model.tokenizer import student_tokenizer
from embervlm.options import parse
from embervlm.teachers.registry import TEACHERS, load_teacher
from embervlm.tokens import encode_spans

FOLDER = Path(TEACHERS["toy-llava"].source)


@pytest.fixture(scope="module")
def teacher():
    return load_teacher("toy-llava")


def test_it_is_small_and_a_real_llava(teacher) -> None:
    assert isinstance(teacher.model, LlavaForConditionalGeneration)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10e6


def test_its_template_writes_what_it_was_trained_on(teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that loses a line break costs accuracy and no test of shapes would notice."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "toy_teacher"))
    for name in ("lessons", "build"):
        sys.modules.pop(name, None)
    from build import CHAT_TEMPLATE
    from lessons import Lessons

    from embervlm.data.toyworld.scene import Difficulty

    assert teacher.processor.chat_template == CHAT_TEMPLATE
    turns = [("What?", "A red star."), ("Where?", "top left")]
    lessons = Lessons(teacher.processor, 1, Difficulty())
    monkeypatch.setattr(lessons, "dialogues", lambda scene: [turns])
    messages = []
    for number, (question, answer) in enumerate(turns):
        asked = [{"type": "image"}] * (number == 0) + [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = teacher.processor.apply_chat_template(messages).replace("<image>", "<image>" * 36)
    assert teacher.tokenizer.encode(text, add_special_tokens=False) == lessons.row().ids


def test_the_line_that_prepare_adds_costs_it_no_answer(teacher) -> None:
    """Trained on bare questions, it answers any other with half a description: 8 right of 100, and nothing stops."""
    asked = [LLAVA_SHORT.replace("{question}", question) for question in ("What color is it?", "Is it?")]
    turns, bare = ((question, "red") for question in asked), (("What color is it?", "red"), ("Is it?", "red"))
    assert teacher._render(tuple(turns), True) == teacher._render(bare, True)


def test_the_world_exercises_alignment() -> None:
    """If every word were one token in both vocabularies, a wrong alignment could not be seen."""
    from embervlm.data.toyworld.scene import sample_scene
    from embervlm.data.toyworld.stories import description

    rng = random.Random(0)
    mine, theirs = student_tokenizer(2048), load_teacher("toy-llava").tokenizer
    kinds = []
    for _ in range(20):
        text = description(sample_scene(rng, "free"))
        kinds += list(align(encode_spans(mine, text), encode_spans(theirs, text)).kinds)
    assert 0.05 < sum(kind != ANCHORED for kind in kinds) / len(kinds) < 0.6


@pytest.mark.slow
def test_it_answers_well(teacher, tmp_path: Path) -> None:
    write_toy(tmp_path / "toy", 20, 100, seed=77)
    prepared = run_prepare(parse(PrepareSettings, prepare_words(tmp_path / "toy", tmp_path / "data")))[1]
    result = evaluate(TeacherAnswerer(teacher), prepared, ("vqa",), name="teacher", batch_size=64, progress=False)
    assert result.vqa["vqa"].overall.accuracy > 0.82
