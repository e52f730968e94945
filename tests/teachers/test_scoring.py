"""Questions about one picture behind a common beginning, against each of them read whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers import passes
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.outputs import TeacherOutputs
from embervlm.teachers.registry import load_teacher
from tests.teachers.qwen_vl.tiny import make_model, save_published
from tests.tiny_families import FAMILIES
from tests.tiny_teacher import make_tiny_teacher

TURNS = (("What color is it?", "red green"), ("Is it a star?", "No, it is not."))
RECORDS = [
    Record("a", "0.png", "What color is the circle?", "red"),
    Record("b", "1.png", "What color is the square?", "green"),
    Record("c", "0.png", *TURNS[0], conversations=TURNS),
    Record("d", None, "Is it?", "Yes."),
    Record("e", "2.png", "How many squares are there?", "12"),
    Record("f", "1.png", "What color is the square?", "blue, déjà vu"),
    Record("g", "0.png", "What color is the circle?", "red"),
    Record("h", "1.png", "Is there a star?", ""),
]
MAKERS: dict[str, Callable[[Path], HFTeacher]] = {
    "llava-1.5": lambda folder: load_teacher(str(make_tiny_teacher(folder))),
    "qwen-vl": lambda folder: load_teacher(str(save_published(make_model(), folder))),
    "qwen-vl-base": lambda folder: load_teacher(str(save_published(make_model(), folder, chat=False))),
    **{name: lambda folder, make=make: make() for name, make in FAMILIES.items()},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two pictures of one size, one of another: Qwen2.5-VL makes other numbers of tokens of them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(((60, 40), (60, 40), (30, 90))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=MAKERS)
def teacher(request, tmp_path_factory) -> HFTeacher:
    return MAKERS[request.param](tmp_path_factory.mktemp("teacher") / "it")


def assert_same(expected: list[list[TeacherOutputs]], found: list[list[TeacherOutputs]], close: float = 1e-3) -> None:
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.record_id, a.turn) == (b.record_id, b.turn)
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            np.testing.assert_array_equal(a.starts, b.starts)
            for column in ("top_logprobs", "log_normalisers", "realised_logprobs"):
                np.testing.assert_allclose(getattr(a, column), getattr(b, column), atol=close)


def counted(teacher: HFTeacher, records: list[Record], root: Path) -> tuple[list[list[TeacherOutputs]], list[tuple]]:
    """Scores, and the shape of every forward pass."""
    shapes: list[tuple] = []
    handle = teacher.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        return teacher.score(records, root, 6), shapes
    finally:
        handle.remove()


def test_a_shared_beginning_gives_the_same_scores(teacher: HFTeacher, root: Path, capsys):
    teacher._scorer.shares_prefix = False
    alone, before = counted(teacher, RECORDS, root)
    teacher._scorer.shares_prefix = True
    assert_same(alone, teacher.score(RECORDS, root, 6))  # and asks itself whether it may
    shared, after = counted(teacher, RECORDS, root)
    assert_same(alone, shared)
    assert teacher._scorer.shares_prefix and "note" not in capsys.readouterr().out
    assert sum(rows * length for rows, length in after) < 0.9 * sum(rows * length for rows, length in before)


def test_more_questions_than_a_pass_holds_read_the_picture_again(teacher: HFTeacher, root: Path):
    records = [replace(RECORDS[0], id=str(number), response="red " * number) for number in range(7)]
    records += [replace(RECORDS[1], id="other"), replace(RECORDS[1], id="one more")]
    whole = teacher.score(records, root, 6)
    teacher.batch_size = 3
    in_parts, shapes = counted(teacher, records, root)
    teacher.batch_size = 32
    assert_same(whole, in_parts)
    assert max(rows for rows, _ in shapes) <= 3


def test_a_model_that_shares_wrongly_is_found_out(root: Path, tmp_path: Path, capsys, monkeypatch):
    """A family that forgets what stands before must not fill a cache with nonsense."""
    from embervlm.teachers import prefix

    teacher = load_teacher(str(make_tiny_teacher(tmp_path)))
    expected = teacher.score(RECORDS, root, 6)
    teacher = load_teacher(str(tmp_path))
    monkeypatch.setattr(prefix._SharedLayer, "update", lambda self, key, value, **_: (
        torch.cat([torch.zeros_like(self.keys[self.owners]), key], -2),
        torch.cat([torch.zeros_like(self.values[self.owners]), value], -2),
    ))  # fmt: skip
    assert_same(expected, teacher.score(RECORDS, root, 6))
    assert "reads a picture again for each question about it" in capsys.readouterr().out
    assert not teacher._scorer.shares_prefix


def test_a_picture_behind_the_question_is_not_shared(root: Path, tmp_path: Path, capsys):
    teacher = load_teacher(str(make_tiny_teacher(tmp_path)))
    picture, text = (
        "{% for item in message['content'] %}{% if item['type'] == '" + kind + "' %}" + what + "{% endif %}{% endfor %}"
        for kind, what in (("image", "<image>\n"), ("text", "{{ item['text'] }}"))
    )
    template = teacher.processor.chat_template
    assert picture + text in template
    teacher.processor.chat_template = template.replace(picture + text, text + picture)
    teacher.score(RECORDS, root, 6)
    assert "the picture comes behind the question" in capsys.readouterr().out


def test_rows_beyond_the_reach_are_read_whole(root: Path, tmp_path: Path):
    """Qwen-VL turns positions by the length of the whole once it is beyond its pre-training's."""
    teacher = load_teacher(str(save_published(make_model(), tmp_path / "it")))
    assert teacher._scorer._reach == 64  # of the tiny one
    long = "There is a red circle beside a blue square. " * 2
    records = [replace(RECORDS[0], id=str(number), response=long + "!" * number) for number in range(3)]
    teacher.score(records[:1], root, 6)  # learns how many tokens a picture has
    scored, shapes = counted(teacher, records, root)
    assert shapes[-1][0] == 3 and shapes[-1][1] > 64
    alone = [teacher.score([record], root, 6)[0] for record in records]
    assert_same(alone, scored, 1e-4)


