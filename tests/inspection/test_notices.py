"""Each warning appears where it must, and nowhere else: one that cries always is not read."""

from dataclasses import replace

import numpy as np
import pytest

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import Sample
from embervlm.batch.encode import encode
from embervlm.batch.pack import lay_out, pack
from embervlm.data.record import Record
from embervlm.distill.targets import ANCHORED, NONE, ResponseTargets
from embervlm.inspection.gather import WITHOUT_LIMIT, Batch, Seen
from embervlm.inspection.notices import Setting, look
from embervlm.model.processing import build_processor

PROCESSOR = build_processor("tiny")
SHARED = Collator(PROCESSOR).shared
FINE = Setting(length=256, most=256, packed=True, batch_size=4, teachers=1)
RECORDS = [
    Record("a", "one.jpg", "What is it?", "a red square"),
    Record("b", "one.jpg", "How many?", "2"),
    Record("c", "two.jpg", "What is it?", "a blue circle"),
]


def said(encoded, silent=()):
    """A teacher that speaks about all labels but some of the first response."""
    answers = []
    for reply in encoded.responses:
        kinds = np.full(reply.kept(len(encoded.input_ids)), ANCHORED, np.int8)
        kinds[list(silent)] = NONE
        count = len(kinds)
        answers.append(
            ResponseTargets(kinds, np.zeros((count, 1), np.int32), np.zeros((count, 1)), np.zeros((count, 6)))
        )
    return answers


def batch(records, length=256, packed=True, problem="", silent=()):
    seen = []
    for record in records:
        encoded = encode(record, PROCESSOR, length)
        whole = encode(record, PROCESSOR, WITHOUT_LIMIT)
        seen.append(Seen(Sample(record, encoded, None), whole, problem, (said(encoded, silent),)))
    encoded = [one.sample.encoded for one in seen]
    rows = pack(encoded, SHARED, length) if packed else lay_out(encoded, SHARED)
    return Batch(1, tuple(seen), tuple(rows), {record.id: record.image for record in records})


def tags(*batches, **changes):
    return [notice.tag for notice in look(batches, replace(FINE, **changes))]


def only(batches, **changes):
    (notice,) = look(batches, replace(FINE, **changes))
    assert notice.advice
    return notice


def test_a_fine_batch_says_nothing():
    assert tags(batch(RECORDS)) == []


def test_pictures_that_cannot_be_read():
    notice = only([batch(RECORDS[:2], problem="it is a \x1btext")])
    assert notice.tag == "no picture" and "1 picture cannot be read" in notice.said and "␛" in notice.said
    assert notice.records == {"a", "b"} and "--check_images" in notice.advice


def test_records_without_a_label():
    notice = only([batch(RECORDS)], without_labels=("x", "y", "z", "w"), records=9)
    assert notice.tag == "no label" and "4 of 9 records" in notice.said and "x, y, z and 1 more" in notice.said


def test_cut_samples_are_counted_with_what_they_lose():
    whole = encode(RECORDS[0], PROCESSOR, 256)
    length = len(whole.input_ids) - 2
    notice = only([batch([RECORDS[0]], length), batch(RECORDS[1:])], length=length)
    labels = sum((encode(record, PROCESSOR, 256).shift_labels != -100).sum() for record in RECORDS)
    assert "1 of 3 samples (33%)" in notice.said
    assert "2 tokens lost, and 2 of " in notice.said and f"of {labels} labels" in notice.said
    assert notice.records == {"a"} and "up to 256" in notice.advice
    assert "at most: shorten" in only([batch([RECORDS[0]], length)], length=length, most=length).advice


def test_labels_without_a_target():
    lonely = Record("long", None, "Say it.", "one two three")
    count = len(encode(lonely, PROCESSOR, 256).responses[0].ids)
    notice = only([batch([lonely], silent=range(count // 2))])
    assert notice.tag == "no target" and f"{count // 2} of {count} labels" in notice.said
    assert "verify" in notice.advice and notice.records == {"long"}
    assert tags(batch([lonely], silent=[0])) == []  # some may have none
    assert tags(batch([lonely], silent=range(count)), teachers=0) == []  # nobody was asked


def test_a_label_has_a_target_where_any_of_several_teachers_speaks():
    one = batch([Record("long", None, "Say it.", "one two three")], silent=range(3))
    seen = one.seen[0]
    both = replace(one, seen=(replace(seen, said=(seen.said[0], said(seen.sample.encoded))),))
    assert seen.targets == seen.labels - 3 and both.seen[0].targets == seen.labels
    assert tags(both, teachers=2) == []


def test_padding_of_packed_and_plain_rows():
    long, short = Record("long", None, "q " * 60, "a"), Record("short", None, "q", "a")
    half = batch([long, short], len(encode(long, PROCESSOR, 256).input_ids))
    assert len(half.rows) == 2
    notice = only([half], batch_size=2)
    assert notice.tag == "padding" and "--batch_size, here 2" in notice.advice
    assert tags(batch([long, long], packed=False), packed=False) == []
    third = batch([long, short, replace(short, id="other", instruction="r")], packed=False)
    assert only([third], packed=False).advice.startswith("--pack")


def test_a_picture_in_two_rows():
    notice = only([batch(RECORDS[:2], packed=False)], packed=False)
    assert notice.tag == "picture again" and "1 time " in notice.said and "one.jpg" in notice.said
    tight = batch(RECORDS[:2], len(encode(RECORDS[0], PROCESSOR, 256).input_ids))
    assert "raise --max_length" in look([tight], FINE)[0].advice


def test_answers_that_are_the_end_of_text_only():
    notice = only([batch([RECORDS[0], Record("mute", "two.jpg", "Why?", "")])])
    assert notice.tag == "empty answer" and "1 response holds" in notice.said and notice.records == {"mute"}


@pytest.mark.parametrize(("answer", "differ"), [("A red square ", False), ("a dog", True)])
def test_a_question_that_is_asked_twice(answer, differ):
    again = Record("again", "elsewhere/one.jpg", "what  is it?", answer)
    same_name = replace(again, image="one.jpg")
    notice = only([batch([RECORDS[0]]), batch([same_name])])
    assert notice.tag == "asked twice" and ("different answers" in notice.said) is differ
    assert notice.records == {"a", "again"}
    assert tags(batch([RECORDS[0], again])) == []  # another picture


def test_the_same_record_twice_is_no_question_asked_twice():
    assert tags(batch([RECORDS[0]]), batch([RECORDS[0]])) == []
