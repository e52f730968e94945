"""Batches: padding, pictures in order, targets on the positions that they are about."""

from pathlib import Path

import numpy as np
import pytest
import torch

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.encode import IGNORE
from embervlm.batch.memo import Memo
from embervlm.batch.targets import TeacherTargets, from_cache
from embervlm.data.record import Record
from embervlm.distill.targets import build_token_map
from embervlm.errors import UserError
from embervlm.model.processing import build_processor
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.tokens import encode_spans, fingerprint, token_bytes
from tests.train.small_world import make_world

PROCESSOR = build_processor("tiny")
TOKENIZER = PROCESSOR.tokenizer
EOS, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world") / "data") / "images"


def vqa(name, answer="yes", image="red.png", turns=None):
    return Record(name, image, "Is it?", answer, conversations=turns)


def equal_teacher(tops):
    """A teacher with the student's own tokenizer: says `tops` [(token, probability), ...] at every position."""

    def look_up(records):
        said = []
        for record in records:
            outputs = []
            for turn, (_, answer) in enumerate(record.turns()):
                spans = encode_spans(TOKENIZER, answer)
                size = len(answer.encode())
                count = len(spans.ids) + 1
                ids, p = np.array([t for t, _ in tops]), np.array([p for _, p in tops])
                tail = 1 - p.sum()
                normaliser = [np.log((p ** (1 / t)).sum() + tail ** (1 / t)) for t in TEMPERATURE_GRID]
                outputs.append(
                    TeacherOutputs(
                        record.id,
                        turn,
                        np.append(spans.ids, EOS).astype(np.int32),
                        np.append(spans.starts, size).astype(np.int32),
                        np.append(spans.ends, size).astype(np.int32),
                        np.tile(ids, (count, 1)).astype(np.int32),
                        np.tile(np.log(p), (count, 1)).astype(np.float32),
                        np.tile(normaliser, (count, 1)).astype(np.float32),
                        np.full(count, -9.0, dtype=np.float32),
                    )
                )
            said.append(outputs)
        return said

    token_map = build_token_map(token_bytes(TOKENIZER), fingerprint(TOKENIZER), EOS, TOKENIZER)
    return TeacherTargets(look_up, token_map, TOKENIZER)


def test_rows_are_padded_on_the_right_and_padding_is_neither_read_nor_asked_for(root):
    data = RecordDataset([vqa("a"), vqa("b", "a rather long answer, this")], root, PROCESSOR, 256)
    batch = Collator(PROCESSOR)([data[0], data[1]])
    short, long = len(data[0].encoded.input_ids), len(data[1].encoded.input_ids)
    assert batch["input_ids"].shape == (2, long)
    assert (batch["input_ids"][0, short:] == PAD).all()
    assert batch["attention_mask"].sum(1).tolist() == [short, long]
    assert (batch["shift_labels"][0, short:] == IGNORE).all()
    assert batch["shift_labels"][0, :short].tolist() == data[0].encoded.shift_labels.tolist()
    assert batch["targets"] is None


def test_pictures_come_in_the_order_of_the_rows_that_have_one(root):
    records = [vqa("a", image="blue.png"), vqa("t", image=None), vqa("b", image="red.png")]
    data = RecordDataset(records, root, PROCESSOR, 256)
    batch = Collator(PROCESSOR)([data[at] for at in range(3)])
    assert batch["pixel_values"].shape == (2, 3, 96, 96)
    assert torch.equal(batch["pixel_values"][0], data[0].pixels)
    assert torch.equal(batch["pixel_values"][1], data[2].pixels)
    places = (batch["input_ids"] == PROCESSOR.image_token_id).sum(1)
    assert places.tolist() == [36, 0, 36]


def test_a_batch_without_pictures(root):
    data = RecordDataset([vqa("t", image=None)], root, PROCESSOR, 256)
    assert Collator(PROCESSOR)([data[0]])["pixel_values"] is None


def test_targets_lie_on_the_labels_of_their_own_answer(root):
    """Row i of the targets belongs to the i-th label, whatever lies between; all rows must sum to one."""
    turns = (("What?", "a red square"), ("Sure?", "yes"))
    records = [vqa("a", "no"), vqa("b", turns[0][1], turns=turns), vqa("t", "two words", image=None)]
    data = RecordDataset(records, root, PROCESSOR, 256)
    yes, no = encode_spans(TOKENIZER, "yes").ids[0], encode_spans(TOKENIZER, "no").ids[0]
    batch = Collator(PROCESSOR, equal_teacher([(yes, 0.6), (no, 0.3)]), temperature=1.0)([data[at] for at in range(3)])
    targets, labels = batch["targets"], batch["shift_labels"][batch["shift_labels"] != IGNORE]
    assert targets.ids.shape[0] == len(labels) == targets.has_target.sum()
    assert torch.allclose(targets.probs.sum(1) + targets.rest, torch.ones(len(labels)))
    # The realised token is always an event (with what the teacher gave it), so the label is in its own row.
    assert ((targets.ids == labels[:, None]).any(1)).all()


