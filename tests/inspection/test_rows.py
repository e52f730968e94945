"""The picture of a packed row must be of the row that is trained on."""

from rich.console import Console

from embervlm.batch.collate import Collator
from embervlm.batch.encode import encode
from embervlm.batch.pack import lay_out, pack
from embervlm.data.record import Record
from embervlm.inspection.gather import Batch
from embervlm.inspection.rows import describe, render_row, view_rows
from embervlm.model.processing import build_processor

PROCESSOR = build_processor("tiny")
RECORDS = [
    Record("a", "one.jpg", "What?", "red"),
    Record("b [bold]", None, "Say it.", "it"),
    Record("c", "one.jpg", "How many?", "2", (("How many?", "2"), ("Why?", "so"))),
    Record("d", "two<i>.jpg", "Where?", "here"),
]


SHARED = Collator(PROCESSOR).shared


def rows(length: int | None):
    encoded = [encode(record, PROCESSOR, 256) for record in RECORDS]
    laid = lay_out(encoded, SHARED) if length is None else pack(encoded, SHARED, length)
    return view_rows(Batch(1, (), tuple(laid), {record.id: record.image for record in RECORDS}))


def test_segments_are_named_and_counted():
    (row,) = rows(256)
    assert [(s.name, s.colour, s.is_picture) for s in row.segments] == [
        ("one.jpg", 0, True), ("a", 0, False), ("c", 0, False), ("b [bold]", 1, False), ("two<i>.jpg", 2, True),
        ("d", 2, False),
    ]  # fmt: skip
    picture = row.segments[0]
    assert (picture.positions, picture.labels, picture.runs) == (37, 0, ((37, False),))
    alone = {record.id: encode(record, PROCESSOR, 256) for record in RECORDS}
    for segment in row.segments:
        if not segment.is_picture:
            sample = alone[segment.name]
            asked = (sample.shift_labels != -100)[37 if sample.image else 0 :]
            assert segment.positions == len(asked) and segment.labels == asked.sum()
            # Every stretch with labels, one after the other, is drawn where it is.
            assert [labelled for count, labelled in segment.runs for _ in range(count)] == asked.tolist()
    assert row.padding == 0


def test_a_picture_has_one_colour_in_all_rows_of_a_batch():
    colours = {}
    for row in rows(None):
        for segment in row.segments:
            colours.setdefault(segment.name, set()).add(segment.colour)
    assert len(rows(None)) == 4
    assert colours["one.jpg"] == colours["a"] == colours["c"] == {0}
    assert colours["b [bold]"] == {1} and colours["d"] == {2}


def test_padding_is_what_the_longest_row_has_more():
    shorter, longer = sorted(rows(90), key=lambda row: sum(s.positions for s in row.segments))
    assert longer.padding == 0
    assert shorter.padding == sum(s.positions for s in longer.segments) - sum(s.positions for s in shorter.segments)


def test_the_terminal_shows_names_as_they_are():
    console = Console(width=300, record=True, file=open("/dev/null", "w"))
    console.print(render_row(rows(256)[0], 1))
    shown = console.export_text()
    assert "one.jpg 37" in shown and "b [bold]" in shown and "c " in shown and "labels" in shown
    assert describe(rows(90)[0].segments[0]) == "one.jpg 37"
