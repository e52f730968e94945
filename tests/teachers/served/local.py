"""What the served teacher is asked in these tests, and how it is compared with the same model in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embervlm.data.record import Record
from embervlm.teachers.manage import strange
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.served import ServedTeacher
from tests.teachers.served.stub import Stub

TURNS = (("Is it red or blue?", "red"), ("Is it red", "No, it is not."), ("Say it", "red"))
RECORDS = [
    Record(id="short", image="0.png", instruction="What color is the circle?", response="red"),
    Record(id="many", image="1.png", instruction=TURNS[0][0], response=TURNS[0][1], conversations=TURNS),
    Record(id="text", image=None, instruction="Is it?", response="Yes, déjà vu, 東京 😀."),
    Record(id="talk", image=None, instruction=TURNS[0][0], response=TURNS[0][1], conversations=TURNS[:2]),
    Record(id="echo", image="0.png", instruction="yes yes ASSISTANT: yes", response="yes"),
    Record(id="blank", image="0.png", instruction="Is it?", response="  yes \n"),
    Record(id="silent", image="0.png", instruction="Say nothing.", response=""),
]


def reach(stub: Stub, root: Path, **options: Any) -> ServedTeacher:
    teacher = load_teacher(stub.url, served_name="tiny", tokenizer=str(root), **options)
    assert isinstance(teacher, ServedTeacher)
    return teacher


def same(served: TeacherOutputs, local: TeacherOutputs, count: int) -> None:
    """All that a server can know."""
    assert (served.record_id, served.turn) == (local.record_id, local.turn) and strange(served) == []
    np.testing.assert_array_equal(served.token_ids, local.token_ids)
    np.testing.assert_array_equal(served.starts, local.starts)
    np.testing.assert_array_equal(served.ends, local.ends)
    np.testing.assert_allclose(served.realised_logprobs, local.realised_logprobs, atol=1e-4)
    at = TEMPERATURE_GRID.index(1.0)
    np.testing.assert_allclose(served.log_normalisers[:, at], 0, atol=1e-4)
    for row in range(len(served)):  # the realised token is one entry more where it is not among the likeliest
        found = dict(zip(served.top_ids[row].tolist(), served.top_logprobs[row].tolist(), strict=True))
        found.pop(-1, None)
        wanted = dict(zip(local.top_ids[row, :count].tolist(), local.top_logprobs[row, :count].tolist(), strict=True))
        assert set(wanted) <= set(found) and set(found) - set(wanted) <= {int(served.token_ids[row])}
        np.testing.assert_allclose([found[token] for token in wanted], list(wanted.values()), atol=1e-4)