def test_a_cut_row_keeps_the_first_targets(root):
    whole = RecordDataset([vqa("a", "one two three four")], root, PROCESSOR, 256)
    length = len(whole[0].encoded.input_ids)
    cut = RecordDataset([vqa("a", "one two three four")], root, PROCESSOR, length - 2)
    teacher = equal_teacher([(5, 0.5)])
    batch = Collator(PROCESSOR, teacher, 1.0)([cut[0]])
    assert batch["targets"].ids.shape[0] == int((batch["shift_labels"] != IGNORE).sum())
    full = Collator(PROCESSOR, teacher, 1.0)([whole[0]])  # from the memory: not the cut ones
    assert full["targets"].ids.shape[0] == batch["targets"].ids.shape[0] + 2


def test_the_teacher_is_asked_once(root):
    asked = []
    teacher = equal_teacher([(5, 0.5)])
    real = teacher._look_up
    teacher._look_up = lambda records: asked.append([r.id for r in records]) or real(records)
    data = RecordDataset([vqa("a"), vqa("b")], root, PROCESSOR, 256)
    collate = Collator(PROCESSOR, teacher, 2.0)
    first = collate([data[0], data[1]])["targets"]
    again = collate([data[0], data[1]])["targets"]
    assert asked == [["a", "b"]]
    assert torch.equal(first.probs, again.probs)


def test_a_record_that_the_cache_lacks_is_an_error_not_a_row_without_teacher(root):
    class Empty:
        def get(self, record_id):
            return None

    look_up = from_cache(Empty(), Path("outputs/stage2/teacher_outputs"))
    with pytest.raises(UserError, match=r"teacher_outputs has nothing about record a.*cache_teacher_outputs"):
        look_up([vqa("a")])


def test_outputs_about_other_turns_are_refused(root):
    teacher = equal_teacher([(5, 0.5)])
    real = teacher._look_up
    teacher._look_up = lambda records: [outputs[:1] for outputs in real(records)]
    data = RecordDataset([vqa("a", turns=(("q", "yes"), ("q", "no")))], root, PROCESSOR, 256)
    with pytest.raises(UserError, match="Record a has 2 answers.*turns \\[0\\]"):
        Collator(PROCESSOR, teacher, 1.0)([data[0]])


def test_records_without_labels_are_left_out_and_listed(root):
    records = [vqa("fine"), Record("long", "red.png", "word " * 300, "yes")]
    data = RecordDataset(records, root, PROCESSOR, 64)
    assert [record.id for record in data.records] == ["fine"]
    assert data.without_labels == ["long"]
    with pytest.raises(UserError, match="None of the 1 records.*--max_length"):
        RecordDataset(records[1:], root, PROCESSOR, 64)


@pytest.mark.parametrize("image", ["missing.png", "../outside.png", "torn.png"])
def test_a_bad_picture_names_the_record_and_the_file(root, image):
    (root / "torn.png").write_bytes((root / "red.png").read_bytes()[:40])
    data = RecordDataset([vqa("bad", image=image)], root, PROCESSOR, 256)
    with pytest.raises(UserError, match=f"Record bad: .*{image.split('/')[-1]}"):
        data[0]


def test_each_picture_is_decoded_once_while_there_is_room(root, monkeypatch):
    decoded = []
    real = PROCESSOR.image_processor.preprocess
    monkeypatch.setattr(PROCESSOR.image_processor, "preprocess", lambda *a, **k: decoded.append(1) or real(*a, **k))
    records = [vqa("a"), vqa("b"), vqa("c", image="blue.png")]
    # Without any room, still once for neighbours: VQA-v2 asks 5.4 questions of a picture one after the other.
    for budget, expected in ((1 << 30, 2), (0, 4)):
        decoded.clear()
        data = RecordDataset(records, root, PROCESSOR, 256, pixel_bytes=budget)
        for _ in range(2):
            assert len([data[at] for at in range(3)]) == 3
        assert len(decoded) == expected


def test_memo_stops_at_its_budget():
    memo: Memo[str] = Memo(10)
    for key, size in (("a", 6), ("b", 6), ("c", 4)):
        memo.put(key, key, size)
    assert [memo.get(key) for key in "abc"] == ["a", None, "c"]