def test_a_shared_pass_that_does_not_fit_is_halved(root: Path, tmp_path: Path, monkeypatch, capsys):
    teacher = load_teacher(str(make_tiny_teacher(tmp_path)))
    expected = teacher.score(RECORDS, root, 6)
    collect, sizes = teacher._scorer._collect, []

    def small(rows, *arguments):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return collect(rows, *arguments)

    monkeypatch.setattr(teacher._scorer, "_collect", small)
    assert_same(expected, teacher.score(RECORDS, root, 6))
    assert "now reads" in capsys.readouterr().out
    sizes.clear()
    teacher.score(RECORDS, root, 6)
    assert max(sizes) <= 2  # more is not tried again
    monkeypatch.setattr(teacher._scorer, "_collect", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(UserError, match="does not fit into the memory"):
        teacher.score(RECORDS[:1], root, 8)


def test_a_row_that_is_too_long_is_refused_in_a_shared_pass_too(root: Path, tmp_path: Path):
    teacher = load_teacher(str(make_tiny_teacher(tmp_path)))
    with pytest.raises(UserError, match="record long is .* reads 256"):
        teacher.score([RECORDS[0], replace(RECORDS[0], id="long", response="red " * 300)], root, 6)


def _row(key: int, image: str | None, ids: list[int], answer: int) -> passes.Row:
    located = passes.Located(answer, *(np.zeros(answer, dtype=np.int32),) * 3)
    return passes.Row(key, Record(str(key), image, "?", "!"), "", ids, [located])


def test_every_row_is_in_one_pass_within_the_bounds(monkeypatch):
    generator = np.random.default_rng(0)
    rows = []
    for key in range(200):
        image = None if key % 7 == 0 else f"{generator.integers(0, 40)}.png"
        ids = [1, 2, 3, *generator.integers(3, 5, generator.integers(4, 30)).tolist()]
        rows.append(_row(key, image, ids, int(generator.integers(1, len(ids) - 3))))
    monkeypatch.setattr(passes, "TOKENS_AT_ONCE", 400)
    monkeypatch.setattr(passes, "LOGITS_AT_ONCE", 60 * 100)
    found = list(passes.plan_passes(rows, passes.Bounds(rows=12, vocabulary=100, visual=9), share=True))
    assert sorted(row.key for part in found for row in part.rows) == list(range(200))
    for part in found:
        assert len(part.rows) <= 12 and sum(row.positions for row in part.rows) <= 60
        assert len({row.record.image is None for row in part.rows}) == 1
        for group in part.groups:
            assert len({row.record.image for row in group}) == 1
            beginnings = {tuple(row.plain_ids[: part.prefix]) for row in group}
            assert len(beginnings) == 1 and part.prefix <= min(row.first_read for row in group)
            assert part.prefix or len(group) == 1
        rest = max(len(row.plain_ids) for row in part.rows) - part.prefix
        seen = 0 if part.groups[0][0].record.image is None else 9
        beginnings = len(part.groups) * (part.prefix + seen) if part.prefix else 0
        tokens = beginnings + len(part.rows) * (rest + (0 if part.prefix else seen))
        assert tokens <= 400
    assert any(part.prefix and len(part.groups) > 1 for part in found)
    lonely = list(passes.plan_passes(rows, passes.Bounds(rows=12, vocabulary=100, reach=0), share=True))
    assert not any(part.prefix for part in lonely)
