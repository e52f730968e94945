"""A run never differs from its flags in silence."""

import pytest

from embervlm.train.precision import Precision, choose_precision


@pytest.mark.parametrize(
    ("flags", "machine", "expected", "said"),
    [
        ((True, False), (False, False), (False, False), "--fp16 needs a GPU"),
        ((False, True), (False, False), (False, False), "--bf16 needs a GPU"),
        ((False, True), (True, False), (True, False), "no bf16; fp16"),
        ((True, True), (True, True), (False, True), "bf16 is used"),
        ((True, False), (True, True), (True, False), None),
        ((False, True), (True, True), (False, True), None),
        ((False, False), (False, False), (False, False), None),
    ],
)
def test_flags_on_machines(flags, machine, expected, said):
    found = choose_precision(*flags, *machine)
    assert (found.fp16, found.bf16) == expected
    assert (found.note is None) == (said is None)
    assert said is None or said in found.note
    assert isinstance(found, Precision)
