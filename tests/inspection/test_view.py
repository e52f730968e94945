"""The example on the screen must not lie: colours by bytes, labels, kinds of targets."""

import numpy as np
from rich.console import Console

from embervlm.batch.encode import encode
from embervlm.data.record import Record
from embervlm.distill.targets import ANCHORED, INTERIOR, NONE, ResponseTargets
from embervlm.inspection.view import count_kinds, render_example, shows_much, view_example
from embervlm.model.processing import build_processor
from embervlm.teachers.outputs import TeacherOutputs

PROCESSOR = build_processor("tiny")
TOKENIZER = PROCESSOR.tokenizer


def teacher(pieces, size, turn=0):
    """Outputs whose tokens cover these byte ranges; the end of turn follows."""
    starts = np.array([*(start for start, _ in pieces), size], dtype=np.int32)
    ends = np.array([*(end for _, end in pieces), size], dtype=np.int32)
    n = len(starts)
    none = np.zeros((n, 1), dtype=np.float32)
    return TeacherOutputs("r", turn, np.arange(n), starts, ends, none.astype(int), none, none, none[:, 0])


def targets(kinds):
    m = len(kinds)
    return ResponseTargets(np.array(kinds, np.int8), np.full((m, 1), -1), np.zeros((m, 1)), np.zeros((m, 6)))


def text(view, **options):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(render_example(view, **options))
    return console.export_text()


def test_tokens_share_a_colour_exactly_where_they_cover_the_same_bytes():
    record = Record("r", "a.png", "What?", "yellow square")
    encoded = encode(record, PROCESSOR, 256)
    student = [token.text for token in view_example(encoded, TOKENIZER).answers[0].student]
    assert student == ["y", "ell", "ow", " s", "qu", "are", "<end>"]
    said = teacher([(0, 6), (6, 13)], 13)  # "yellow", " square"
    (answer,) = view_example(encoded, TOKENIZER, [said], [targets([ANCHORED, INTERIOR, INTERIOR] + [NONE] * 4)]).answers
    assert [token.text for token in answer.teacher] == ["yellow", " square", "<end>"]
    assert [token.colour for token in answer.student] == [0, 0, 0, 1, 1, 1, 2]
    assert [token.colour for token in answer.teacher] == [0, 1, 2]
    assert [token.kind for token in answer.student][:4] == ["anchored", "interior", "interior", "none"]


def test_teacher_boundaries_that_the_student_does_not_share_start_no_colour():
    encoded = encode(Record("r", None, "q", "yellow"), PROCESSOR, 256)  # y|ell|ow
    said = teacher([(0, 2), (2, 4), (4, 6)], 6)  # ye|ll|ow: both cut at byte 4 only
    (answer,) = view_example(encoded, TOKENIZER, [said]).answers
    assert [token.colour for token in answer.student] == [0, 0, 1, 2]
    assert [token.colour for token in answer.teacher] == [0, 0, 1, 2]


def test_an_unknown_span_of_the_teacher_is_shown_as_unknown():
    encoded = encode(Record("r", None, "q", "yellow"), PROCESSOR, 256)
    said = teacher([(-1, -1), (4, 6)], 6)
    (answer,) = view_example(encoded, TOKENIZER, [said]).answers
    assert (answer.teacher[0].text, answer.teacher[0].colour) == ("?", None)


def test_parts_of_a_character_are_written_as_bytes():
    encoded = encode(Record("r", None, "q", "東"), PROCESSOR, 256)
    shown = [token.text for token in view_example(encoded, TOKENIZER).answers[0].student]
    assert shown[-1] == "<end>" and all(piece.startswith("\\x") for piece in shown[:-1])


def test_the_row_is_what_is_read_with_pictures_folded_and_labels_coloured():
    record = Record("r", "a.png", "Q?", "yes", conversations=(("Q?", "yes"), ("R?", "no")))
    row = view_example(encode(record, PROCESSOR, 256), TOKENIZER).row
    names = [token.text for token in row]
    assert names[:2] == ["<|user|>", "<image>×36"]
    coloured = "".join(token.text for token in row if token.colour is not None)
    assert coloured == "yes<end>no<end>"
    assert all(token.colour is None for token in row if token.text in "Q?R")


def test_tokens_that_were_cut_off_are_marked():
    record = Record("r", None, "q", "one two three")
    whole = encode(record, PROCESSOR, 256)
    view = view_example(encode(record, PROCESSOR, len(whole.input_ids) - 1), TOKENIZER)
    assert [token.cut for token in view.answers[0].student][-2:] == [False, True]
    assert view.truncated and "cut at max_length" in text(view)


def test_the_screen_says_all_of_it():
    record = Record("r [bold]", None, "q [red]", "yellow")
    encoded = encode(record, PROCESSOR, 256)
    view = view_example(encoded, TOKENIZER, [teacher([(0, 6)], 6)], [targets([ANCHORED, INTERIOR, NONE, ANCHORED])])
    shown = text(view)
    assert "y|ell|ow|<end>" in shown and "yellow|<end>" in shown
    assert "A|i..|-.|A...." in shown
    assert "anchored" in shown and "anchored" not in text(view, legend=False)
    assert "·[|red|]" in shown.replace("re|d", "red")  # what a person wrote is no markup


def test_shares():
    shares = count_kinds([targets([ANCHORED, ANCHORED, INTERIOR]), targets([NONE])])
    assert (shares.anchored, shares.interior, shares.none, shares.positions) == (2, 1, 1, 4)
    assert str(shares).startswith("50.0% anchored, 25.0% interior, 25.0% without")
    assert str(count_kinds([])).endswith("(0 positions)")


def test_an_example_of_a_dozen_tokens_is_chosen():
    answers = ["a", "a red circle and a blue square on it", "word " * 200]
    encoded = [encode(Record(str(i), None, "q", answer), PROCESSOR, 256) for i, answer in enumerate(answers)]
    assert max(encoded, key=shows_much).record_id == "1"
