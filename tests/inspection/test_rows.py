"""The picture of a packed row must be of the row that is trained on."""

from rich.console import Console

from embervlm.batch.dataset import Sample
from embervlm.batch.encode import encode
from embervlm.data.record import Record
from embervlm.inspection.rows import Segment, render_row, rows_html, view_rows
from embervlm.model.processing import build_processor

PROCESSOR = build_processor("tiny")
RECORDS = [
    Record("a", "one.jpg", "What?", "red"),
    Record("b [bold]", None, "Say it.", "it"),
    Record("c", "one.jpg", "How many?", "2", (("How many?", "2"), ("Why?", "so"))),
    Record("d", "two<i>.jpg", "Where?", "here"),
]


def rows(length: int):
    return view_rows([Sample(r, encode(r, PROCESSOR, 256), None) for r in RECORDS], PROCESSOR, length)


def test_segments_are_named_and_counted():
    (row,) = rows(256)
    assert [(s.name, s.group, s.is_picture) for s in row.segments] == [
        ("one.jpg", 0, True), ("a", 0, False), ("c", 0, False), ("b [bold]", 1, False), ("two<i>.jpg", 2, True),
        ("d", 2, False),
    ]  # fmt: skip
    assert row.segments[0] == Segment("one.jpg", 0, True, 37, 0)
    alone = {record.id: encode(record, PROCESSOR, 256) for record in RECORDS}
    for segment in row.segments:
        if not segment.is_picture:
            sample = alone[segment.name]
            assert segment.positions == len(sample.input_ids) - (37 if sample.image else 0)
            assert segment.labels == (sample.shift_labels != -100).sum()
    assert row.padding == 0


def test_padding_is_what_the_longest_row_has_more():
    shorter, longer = sorted(rows(90), key=lambda row: sum(s.positions for s in row.segments))
    assert longer.padding == 0
    assert shorter.padding == sum(s.positions for s in longer.segments) - sum(s.positions for s in shorter.segments)


def test_terminal_and_page_show_names_as_they_are():
    console = Console(width=300, record=True, file=open("/dev/null", "w"))
    console.print(render_row(rows(256)[0], 1))
    shown = console.export_text()
    assert "one.jpg 37" in shown and "b [bold]" in shown and "c " in shown and "labels" in shown
    page = rows_html(rows(90))
    assert "two&lt;i&gt;.jpg" in page and "padding" in page and page.count('class="packed"') == 2
